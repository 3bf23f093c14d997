"""Directions of each client's own: what is probed, recorded and applied, against plain float64 and against pins."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl.federation import Traffic, WeightedMean
from hiso_pl.zeroth_order import (
    Aggregation,
    Diagonal,
    Identity,
    Linear,
    Mean,
    Method,
    Momentum,
    PerTensor,
    Preconditioner,
    RoundRecord,
    Scalar,
    Slots,
    Steps,
    Weighing,
    ZerothOrderOptimizer,
)
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.streams import Site, direction

F, D = np.float32, np.float64
SEED, LR, MU, CLIENTS, P, ROUNDS = 2**63 + 5, 0.05, 2.0**-7, 3, 4, 4
SHAPES = {"weight": (5, 3), "bias": (5,)}
WEIGHTS = (3.0, 10.0, 4.0)
LEFT_OUT = {2: (1,)}  # by round


class Halving(Preconditioner):
    """A structured one: what it divides goes by buffer."""

    structured = True

    def initial(self, parameter, target):
        return torch.ones(2, dtype=torch.float32)

    def divide(self, values, hessian):
        return values * hessian[0] * 0.5

    def advance(self, hessian, steps, target):
        hessian.mul_(0.75)


PRECONDITIONERS = {"none": Identity, "diagonal": Diagonal, "scalar": Scalar, "tensor": PerTensor, "buffer": Halving}


def bowl(x, slot, r, k):
    """The loss of a client: the same number wherever it is computed, as its sum is exact and rounded once."""
    flat = torch.cat([v.reshape(-1) for v in x]).double().numpy()
    away = flat - 0.125 * np.arange(len(flat)) % (2 + slot) + 0.25 * k - 0.0625 * r
    return math.fsum((away * away).tolist()) / len(flat)


@pytest.fixture
def rounds(optimizer_of, fixed):
    """Runs rounds of bowls; in round 2 a client is left out."""

    def rounds(slots=None, weights=WEIGHTS, directions="client", **options):
        start = [(name, fixed(shape, salt)) for salt, (name, shape) in enumerate(SHAPES.items())]
        optimizer = optimizer_of(
            start, **{"lr": LR, "mu": MU, "num_directions": P, "seed": SEED, "directions": directions, **options}
        )
        x, records, reports, states = optimizer.parameters, [], [], [[v.clone() for v in optimizer.parameters]]

        def loss(slot, r):
            out = slot in LEFT_OUT.get(r, ())
            return lambda k: torch.tensor(math.nan if out else bowl(x, slot, r, k), dtype=torch.float32)

        slots = slots or Slots(CLIENTS, tuple(range(CLIENTS)), tuple(range(CLIENTS)), weights)
        for r in range(ROUNDS):
            optimizer.step(losses=[loss(slot, r) for slot in slots.own], slots=slots)
            records.append(optimizer.record)
            reports.append(optimizer.report)
            states.append([v.clone() for v in x])
        return optimizer, records, reports, states

    return rounds


def directions_of(slot, r, k, root):
    """z of a slot's P directions in float64, each over all tensors."""
    shapes = enumerate(SHAPES.values())
    sites = [(Site(SEED, "normal", t, r), math.prod(shape)) for t, shape in shapes]
    return [
        np.concatenate([direction(site, k, slot * P + p, 0, n) for site, n in sites]).astype(D) / root for p in range(P)
    ]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("kind", ["none", "diagonal"])
def test_a_round_is_the_mean_of_what_clients_find_along_directions_of_their_own(
    rounds, kind, tau, difference, weighted
):
    """The oracle walks each client in float64 and averages what the clients find; it knows no record of m P."""
    nu, eps, floor = 0.3, 1e-3, 1e-3
    options = {"preconditioner": Diagonal(nu, eps, floor)} if kind == "diagonal" else {"preconditioner": Identity()}
    if weighted:
        options["aggregation"] = WeightedMean()
    _, records, reports, states = rounds(local_steps=tau, difference=difference, **options)
    n = WEIGHTS if weighted else (1.0,) * CLIENTS
    hessian = np.ones(20)
    for r in range(ROUNDS):
        x = np.concatenate([v.numpy().reshape(-1) for v in states[r]]).astype(D)
        root, out = np.sqrt(hessian), LEFT_OUT.get(r, ())
        present = [slot for slot in range(CLIENTS) if slot not in out]
        mass, estimate = sum(n[slot] for slot in present), np.zeros((tau, 20))
        for slot in present:
            local = x.copy()
            for k in range(tau):
                z, found = directions_of(slot, r, k, root), []
                for p in range(P):
                    at = [torch.from_numpy(local + sign * MU * z[p]) for sign in (1, 0, -1)]
                    f = [bowl([v], slot, r, k) for v in at]
                    found.append((f[0] - f[1]) / MU if difference == "forward" else (f[0] - f[2]) / (2 * MU))
                np.testing.assert_allclose(reports[r].sent[slot, k], found, rtol=2e-3, atol=2e-3)
                step = sum(g * d for g, d in zip(found, z, strict=True)) / P
                estimate[k] += n[slot] / mass * step
                local -= LR * step
        moved = np.concatenate([v.numpy().reshape(-1) for v in states[r + 1]]).astype(D)
        np.testing.assert_allclose(moved, x - LR * estimate.sum(axis=0), rtol=1e-3, atol=3e-4)
        if kind == "diagonal":
            hessian = np.maximum((1 - nu) * hessian + nu * (estimate[-1] ** 2 + eps), floor)
        # the record, to the bit, from what was sent
        assert records[r].scalars.shape == (tau, CLIENTS * P)
        assert tuple(records[r].dropped) == out
        for slot in range(CLIENTS):
            mine = records[r].scalars[:, slot * P : slot * P + P]
            sent = reports[r].sent[slot].astype(D)
            expected = np.zeros((tau, P), F) if slot in out else (sent * (CLIENTS * n[slot]) / mass).astype(F)
            assert np.array_equal(mine, expected)


def test_weights_multiply_before_they_are_divided_by():
    """A number near the middle of two of fp32, where g (m n) / s and g (m n / s) are not the same."""
    sent = np.full((4, 1, 1), 16177245.0, dtype=F)
    found = WeightedMean().side_by_side(sent, np.ones(4, dtype=bool), np.array([31.0, 10.0, 9.0, 10.0]))
    assert found[0, 0] == F(16177245.0 * 124.0 / 60.0) != F(16177245.0 * (124.0 / 60.0))


@pytest.mark.parametrize("rule", [None, Momentum(0.7)])
@pytest.mark.parametrize("kind", PRECONDITIONERS)
@pytest.mark.parametrize("tau", [1, 3])
def test_records_alone_rebuild_the_state_and_need_not_know_whose_directions_they_are(
    rounds, optimizer_of, fixed, kind, rule, tau
):
    options = {"preconditioner": PRECONDITIONERS[kind](), "local_steps": tau}
    options |= {} if rule is None else {"update_rule": rule}
    optimizer, records, *_ = rounds(**options)
    start = [(name, fixed(shape, salt)) for salt, (name, shape) in enumerate(SHAPES.items())]
    plain = optimizer_of(start, lr=LR, seed=SEED, backend="reference", **options)
    assert plain.method.directions == "shared"
    for record in records:
        plain.apply(RoundRecord.of_data(record.as_data()))
    assert digest(plain) == digest(optimizer)


@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("kind", ["diagonal", "buffer"])
def test_ways_of_carrying_a_round_out_give_the_same_bits(rounds, kind, tau, difference):
    options = {"preconditioner": PRECONDITIONERS[kind](), "local_steps": tau, "difference": difference}
    everyone, clients = tuple(range(CLIENTS)), (5, 0, 2)
    usual = Slots(CLIENTS, everyone, clients, WEIGHTS)
    found = [
        rounds(usual, **options),
        rounds(usual._replace(shares=((0, 1),) * CLIENTS), **options),
        rounds(usual._replace(own=(2, 0, 1)), **options),  # the losses of another order of slots
        rounds(usual, backend="reference", **options),
        rounds(usual, backend="torch", **options),
        rounds(usual, memory="low", **options),
    ]
    assert len({digest(optimizer) for optimizer, *_ in found}) == 1


def test_a_cohort_of_one_has_no_other_directions_than_shared_ones(rounds):
    alone = Slots(1, (0,), (0,), (1.0,))
    own, shared = (rounds(alone, directions=word, local_steps=2)[0] for word in ("client", "shared"))
    assert digest(own) == digest(shared)
    assert own.report.bits == shared.report.bits


def test_several_points_in_one_forward_pass(fixed):
    def run(shares=(), **options):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).requires_grad_(False).eval()
        network[0].requires_grad_(True)
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        optimizer = ZerothOrderOptimizer(
            trained, lr=LR, num_directions=P, seed=SEED, network=network, directions="client", local_steps=2, **options
        )
        inputs = [fixed((4, 6), salt) for salt in range(CLIENTS)]
        slots = Slots(CLIENTS, (0, 1, 2), (0, 1, 2), WEIGHTS, shares)
        for _ in range(ROUNDS):
            optimizer.step(losses=[lambda k, x=x: (network(x) ** 2).mean() for x in inputs], slots=slots)
        return optimizer

    apart, together = run(), run(directions_per_forward=3)
    np.testing.assert_allclose(together.report.sent, apart.report.sent, rtol=1e-2, atol=1e-3)
    assert digest(run(((0, 1),) * CLIENTS, directions_per_forward=3)) == digest(together)


@pytest.mark.parametrize("backend", ["reference", "numba", "torch"])
@pytest.mark.parametrize("kind", ["none", "diagonal", "scalar"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"local_steps": 3, "difference": "central", "distribution": "rademacher"},
        {
            "local_steps": 2,
            "aggregation": WeightedMean(),
            "update_rule": Momentum(0.7),
            "num_directions_schedule": Steps([1, 3], [2, 5]),
        },
    ],
    ids=["plain", "central", "weighted"],
)
def test_rounds_give_the_pinned_digest(rounds, pins, request, kind, options, backend):
    case = request.node.callspec.id.removesuffix(f"-{backend}").rpartition("-")[0]
    optimizer, *_ = rounds(preconditioner=PRECONDITIONERS[kind](), backend=backend, **options)
    pins.hold(f"{case} {kind}", digest(optimizer))


def test_they_are_all_different(pins):
    assert len(set(pins.table.values())) == len(pins.table) == 9


# What it costs


@pytest.mark.parametrize("tau", [1, 3])
def test_what_goes_up_is_as_before_and_what_comes_down_is_m_times_as_much(rounds, tau):
    optimizer, records, reports, _ = rounds(local_steps=tau)
    assert reports[-1].bits == (32 * tau * P, 32 * tau * CLIENTS * P, True)
    assert reports[-1].num_directions == P
    assert Method.bits_of(optimizer.method.as_data(), records[-1]) == reports[-1].bits
    traffic = Traffic()
    traffic.record(6, CLIENTS, reports[-1].bits)
    assert traffic.paper_bytes == 4 * tau * P * (1 + CLIENTS)
    assert traffic.protocol_bytes == 4 * tau * P * (CLIENTS / 6 + CLIENTS)
    shared, others, *_ = rounds(local_steps=tau, directions="shared")
    assert Method.bits_of(shared.method.as_data(), others[-1]) == (32 * tau * P, 32 * tau * P, True)
    assert "directions" not in shared.method.as_data()  # what is written of it is what was always written


# What cannot be


class Median(Aggregation):
    def __call__(self, scalars, present, weights):
        return np.median(scalars[present], axis=0).astype(np.float32)


class Trimming(Mean):
    """Says how it weighs, and does something else."""

    def __call__(self, scalars, present, weights):
        return np.median(scalars[present], axis=0).astype(np.float32)


class Odd(Weighing):
    def weights_of(self, slots, weights):
        return np.arange(1.0, slots + 1.0)


class Short(Weighing):
    def weights_of(self, slots, weights):
        return np.ones(slots - 1)


@pytest.mark.parametrize("kind", [Median, Trimming])
def test_what_compares_slots_is_refused(kind):
    assert Method(aggregation=kind()).directions == "shared"
    with pytest.raises(ValueError, match=rf"^aggregation={kind.__name__}\(\) compares .* directions='client' must be"):
        Method(aggregation=kind(), directions="client")


def test_another_way_of_weighing_is_not(rounds):
    _, records, reports, _ = rounds(aggregation=Odd())
    expected = (reports[0].sent[1].astype(D) * (3 * 2.0) / 6.0).astype(F)
    assert np.array_equal(records[0].scalars[:, P : 2 * P], expected)
    with pytest.raises(ValueError, match=r"aggregation=Short\(\) gave weights of shape \(2,\), must give \(3,\)"):
        rounds(aggregation=Short())


def test_a_word_that_is_none():
    with pytest.raises(ValueError, match="directions='mine' must be one of shared, client"):
        Method(directions="mine")


def test_directions_of_a_cohort_have_14_bits_in_every_round_of_a_run():
    growing = Method(
        directions="client", num_directions=5, num_directions_schedule=Linear(final=2000.0, rounds=100), local_steps=2
    )
    growing.check_rounds(cohort=8, rounds=range(100))
    said = r"num_directions=1641 in round 82 and directions='client' make 16410 of a cohort of 10, must be below 16384"
    with pytest.raises(ValueError, match=said):
        growing.check_rounds(cohort=10, rounds=range(100))
    growing.check_rounds(cohort=10, rounds=range(82))
    Method(num_directions=5000).check_rounds(cohort=100, rounds=range(10))
    with pytest.raises(ValueError, match=r"mu=0\.0 in round 50 must be finite and positive"):
        Method(mu=1.0, mu_schedule=Linear(final=-0.2, rounds=60)).check_rounds(cohort=1, rounds=range(61))


def test_a_plain_loop_is_told_before_anything_is_evaluated(optimizer_of, fixed):
    optimizer = optimizer_of([("x", fixed((5,), 0))], num_directions=6000, directions="client")
    with pytest.raises(ValueError, match="make 18000 of a cohort of 3"):
        optimizer.step(losses=[lambda k: pytest.fail("evaluated")] * 3)
    assert optimizer.round == 0
