"""The rate that follows the trace: its equation in float64, what it finds on a quadratic, and what it is free of."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import Diagonal, Greedy, Identity, Method, RoundRecord, Sgd, ZerothOrderOptimizer

SHAPES = [(3, 4), (5,), ()]
# lr, mu, P, size of the scalars, slots dropped of three
ROUNDS = [(0.1, 1e-3, 3, 4.0, ()), (0.07, 1e-3, 2, 0.3, (1,)), (0.07, 5e-4, 3, 0.0, (0, 1, 2)), (0.0, 5e-4, 4, 2.0, ())]
ROUNDS += [(0.3, 5e-4, 4, 1e-3, (0, 2)), (0.2, 1e-3, 3, 0.0, ()), (0.01, 2e-3, 2, 0.5, ())]


def records(fixed, tau=1):
    for r, (lr, mu, directions, size, dropped) in enumerate(ROUNDS):
        scalars = (fixed((tau, directions), 100 + r).numpy() + np.float32(0.4)) * np.float32(size)
        yield RoundRecord(r, lr, mu, scalars, cohort=3, dropped=dropped)


def built(optimizer_of, fixed, rule, scale=1.0, **options):
    start = [(str(t), fixed(shape, t) * scale) for t, shape in enumerate(SHAPES)]
    local_lr = 0.01 if options.get("local_steps", 1) > 1 else None
    return optimizer_of(start, seed=7, update_rule=rule, local_lr=local_lr, **options)


def kept_by(optimizer):
    return optimizer.state[optimizer.parameters[0]]["curvature"]


@pytest.mark.parametrize("rule", [Greedy(), Greedy(beta=0.0, caution=0.0, eps=1e-3), Greedy(0.7, 2.0, 1e-2)], ids=repr)
@pytest.mark.parametrize("preconditioner", [Identity(), Diagonal(0.3, 1e-3, 0.4)], ids=["identity", "diagonal"])
@pytest.mark.parametrize("tau", [1, 3])
def test_the_rate_is_its_equation_and_the_step_the_plain_one_at_it(optimizer_of, fixed, rule, preconditioner, tau):
    optimizer = built(optimizer_of, fixed, rule, local_steps=tau, preconditioner=preconditioner)
    plain = built(optimizer_of, fixed, Sgd(), local_steps=tau, preconditioner=preconditioner)
    told: list[tuple[float, float, int]] = []  # of the rounds that tell something, oldest first
    for record in records(fixed, tau):
        optimizer.apply(record)
        rate = 0.0
        if record.scalars.any() and not record.empty:
            g = record.scalars.astype(np.float64) * 2 / record.mu
            told.append((g.mean(), (g * g).mean(), g.size))
        if told:
            shares = np.array([(1 - rule.beta) * rule.beta**age for age in reversed(range(len(told)))])
            mean, square, count = np.array(told).T
            trace = max(np.average(mean, weights=shares), 0.0)
            # the variance of an average of independent scalars, by the mean square of one
            error = math.sqrt(np.average(square, weights=shares) * (shares**2 / count).sum() / shares.sum() ** 2)
            rate = record.lr * record.scalars.shape[1] / (trace + rule.caution * error + rule.eps)
        plain.apply(replace(record, lr=rate))
        for a, b in zip(optimizer.parameters, plain.parameters, strict=True):
            assert a.detach().numpy() == pytest.approx(b.detach().numpy(), rel=2e-5, abs=2e-6)
    assert [f"{s.name} {s.kind}" for s in optimizer.tensors() if s.kind not in ("x", "hessian")] == ["0 curvature"]


@pytest.mark.parametrize(("loss", "parameters"), [(1e3, 1.0), (1e-3, 1.0), (1.0, 1e2), (1.0, 1e-2)])
def test_the_scale_of_loss_and_of_parameters_does_not_matter(optimizer_of, fixed, loss, parameters):
    """A loss c times as large has scalars c times as large; with x and mu s times as large, steps are."""
    as_it_is = built(optimizer_of, fixed, Greedy(eps=1e-30), preconditioner=Identity())
    scaled = built(optimizer_of, fixed, Greedy(eps=1e-30), parameters, preconditioner=Identity())
    for record in records(fixed):
        as_it_is.apply(record)
        scalars = record.scalars * np.float32(loss / parameters)
        scaled.apply(replace(record, scalars=scalars, mu=record.mu * parameters))
    for a, b in zip(as_it_is.parameters, scaled.parameters, strict=True):
        assert b.detach().numpy() == pytest.approx(a.detach().numpy() * parameters, rel=1e-4)


def quadratic(scale=1.0, size=1.0):
    """A quadratic of 200 elements, eigenvalues from 0.01 to 1 times a scale, and its trace."""
    torch.manual_seed(3)
    curvature = torch.logspace(-2, 0, 200, dtype=torch.float64) * scale / size**2
    x = torch.nn.Parameter(size * torch.randn(200))
    return x, (lambda: (0.5 * curvature * x.double() ** 2).sum().float()), float(curvature.sum())


def test_the_trace_of_a_quadratic_is_found(optimizer_of):
    x, loss, trace = quadratic()
    method = Method(lr=0.0, mu=0.3, num_directions=20, preconditioner=Identity(), update_rule=Greedy(beta=0.98))
    optimizer = ZerothOrderOptimizer([("x", x)], method, seed=1)
    for _ in range(100):
        optimizer.step(loss)
    found, root, weight, variance = kept_by(optimizer).double().tolist()
    error = root * math.sqrt(variance / weight**3)
    assert error < 0.12 * trace
    assert abs(found / weight - trace) < 2 * error
    given = method.update_rule.rate_of(
        replace(optimizer.record, lr=0.5, round=100), optimizer.state[x], optimizer._targets()[0]
    )
    assert given == pytest.approx(0.5 * 20 / (trace + error), rel=0.25)


@pytest.mark.parametrize(("scale", "size"), [(1.0, 1.0), (1e4, 1.0), (1.0, 100.0)])
def test_one_rate_serves_quadratics_whose_plain_rates_differ_by_ten_thousand(scale, size):
    """From a quarter of 0.4 to three times it half of what 0.4 takes off is taken off, too, whatever the scales."""
    left = {}
    for lr in (0.1, 0.4, 1.2):
        x, loss, _ = quadratic(scale, size)
        method = Method(lr=lr, mu=0.1 * size, num_directions=10, preconditioner=Identity(), update_rule=Greedy())
        optimizer = ZerothOrderOptimizer([("x", x)], method, seed=1)
        start = float(loss().detach())
        for _ in range(60):
            optimizer.step(loss)
        left[lr] = float(loss().detach()) / start
    assert left[0.4] < 0.25
    assert max(left.values()) < 0.5 + left[0.4] / 2, left


def test_a_round_that_tells_nothing_leaves_what_is_known(optimizer_of, fixed):
    optimizer = built(optimizer_of, fixed, Greedy())
    start = [p.clone() for p in optimizer.parameters]
    nothing = RoundRecord(0, 0.1, 1e-3, np.zeros((1, 3), np.float32), cohort=1)
    optimizer.apply(nothing)
    assert kept_by(optimizer).tolist() == [0.0] * 4
    optimizer.apply(RoundRecord(1, 0.1, 1e-3, np.array([[1.0, -2.0, 0.5]], np.float32), cohort=1))
    known = kept_by(optimizer).tolist()
    assert not torch.equal(optimizer.parameters[0], start[0])
    optimizer.apply(replace(nothing, round=2))
    assert kept_by(optimizer).tolist() == known


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Greedy(beta=1.0), "beta=1.0 must be in"),
        (lambda: Greedy(caution=-1.0), "caution=-1.0 must be finite and not negative"),
        (lambda: Greedy(caution=math.inf), "caution=inf must be finite"),
        (lambda: Greedy(caution="1"), "caution='1' must be finite"),
        (lambda: Greedy(eps=0.0), "eps=0.0 must be positive"),
        (lambda: Method(difference="central", update_rule=Greedy()), r"'central' must be forward with update_rule=Gr"),
        (lambda: Method(local_steps=2, update_rule=Greedy()), "local_lr=None must be given with local_steps=2"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)
