"""Attacks: each against a loop of its own, what they leave alone, who is hostile, and runs under attack."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from hiso_pl.federation import (
    ALIE,
    IPM,
    Attack,
    ConstantDrift,
    Gaussian,
    LabelFlip,
    MajorityVote,
    Quantize,
    Replay,
    Scaling,
    Sign,
    SignFlip,
    WeightedMean,
)
from hiso_pl.federation.attacks.alie import usual_z
from hiso_pl.zeroth_order import Identity, LocalExchange, Method, RoundRecord, Slots, Steps, ZerothOrderOptimizer
from hiso_pl.zeroth_order.attack import LARGEST, Scene
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.philox import Purpose
from hiso_pl.zeroth_order.streams import Site, counter_words, normals

SEED = 2**63 + 5
SCALARS = (3 * np.random.default_rng(0).standard_normal((7, 2, 3))).astype(np.float32)
SCALARS[4] = np.nan
PRESENT = np.arange(7) != 4
CLIENTS = (9, 3, 5, 0, 7, 1, 8)
HOSTILE = [5, 1, 7]  # in slots 2, 5 and, not there, 4
BEFORE = RoundRecord(2, 0.1, 1e-3, np.float32([[1.5, -2.0], [0.25, 3.0]]), 7)
SCENE = Scene(SEED, 3, CLIENTS, 10, BEFORE)
HONEST = [0, 1, 3, 6]


def loops(attack: Attack) -> NDArray[np.float64]:
    """What slots 2 and 5 send, scalar by scalar in Python's numbers."""
    found = np.zeros((2, 2, 3))
    for place, slot in enumerate((2, 5)):
        for k in range(2):
            for p in range(3):
                own = float(SCALARS[slot, k, p])
                others = [float(SCALARS[j, k, p]) for j in HONEST]
                mean = sum(others) / 4
                if isinstance(attack, SignFlip):
                    value = -own
                elif isinstance(attack, Scaling):
                    value = attack.factor * own
                elif isinstance(attack, ConstantDrift):
                    value = own + attack.drift
                elif isinstance(attack, Gaussian):
                    site = Site(SEED, "normal", CLIENTS[slot], 3)
                    drawn = normals(counter_words(np.array([0]), site, k, p, Purpose.ATTACK))[0, 0]
                    value = attack.scale * float(drawn)
                elif isinstance(attack, IPM):
                    value = -attack.epsilon * mean
                elif isinstance(attack, ALIE):
                    z = (
                        0.0 if attack.z is None else attack.z
                    )  # 6 slots, 2 hostile: s = 2 of 4, half of which is below 0
                    value = mean - z * math.sqrt(sum((x - mean) ** 2 for x in others) / 3)
                elif isinstance(attack, Replay):
                    value = float(BEFORE.scalars[k, p % 2])
                else:
                    value = own
                found[place, k, p] = value
    return found


@pytest.mark.parametrize(
    "attack",
    [
        SignFlip(clients=HOSTILE),
        Scaling(clients=HOSTILE, factor=-7.5),
        ConstantDrift(clients=HOSTILE, drift=0.3),
        Gaussian(clients=HOSTILE, scale=0.7),
        IPM(clients=HOSTILE, epsilon=1.3),
        ALIE(clients=HOSTILE),
        ALIE(clients=HOSTILE, z=1.5),
        Replay(clients=HOSTILE),
        LabelFlip(clients=HOSTILE),
    ],
    ids=repr,
)
def test_an_attack_is_its_loop_and_leaves_honest_slots_alone(attack: Attack) -> None:
    given = SCALARS.copy()
    sent, hostile = attack.attacked(given, PRESENT, SCENE)
    assert np.flatnonzero(hostile).tolist() == [2, 5]
    assert sent.dtype == np.float32
    np.testing.assert_allclose(sent[[2, 5]], loops(attack).astype(np.float32), rtol=2e-7)
    assert given.tobytes() == SCALARS.tobytes()
    rest = [0, 1, 3, 4, 6]
    assert sent[rest].tobytes() == SCALARS[rest].tobytes()  # to the bit, what is no number included
    again, _ = attack.attacked(SCALARS, PRESENT, SCENE)
    assert again.tobytes() == sent.tobytes()


@pytest.mark.parametrize("attack", [IPM(clients=list(CLIENTS)), ALIE(clients=list(CLIENTS), z=2.0)])
def test_without_an_honest_slot_they_go_by_their_own_scalars(attack: Attack) -> None:
    rows = SCALARS[PRESENT].astype(np.float64)
    mean = rows.mean(axis=0)
    wanted = -0.5 * mean if isinstance(attack, IPM) else mean - 2.0 * rows.std(axis=0, ddof=1)
    sent, hostile = attack.attacked(SCALARS, PRESENT, SCENE)
    assert hostile.tolist() == PRESENT.tolist()
    for slot in np.flatnonzero(PRESENT):
        np.testing.assert_allclose(sent[slot], wanted, rtol=1e-6)


@pytest.mark.parametrize("slots", range(2, 60, 7))
def test_z_leaves_a_majority_with_the_honest_slots_that_lie_further_out(slots: int) -> None:
    for hostile in range(1, slots):
        honest, z = slots - hostile, usual_z(slots, hostile)
        supporters = max(slots // 2 + 1 - hostile, 1)
        assert math.isfinite(z)
        if honest > 1:
            assert (1 + math.erf(z / math.sqrt(2))) / 2 == pytest.approx(1 - supporters / honest, abs=1e-6)
    assert usual_z(50, 24) == pytest.approx(1.4261, abs=1e-4)


def test_what_is_sent_is_kept_within_fp32() -> None:
    class Wild(Attack):
        def __call__(self, scalars: Any, hostile: Any, present: Any, scene: Any) -> Any:
            return np.array([[[np.nan, np.inf, -np.inf]] * 2, [[1e39, -1e300, -0.0]] * 2])

    sent, _ = Wild(clients=HOSTILE).attacked(SCALARS, PRESENT, SCENE)
    assert sent[2, 0].tolist() == [0.0, LARGEST, -LARGEST]
    assert sent[5, 1].tolist() == [LARGEST, -LARGEST, 0.0]
    assert not np.signbit(sent[5, 1, 2])
    huge, _ = Scaling(clients=HOSTILE, factor=1e300).attacked(SCALARS, PRESENT, SCENE)
    assert (np.abs(huge[[2, 5]]) == LARGEST).all()

    class Small(Wild):
        def __call__(self, scalars: Any, hostile: Any, present: Any, scene: Any) -> Any:
            return np.zeros((1, 2, 3))

    with pytest.raises(ValueError, match=r"attack=Small\(.*\) gave shape \(1, 2, 3\), must give \(2, 2, 3\)"):
        Small(clients=HOSTILE).attacked(SCALARS, PRESENT, SCENE)


def test_noise_is_a_normal_sample_of_a_stream_of_its_own() -> None:
    clients = tuple(range(50))
    scene = Scene(SEED, 3, clients, 50, None)
    noise, _ = Gaussian(1.0, scale=1.0).attacked(np.zeros((50, 20, 30), np.float32), np.ones(50, bool), scene)
    values = noise.astype(np.float64).ravel()
    assert abs(values.mean()) < 4 / math.sqrt(values.size)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / values.size)
    later, _ = Gaussian(1.0, scale=1.0).attacked(np.zeros_like(noise), np.ones(50, bool), scene._replace(round=4))
    assert abs(np.corrcoef(values, later.ravel())[0, 1]) < 4 / math.sqrt(values.size)
    assert len(np.unique(values)) > 0.99 * values.size  # no two slots, steps or directions have the same
    assert noise[:2, 0, :2].view(np.uint32).tolist() == [[0x3F084136, 0xBF68A800], [0xBDD50FA9, 0x4001E281]]  # a pin


def test_who_is_hostile_is_drawn_once_and_named_ones_must_be_there() -> None:
    attack = SignFlip()
    assert attack.hostile(7, 8).tolist() == [3, 7]  # a pin
    assert [len(SignFlip(f).hostile(7, 8)) for f in (0.0, 0.06, 0.0625, 0.5, 1.0)] == [0, 0, 1, 4, 8]
    many = SignFlip(0.3).hostile(7, 10**5)
    assert len(set(many.tolist())) == 30000
    assert SignFlip(0.3).hostile(7, 10**5) is many  # asked in every round, drawn once
    assert not many.flags.writeable
    assert SignFlip(0.3).among(many[[5, 17]].tolist(), 7, 10**5, 0).all()
    assert SignFlip(clients=[6, 2]).among([2, 3, 6, 7], 7, 8, 0).tolist() == [True, False, True, False]
    late = SignFlip(clients=[6, 2], start=5)
    assert not late.among([2, 6], 7, 8, 4).any()
    assert late.among([2, 6], 7, 8, 5).all()
    with pytest.raises(ValueError, match=r"attack\.clients=\[8\] must be below clients=8"):
        SignFlip(clients=[8]).hostile(7, 8)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fraction": 1.5}, r"attack\.fraction=1\.5 must be in \[0, 1\]"),
        ({"fraction": math.nan}, r"attack\.fraction=nan must be"),
        ({"clients": [1, 1]}, r"attack\.clients=\[1, 1\] must be numbers of clients, from 0 on, each once"),
        ({"clients": [-1]}, r"attack\.clients=\[-1\] must be"),
        ({"clients": []}, r"attack\.clients=\[\] must be"),
        ({"clients": [1], "fraction": 0.5}, r"fraction=0\.5 and attack\.clients=\[1\] exclude each other"),
        ({"start": -1}, r"attack\.start=-1 must be a round"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SignFlip(**options)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gaussian(scale=-1.0), r"attack\.scale=-1\.0 must not be negative"),
        (lambda: Gaussian(scale=math.inf), r"attack\.scale=inf must be a finite number"),
        (lambda: Scaling(factor=math.nan), r"attack\.factor=nan must be"),
        (lambda: Scaling(factor=10**400), r"attack\.factor=10000.* must be a finite number"),
        (lambda: ConstantDrift(drift=math.inf), r"attack\.drift=inf must be"),
        (lambda: IPM(epsilon=math.nan), r"attack\.epsilon=nan must be"),
        (lambda: ALIE(z=math.inf), r"attack\.z=inf must be"),
        (lambda: Method(attack=ALIE(), directions="client"), r"attack=ALIE\(.*directions='client' must be 'shared'"),
        (lambda: Method(attack=IPM(), directions="client"), r"attack=IPM\(.*directions='client' must be 'shared'"),
    ],
)
def test_numbers_and_methods_that_cannot_be_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# Runs


def losses_of(model: nn.Module, clients: tuple[int, ...], own: tuple[int, ...], round: int) -> list[Any]:
    """A bowl for each client, which differs between rounds and local steps."""

    def bowl(client: int, k: int) -> torch.Tensor:
        return sum(((p - 0.1 * client - 0.03 * k - 0.01 * round) ** 2).sum() for p in model.parameters())  # type: ignore[return-value]

    return [lambda k, c=clients[slot]: bowl(c, k) for slot in own]


def linear() -> nn.Linear:
    """A model that no random state goes into, which threads would share."""
    model = nn.Linear(4, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1.0, 1.0, p.numel()).reshape(p.shape))
    return model


def cohort(round: int) -> tuple[int, ...]:
    return tuple((round + j) % 6 for j in range(4))


def run(rounds: int = 4, own: tuple[int, ...] = (0, 1, 2, 3), exchange: Any = None, shares: Any = (), **options: Any):
    model = linear()
    optimizer = ZerothOrderOptimizer(
        model.named_parameters(), seed=SEED, lr=0.02, num_directions=3, exchange=exchange, **options
    )
    rest = go_on(optimizer, model, rounds, own, shares)
    return optimizer, model, rest


def go_on(optimizer: Any, model: nn.Module, rounds: int, own: Any = (0, 1, 2, 3), shares: Any = ()) -> list[Any]:
    made = []
    while optimizer.round < rounds:
        r = optimizer.round
        slots = Slots(4, own, cohort(r), (1.0, 2.0, 3.0, 4.0), shares, population=6)
        optimizer.step(losses=losses_of(model, cohort(r), own, r), slots=slots)
        made.append((optimizer.record, optimizer.report))
    return made


ATTACKS = [SignFlip, Scaling, ConstantDrift, Gaussian, IPM, ALIE, Replay, LabelFlip]
RUNS: dict[str, dict[str, Any]] = {
    **{kind.__name__: {"attack": kind(0.5)} for kind in ATTACKS},
    "steps": {"attack": Gaussian(0.5), "local_steps": 2},
    "own": {"attack": Replay(0.5), "directions": "client", "aggregation": WeightedMean()},
    "own, another P": {
        **{"attack": Replay(0.5), "directions": "client"},
        "num_directions_schedule": Steps([1, 2], [1.0, 5.0]),
    },
    "few bits": {"attack": Scaling(0.5), "transform": Quantize(3, scale="shared")},
    "few bits of their own": {"attack": Gaussian(0.5), "transform": Quantize(4)},
    "vote": {
        **{"attack": SignFlip(0.5), "transform": Sign("none"), "aggregation": MajorityVote()},
        "preconditioner": Identity(),
    },
}


class Shared(LocalExchange):
    """The exchange of two threads that are a rank each."""

    def __init__(self) -> None:
        self.meeting, self.rows = threading.Barrier(2, timeout=60), dict[int, torch.Tensor]()

    def __call__(self, rows: torch.Tensor, slots: Slots) -> torch.Tensor:
        mine = threading.get_ident()
        out = rows.new_zeros((slots.size, rows.shape[1]))
        out.index_add_(0, torch.tensor(slots.own, dtype=torch.int64), rows)
        self.rows[mine] = out
        self.meeting.wait()
        total = sum(self.rows[key] for key in sorted(self.rows)) + 0.0
        self.meeting.wait()
        return total  # type: ignore[return-value]


@pytest.mark.parametrize("name", RUNS)
def test_an_attacked_run_is_the_same_on_two_ranks_and_replays_without_the_attack(name: str) -> None:
    options = RUNS[name]
    optimizer, _, made = run(**options)
    found, exchange = {}, Shared()
    places: list[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]
    if name in ("SignFlip", "few bits"):  # ranks share their probes, and losses travel
        places = [((0, 1, 2, 3), tuple((r, 2) for _ in range(4))) for r in range(2)]
    else:
        places = [((0, 2), ()), ((1, 3), ())]

    def rank(r: int) -> None:
        found[r] = digest(run(own=places[r][0], exchange=exchange, shares=places[r][1], **options)[0])

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: digest(optimizer), 1: digest(optimizer)}

    plain = {key: value for key, value in options.items() if key != "attack"}
    fresh = ZerothOrderOptimizer(linear().named_parameters(), seed=SEED, lr=0.02, num_directions=3, **plain)
    for record, _ in made:
        fresh.apply(record)
    assert digest(fresh) == digest(optimizer)
    whose = set(options["attack"].hostile(SEED, 6).tolist())
    for r, (_, report) in enumerate(made):
        assert report.hostile == tuple(slot for slot, client in enumerate(cohort(r)) if client in whose)
        assert report.figures["scalar/hostile"] == len(report.hostile)
        assert report.dropped == ()


def test_every_attack_moves_a_run_but_flipped_labels_whose_data_do() -> None:
    honest = digest(run()[0])
    digests = {name: digest(run(**RUNS[name])[0]) for name in (kind.__name__ for kind in ATTACKS)}
    assert digests.pop("LabelFlip") == honest
    assert len({honest, *digests.values()}) == len(ATTACKS)
    assert digest(run(attack=SignFlip(0.0))[0]) == honest
    assert digest(run(attack=SignFlip(0.5, start=4))[0]) == honest
    assert digest(run(attack=SignFlip(0.5, start=3))[0]) != honest
    assert run(attack=None)[2][0][1].figures == {}
    assert "attack" not in Method().as_data()
    assert Method(attack=ALIE(z=1.5)).as_data()["attack"] == {
        "ALIE": {"fraction": 0.25, "clients": None, "start": 0, "z": 1.5}
    }


def test_an_attack_goes_on_where_a_run_was_stopped() -> None:
    for name in ("Replay", "own", "Gaussian"):
        whole, _, _ = run(6, **RUNS[name])
        half, model, _ = run(3, **RUNS[name])
        saved, weights = half.state_dict(), {key: value.clone() for key, value in model.state_dict().items()}
        again, other, _ = run(0, **RUNS[name])
        other.load_state_dict(weights)
        again.load_state_dict(saved)
        go_on(again, other, 6)
        assert digest(again) == digest(whole), name


def test_own_stretches_of_the_record_are_replayed() -> None:
    _, _, made = run(2, attack=Replay(clients=[1, 2]), directions="client")
    sent, before = made[1][1].sent, made[0][0].scalars.reshape(1, 4, 3)
    assert made[1][1].hostile == (0, 1)  # clients 1 to 4
    assert np.array_equal(sent[0], before[:, 0])
    assert np.array_equal(sent[1], before[:, 1])
    assert made[0][1].hostile == (1, 2)
    assert np.array_equal(made[0][1].sent, run(1, directions="client")[2][0][1].sent)


def test_hostile_clients_can_send_only_what_the_format_carries() -> None:
    _, _, made = run(attack=Scaling(0.5, factor=1e6), transform=Sign("none"), preconditioner=Identity())
    for _, report in made:
        assert set(np.abs(report.sent).ravel().tolist()) == {1.0}
    _, _, made = run(attack=Gaussian(0.5, scale=1e6), transform=Sign())
    for _, report in made:
        for row in report.sent:
            [size] = set(np.abs(row).ravel().tolist())
            assert np.float32(size).view(np.uint32) & 0xFFFF == 0  # a bfloat16
    options = {"transform": Quantize(3, scale="shared", start=2.0), "preconditioner": Identity()}
    _, _, made = run(attack=Scaling(0.5, factor=1e6), **options)
    first = made[0][1]
    levels = np.float32(2.0 * (2.0 * np.arange(8) - 7) / 7)
    assert first.hostile
    for slot in first.hostile:
        assert set(np.abs(first.sent[slot]).ravel().tolist()) == {2.0}
    assert np.isin(first.sent, levels).all()
    options["transform"] = Quantize(8)
    flipped, honest = run(attack=LabelFlip(0.5), **options)[2], run(**options)[2]
    for (_, a), (_, b) in zip(flipped, honest, strict=True):
        assert a.sent.tobytes() == b.sent.tobytes()  # what has been rounded is not rounded again


def test_a_hostile_client_that_is_not_there_sends_nothing() -> None:
    model = linear()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), seed=SEED, lr=0.02, attack=SignFlip(clients=[1, 2]))
    slots = Slots(4, (0, 2, 3), (0, 1, 2, 3), None, (), population=6, absent=(1,))
    optimizer.step(losses=losses_of(model, (0, 1, 2, 3), (0, 2, 3), 0), slots=slots)
    assert optimizer.report.hostile == (2,)
    assert optimizer.record.dropped == (1,)
