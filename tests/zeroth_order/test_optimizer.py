"""The optimizer alone: promises 3, 5, 8 and 9, its options, and parts added from outside the package."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl.zeroth_order import (
    Adagrad,
    Adam,
    Aggregation,
    Cosine,
    Diagonal,
    Greedy,
    Identity,
    Linear,
    Momentum,
    Normalized,
    PerTensor,
    Preconditioner,
    RoundRecord,
    Scalar,
    Sgd,
    Steps,
    Transform,
    UpdateRule,
    Yogi,
    ZerothOrderOptimizer,
)
from hiso_pl.zeroth_order.digest import checksums, digest


def model_and_batch(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 4))
    return model, torch.randn(16, 7), torch.randint(0, 4, (16,))


def closure_of(model, inputs, targets):
    return lambda: nn.functional.cross_entropy(model(inputs), targets)


def trained(rounds, **options):
    model, inputs, targets = model_and_batch()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), **{"lr": 1e-2, "seed": 5, **options})
    for _ in range(rounds):
        optimizer.step(closure_of(model, inputs, targets))
    return optimizer


def test_a_plain_loop_learns_and_repeats():
    model, inputs, targets = model_and_batch()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=0.05, num_directions=8, preconditioner=Identity())
    closure = closure_of(model, inputs, targets)
    first = closure().item()
    for _ in range(150):
        optimizer.step(closure)
    assert closure().item() < 0.7 * first
    assert digest(trained(5)) == digest(trained(5))
    assert digest(trained(5)) != digest(trained(5, seed=6))


@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("tau", [1, 3])
def test_probing_leaves_the_base_weights_bit_identical(difference, tau):
    model, inputs, targets = model_and_batch()
    before = [p.detach().clone() for p in model.parameters()]
    pointers = [p.data_ptr() for p in model.parameters()]
    optimizer = ZerothOrderOptimizer(
        model.named_parameters(), lr=0.0, mu=0.5, num_directions=50, local_steps=tau, difference=difference
    )
    seen = set()

    def closure():
        seen.add(float(model[0].weight[0, 0]))
        return closure_of(model, inputs, targets)()

    optimizer.step(closure)
    assert len(seen) > 50  # it did look from elsewhere
    for parameter, base, pointer in zip(model.parameters(), before, pointers, strict=True):
        assert torch.equal(parameter, base)
        assert parameter.data_ptr() == pointer


def test_a_loss_that_raises_leaves_the_base_weights_in_place():
    model, inputs, targets = model_and_batch()
    before = copy.deepcopy(model.state_dict())
    optimizer = ZerothOrderOptimizer(model.named_parameters())
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("data")
        return closure_of(model, inputs, targets)()

    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    assert optimizer.round == 0


def test_an_update_broken_off_is_never_written(monkeypatch):
    optimizer = trained(2)
    kernels = optimizer._kernels()

    def update_all(xs, hessians, sites, *args):
        kernels.update(xs[0], hessians[0], sites[0], *args)
        raise MemoryError

    monkeypatch.setattr(kernels, "update_all", update_all)
    record = RoundRecord(2, 1e-2, 1e-3, np.ones((1, 5), dtype=np.float32), cohort=1)
    with pytest.raises(MemoryError):
        optimizer.apply(record)
    with pytest.raises(RuntimeError, match="round 2 was broken off"):
        optimizer.state_dict()
    with pytest.raises(RuntimeError, match="broken off"):
        optimizer.apply(record)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preconditioner": Identity()},
        {"preconditioner": Scalar()},
        {"preconditioner": PerTensor()},
        {"update_rule": Momentum(0.5), "preconditioner": Diagonal(hessian_update="all"), "local_steps": 2},
        {"distribution": "rademacher", "difference": "central"},
        {"update_rule": Adam(), "local_steps": 2, "local_lr": 0.01},
        {"update_rule": Normalized("spread")},
        {"update_rule": Greedy()},
    ],
    ids=["hiso", "decomfl", "scalar", "per tensor", "momentum", "rademacher central", "adam", "fzoo", "greedy"],
)
def test_apply_alone_rebuilds_the_run_from_its_records(options):
    """Promise 4 in small: no data, no forward, the same bits."""
    model, inputs, targets = model_and_batch()
    twin = copy.deepcopy(model)
    optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=1e-2, seed=5, **options)
    replayed = ZerothOrderOptimizer(twin.named_parameters(), lr=1e-2, seed=5, **options)
    records = []
    for _ in range(6):
        optimizer.step(closure_of(model, inputs, targets))
        records.append(optimizer.record)
    for record in records:
        replayed.apply(record)
    assert digest(replayed) == digest(optimizer)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"update_rule": Momentum()},
        {"preconditioner": Scalar()},
        {"update_rule": Adam()},
        {"update_rule": Yogi(), "preconditioner": Identity()},
        {"update_rule": Adagrad()},
        {"update_rule": Normalized(), "preconditioner": Scalar()},
        {"update_rule": Greedy(), "preconditioner": Identity()},
    ],
)
def test_state_dict_resumes_to_the_bit(tmp_path, options):
    straight = trained(7, **options)
    first = trained(3, **options)
    torch.save({"model": first.parameters, "optimizer": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    model, inputs, targets = model_and_batch()
    resumed = ZerothOrderOptimizer(model.named_parameters(), lr=1e-2, seed=5, **options)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), saved["model"], strict=True):
            parameter.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.round == 3
    for _ in range(4):
        resumed.step(closure_of(model, inputs, targets))
    assert digest(resumed) == digest(straight)
    assert torch.equal(checksums(resumed)[1], checksums(straight)[1])


def test_a_state_of_something_else_is_refused():
    state = trained(1).state_dict()
    model, *_ = model_and_batch()
    with pytest.raises(ValueError, match="seed=6 configured, but the state was made with 5"):
        ZerothOrderOptimizer(model.named_parameters(), seed=6).load_state_dict(state)
    other = nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 4))
    with pytest.raises(ValueError, match=r"state of '0.weight' holds hessian \(9, 7\)"):
        ZerothOrderOptimizer(other.named_parameters(), seed=5).load_state_dict(state)
    with pytest.raises(ValueError, match="keeps nothing"):
        ZerothOrderOptimizer(model.named_parameters(), seed=5, preconditioner=Identity()).load_state_dict(state)


def test_bad_scalars_do_not_spread():
    """Promise 9: one bad local step takes the whole slot out; the others are renormalised."""
    model, inputs, targets = model_and_batch()
    good = closure_of(model, inputs, targets)
    optimizer = ZerothOrderOptimizer(model.named_parameters(), local_steps=2, seed=5)

    def bad(k):
        return good() if k == 0 else good() * float("nan")

    optimizer.step(losses=[lambda k: good(), bad, lambda k: good()])
    report = optimizer.report
    assert report.dropped == (1,)
    expected = (report.sent[0].astype(np.float64) + report.sent[2].astype(np.float64)) / 2
    assert np.array_equal(report.scalars, expected.astype(np.float32))
    assert np.isfinite(report.loss)

    before = digest(optimizer)
    optimizer.step(losses=[bad, lambda k: good() * float("inf")])
    assert optimizer.report.dropped == (0, 1)
    assert optimizer.record.empty
    assert optimizer.report.loss is None
    assert digest(optimizer) == before
    assert optimizer.round == 2


def test_schedules_act():
    optimizer = trained(0, mu_schedule=Linear(1e-4, 4), num_directions_schedule=Steps([2], [3]))
    model, inputs, targets = model_and_batch()
    optimizer = ZerothOrderOptimizer(
        model.named_parameters(), mu=1e-3, mu_schedule=Linear(1e-4, 3), num_directions_schedule=Steps([2], [3])
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    seen = []
    for _ in range(4):
        optimizer.step(closure_of(model, inputs, targets))
        scheduler.step()
        record = optimizer.record
        seen.append((record.lr, round(record.mu, 12), record.scalars.shape[1]))
    assert seen == [(1e-3, 1e-3, 5), (5e-4, 7e-4, 5), (2.5e-4, 4e-4, 3), (1.25e-4, 1e-4, 3)]
    assert Cosine(0.0, 10)(1.0, 5) == pytest.approx(0.5)
    assert Cosine(0.0, 10)(1.0, 20) == pytest.approx(0.0)


def test_a_zero_learning_rate_moves_nothing():
    optimizer = trained(1)
    before = [p.detach().clone() for p in optimizer.parameters]
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.apply(RoundRecord(1, 0.0, 1e-3, np.ones((1, 5), dtype=np.float32), cohort=1))
    assert all(torch.equal(a, b) for a, b in zip(before, optimizer.parameters, strict=True))


def test_hidden_decay_there_is_none():
    optimizer = trained(1, preconditioner=Identity())
    before = digest(optimizer)
    optimizer.apply(RoundRecord(1, 1e-2, 1e-3, np.zeros((1, 5), dtype=np.float32), cohort=1))
    assert digest(optimizer) == before


def test_sgd_by_buffer_equals_sgd_in_the_kernel():
    class BufferedSgd(Sgd):
        fused = False

    for preconditioner in (Diagonal(hessian_update="all"), Identity(), Scalar(), PerTensor()):
        options = {"preconditioner": preconditioner, "local_steps": 2}
        assert digest(trained(4, update_rule=BufferedSgd(), **options)) == digest(trained(4, **options))


class RootMeanPreconditioner(Preconditioner):
    """From outside, elementwise: H grows by the squares and never decays (as Adagrad's)."""

    def initial(self, parameter, target):
        return torch.ones_like(parameter, requires_grad=False)

    def advance(self, hessian, steps, target):
        for d in steps:
            hessian.add_(d * d)


class RowPreconditioner(Preconditioner):
    """From outside, structured: one number for each row of a tensor."""

    structured = True

    def initial(self, parameter, target):
        return torch.ones(parameter.shape[0])

    def divide(self, values, hessian):
        return values / torch.sqrt(hessian).reshape(-1, *[1] * (values.dim() - 1))

    def advance(self, hessian, steps, target):
        hessian.mul_(0.9).add_(steps[-1].reshape(len(hessian), -1).square().mean(dim=1) * 0.1)


class SignRule(UpdateRule):
    """From outside: a step of one length."""

    def move(self, x, direction, lr, state, target):
        x.sub_(direction.sign() * lr)


class Clip(Transform):
    """From outside: scalars clipped."""

    def __call__(self, scalars, departure):
        return np.clip(scalars, -0.1, 0.1)


class Median(Aggregation):
    """From outside: the median of the slots."""

    def __call__(self, scalars, present, weights):
        return np.median(scalars[present], axis=0).astype(np.float32)


def test_parts_from_outside_the_package_plug_in():
    optimizer = trained(3, preconditioner=RootMeanPreconditioner())
    assert all((h >= 1).all() and (h > 1).any() for h in optimizer.stored_hessians)
    expected = trained(3, preconditioner=Diagonal(nu=0.0))
    assert digest(optimizer) != digest(expected)

    optimizer = trained(3, preconditioner=RowPreconditioner(), local_steps=2)
    assert [tuple(h.shape) for h in optimizer.stored_hessians] == [(9,), (9,), (4,), (4,)]
    assert all((h != 1).all() for h in optimizer.stored_hessians)

    start, moved = trained(0), trained(1, update_rule=SignRule())
    steps = [(a - b).abs() for a, b in zip(start.parameters, moved.parameters, strict=True)]
    assert all(torch.allclose(s, torch.full_like(s, 1e-2), atol=1e-6) for s in steps)

    optimizer = trained(1, transform=Clip())
    assert np.abs(optimizer.report.scalars).max() <= np.float32(0.1)

    model, inputs, targets = model_and_batch()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), aggregation=Median())
    good = closure_of(model, inputs, targets)
    optimizer.step(losses=[lambda k: good(), lambda k: good() * 1000, lambda k: good()])
    assert np.array_equal(optimizer.report.scalars, optimizer.report.sent[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0 must be finite and not negative"),
        ({"lr": float("nan")}, "lr=nan must be finite"),
        ({"mu": 0.0}, "mu=0.0 must be finite and positive"),
        ({"num_directions": 0}, r"num_directions=0 must be an integer in \[1, 16384\)"),
        ({"local_steps": 0}, "local_steps=0 must be"),
        ({"difference": "backward"}, "difference='backward' must be one of forward, central"),
        ({"distribution": "cauchy"}, "distribution='cauchy' must be one of normal, rademacher"),
        ({"seed": -1}, "seed=-1 must be an integer in"),
        ({"backend": "fpga"}, "backend='fpga' must be one of"),
    ],
)
def test_bad_options_are_refused_by_name_and_value(options, message):
    model, *_ = model_and_batch()
    with pytest.raises(ValueError, match=message):
        ZerothOrderOptimizer(model.named_parameters(), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diagonal(nu=1.5), "nu=1.5 must be in"),
        (lambda: Diagonal(eps=-1.0), "eps=-1.0 must be"),
        (lambda: Scalar(floor=-1.0), "floor=-1.0 must be"),
        (lambda: PerTensor(hessian_update="middle"), "hessian_update='middle' must be one of last, first, all"),
        (lambda: Momentum(1.0), "beta=1.0 must be in"),
        (lambda: Linear(1.0, 0), "rounds=0 must be at least 1"),
        (lambda: Steps([3, 2], [1, 2]), "must be ascending"),
        (lambda: RoundRecord(0, 1.0, 1.0, np.full((1, 1), np.nan, np.float32), 1), "not all finite"),
    ],
)
def test_bad_parts_are_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_losses_and_parameters_are_refused():
    model, inputs, targets = model_and_batch()
    with pytest.raises(ValueError, match="masters are fp32"):
        ZerothOrderOptimizer(nn.Linear(2, 2).half().named_parameters())
    optimizer = ZerothOrderOptimizer(model.named_parameters())
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"float32 of shape \(16,\)"):
        optimizer.step(lambda: nn.functional.cross_entropy(model(inputs), targets, reduction="none"))
    with pytest.raises(ValueError, match=r"torch\.bfloat16"):
        optimizer.step(lambda: closure_of(model, inputs, targets)().bfloat16())
    with pytest.raises(ValueError, match="record of round 3 given, round 0 comes next"):
        optimizer.apply(RoundRecord(3, 1e-2, 1e-3, np.ones((1, 5), dtype=np.float32), cohort=1))
