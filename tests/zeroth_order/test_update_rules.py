"""Update rules against loops in float64 that go element by element as the equations are written.

What is shared with the package are the directions. The rest of a round, D and H included, is computed here.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import (
    Adagrad,
    Adam,
    Diagonal,
    Identity,
    Linear,
    Method,
    Momentum,
    Normalized,
    RoundRecord,
    Scalar,
    Sgd,
    Steps,
    Target,
    UpdateRule,
    Yogi,
    ZerothOrderOptimizer,
)
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.streams import Site, direction

SEED, NU, EPS_H, FLOOR = 77, 0.3, 1e-3, 0.4
SHAPES = [(3, 4), (5,), ()]
# lr, mu, P, size of the scalars, slots dropped of three
ROUNDS = [(0.1, 1e-3, 3, 4.0, ()), (0.07, 1e-3, 2, 0.3, (1,)), (0.07, 5e-4, 3, 0.0, (0, 1, 2)), (0.0, 5e-4, 4, 2.0, ())]
ROUNDS += [(0.3, 5e-4, 4, 1e-3, (0, 2)), (0.2, 1e-3, 3, 0.0, ()), (0.01, 2e-3, 2, 0.5, ())]


class OracleAdam:
    """Moments of one element."""

    def __init__(self, rule, after=lambda v, g, b2: b2 * v + (1 - b2) * g * g):
        self.rule, self.after, self.m, self.v, self.t = rule, after, 0.0, 0.0, 0

    def step(self, x, g, lr):
        r = self.rule
        self.t += 1
        self.m = r.beta1 * self.m + (1 - r.beta1) * g
        self.v = self.after(self.v, g, r.beta2)
        m, v = self.m, self.v
        if r.bias_correction:
            m, v = m / (1 - r.beta1**self.t), v / (1 - r.beta2**self.t)
        return x - lr * m / (math.sqrt(v) + r.eps)

    @property
    def kept(self):
        return {"first_moment": self.m, "second_moment": self.v}


def oracle_yogi(rule):
    return OracleAdam(rule, lambda v, g, b2: v - (1 - b2) * np.sign(v - g * g) * g * g)


class OracleAdagrad:
    """The squares of one element."""

    def __init__(self, rule):
        self.rule, self.v = rule, 0.0

    def step(self, x, g, lr):
        self.v += g * g
        return x - lr * g / (math.sqrt(self.v) + self.rule.eps)

    @property
    def kept(self):
        return {"sum_of_squares": self.v}


RULES = {
    "adam": (Adam(0.8, 0.95, 1e-4), OracleAdam),
    "adam as it is by default": (Adam(), OracleAdam),
    "adam, uncorrected": (Adam(0.7, 0.9, 1e-3, bias_correction=False), OracleAdam),
    "adam without a mean": (Adam(0.0, 0.9), OracleAdam),
    "yogi": (Yogi(), oracle_yogi),
    "yogi, corrected": (Yogi(0.8, 0.9, 1e-4, bias_correction=True), oracle_yogi),
    "adagrad": (Adagrad(), OracleAdagrad),
    "adagrad, dull": (Adagrad(eps=0.5), OracleAdagrad),
}
PRECONDITIONERS = {"identity": Identity(), "diagonal": Diagonal(NU, EPS_H, FLOOR)}


def records(fixed, tau):
    for r, (lr, mu, directions, size, dropped) in enumerate(ROUNDS):
        scalars = fixed((tau, directions), 100 + r).numpy() * np.float32(size)
        yield RoundRecord(r, lr, mu, scalars, cohort=3, dropped=dropped)


def built(optimizer_of, fixed, rule, tau=1, **options):
    start = [(str(t), fixed(shape, t).clone()) for t, shape in enumerate(SHAPES)]
    local_lr = None if tau == 1 else 0.01
    return optimizer_of(start, seed=SEED, local_steps=tau, local_lr=local_lr, update_rule=rule, **options)


class OracleRounds:
    """x and H of every element in float64, and D of a round."""

    def __init__(self, fixed, diagonal):
        self.x = [fixed(shape, t).numpy().astype(np.float64).reshape(-1) for t, shape in enumerate(SHAPES)]
        self.h = [np.ones_like(x) for x in self.x]
        self.diagonal = diagonal

    def steps(self, record, t):
        """D_k of a tensor, [tau, n], with H as it is."""
        tau, directions = record.scalars.shape
        z = np.zeros((tau, len(self.x[t])))
        for k in range(tau):
            for p in range(directions):
                u = direction(Site(SEED, "normal", t, record.round), k, p, 0, len(self.x[t]))
                z[k] += float(record.scalars[k, p]) * u.astype(np.float64) / np.sqrt(self.h[t]) / directions
        return z

    def advance(self, t, steps):
        if self.diagonal:
            self.h[t] = np.maximum((1 - NU) * self.h[t] + NU * (steps[-1] ** 2 + EPS_H), FLOOR)


def near(found, expected):
    assert found.detach().numpy().reshape(-1) == pytest.approx(np.array(expected), rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
@pytest.mark.parametrize("tau", [1, 3])
def test_elementwise_rules_are_their_equations(optimizer_of, fixed, name, preconditioner, tau):
    rule, oracle = RULES[name]
    optimizer = built(optimizer_of, fixed, rule, tau, preconditioner=PRECONDITIONERS[preconditioner])
    plain = OracleRounds(fixed, preconditioner == "diagonal")
    elements = [[oracle(rule) for _ in x] for x in plain.x]
    for record in records(fixed, tau):
        optimizer.apply(record)
        for t, x in enumerate(plain.x):
            if record.empty:
                continue
            steps = plain.steps(record, t)
            for e, element in enumerate(elements[t]):
                x[e] = element.step(x[e], steps[:, e].sum(), record.lr)
            plain.advance(t, steps)
        for t, parameter in enumerate(optimizer.parameters):
            near(parameter, plain.x[t])
            kept = optimizer.state[parameter]
            for kind in elements[t][0].kept:
                near(kept[kind], [element.kept[kind] for element in elements[t]])


SIZES = {
    "square": (Normalized(), lambda g, mu: np.mean(g * g)),
    "spread": (Normalized("spread", 0.8, 1e-6), lambda g, mu: mu**2 * np.mean([np.var(row, ddof=1) for row in g])),
    "spread of each round": (Normalized("spread", 0.0), lambda g, mu: mu**2 * np.mean(np.var(g, axis=1, ddof=1))),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("preconditioner", PRECONDITIONERS)
@pytest.mark.parametrize("tau", [1, 3])
def test_steps_by_the_size_of_the_scalars_are_their_equation(optimizer_of, fixed, name, preconditioner, tau):
    rule, square = SIZES[name]
    optimizer = built(optimizer_of, fixed, rule, tau, preconditioner=PRECONDITIONERS[preconditioner])
    sgd = built(optimizer_of, fixed, Sgd(), tau, preconditioner=PRECONDITIONERS[preconditioner])
    plain = OracleRounds(fixed, preconditioner == "diagonal")
    sizes: list[float] = []  # of the rounds that have one, oldest first
    for record in records(fixed, tau):
        optimizer.apply(record)
        if record.empty:
            sgd.apply(record)
            continue
        fresh = square(record.scalars.astype(np.float64), record.mu)
        sizes += [fresh] if fresh > 0 else []
        shares = [(1 - rule.beta) * rule.beta**age for age in reversed(range(len(sizes)))]
        size = math.sqrt(np.average(sizes, weights=shares))
        rate = record.lr / (size + rule.eps)
        for t, x in enumerate(plain.x):
            steps = plain.steps(record, t)
            x -= rate * steps.sum(axis=0)
            plain.advance(t, steps)
            near(optimizer.parameters[t], x)
        root, weight = optimizer.state[optimizer.parameters[0]]["size"].tolist()
        assert (root / math.sqrt(weight), weight) == pytest.approx((size, sum(shares)), rel=1e-6)
        # the plain step at that rate, to the bit: one pass of the kernel
        sgd.apply(replace(record, lr=record.lr / (root / math.sqrt(weight) + rule.eps)))
        assert all(torch.equal(a, b) for a, b in zip(optimizer.parameters, sgd.parameters, strict=True))
    kinds = [f"{s.name} {s.kind}" for s in optimizer.tensors() if s.kind not in ("x", "hessian")]
    assert kinds == ["0 size"]


def scaled(size, directions=4, round=0, lr=0.1, mu=1e-3):
    return RoundRecord(round, lr, mu, np.full((1, directions), size, np.float32), cohort=1)


@pytest.mark.parametrize(("size", "told"), [("square", 0.0), ("spread", 0.0), ("spread", 7.1)])
def test_a_round_that_tells_no_size_leaves_what_is_known_of_it(optimizer_of, fixed, size, told):
    """Scalars that are all zero, or all equal where their spread is asked for: no step before there is a size."""
    optimizer = built(optimizer_of, fixed, Normalized(size))
    x = [p.clone() for p in optimizer.parameters]
    optimizer.apply(scaled(told))
    assert all(torch.equal(a, b) for a, b in zip(optimizer.parameters, x, strict=True))
    kept = optimizer.state[optimizer.parameters[0]]["size"]
    assert kept.tolist() == [0.0, 0.0]
    varied = RoundRecord(1, 0.1, 1e-3, np.array([[1.0, -2.0, 0.5]], np.float32), cohort=1)
    optimizer.apply(varied)
    known = kept.tolist()
    x = [p.clone() for p in optimizer.parameters]
    optimizer.apply(scaled(told, round=2))
    assert kept.tolist() == known
    assert all(torch.equal(a, b) for a, b in zip(optimizer.parameters, x, strict=True)) == (told == 0.0)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e17])
@pytest.mark.parametrize("rule", [Normalized(eps=1e-37), Normalized("spread", eps=1e-37)])
def test_a_size_as_small_or_as_large_as_fp32_has_it(optimizer_of, fixed, rule, size):
    optimizer = built(optimizer_of, fixed, rule)
    ghat = np.array([[1.0, -2.0, 0.5]], np.float32) * np.float32(size)
    optimizer.apply(RoundRecord(0, 0.1, 1.0, ghat, cohort=1))
    kept = optimizer.state[optimizer.parameters[0]]["size"].double()
    expected = (
        math.sqrt(float((ghat.astype(np.float64) ** 2).mean())) if rule.size == "square" else np.std(ghat, ddof=1)
    )
    assert float(kept[0] / kept[1].sqrt()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (Adam(0.9, 0.99, 1e-6), lambda x: torch.optim.Adam(x, betas=(0.9, 0.99), eps=1e-6)),
        (Adam(0.0, 0.5), lambda x: torch.optim.Adam(x, betas=(0.0, 0.5))),
        (Adagrad(1e-6), lambda x: torch.optim.Adagrad(x, eps=1e-6)),
    ],
)
def test_on_a_quadratic_a_rule_is_torchs_own(fixed, rule, theirs):
    curvature = fixed((7,), 1).abs() * 3 + 0.1
    mine = fixed((7,), 2).clone()
    parameter = torch.nn.Parameter(mine.clone())
    target = Target(0, "x", (7,))
    state, optimizer = rule.initial(mine, target), theirs([parameter])
    for t in range(40):
        lr = 0.1 / (1 + t // 10)
        rule.move(mine, curvature * mine, lr, state, target._replace(applied=t))
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = curvature * parameter.detach()
        optimizer.step()
    assert (mine - fixed((7,), 2)).abs().min() > 0.05
    near(mine, parameter.detach().numpy())


@pytest.mark.parametrize("rule", [Adam(), Yogi(), Adagrad()], ids=repr)
def test_a_large_tensor_in_pieces_is_a_large_tensor_whole(fixed, rule):
    """A tensor that is not contiguous is not cut, one that is comes piece by piece, the last of them shorter."""
    target = Target(0, "x", (401, 397))
    found = []
    for turn in (lambda t: t.clone(), lambda t: t.t().contiguous().t()):
        x = turn(fixed((401, 397), 1))
        state = rule.initial(x, target)
        for t in range(3):
            rule.move(x, turn(fixed((401, 397), 2 + t)), 0.1, state, target._replace(applied=t))
        found.append([x, *state.values()])
    assert found[0][0].is_contiguous() != found[1][0].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert (found[0][0] - fixed((401, 397), 1)).abs().min() > 0


# The seam


class Halved(Sgd):
    """A rule of somebody's own: half of lr in even rounds, by a counter of its own."""

    def initial(self, parameter, target):
        return {} if target.position else {"rounds": torch.zeros(1)}

    def rate(self, record, state, target):
        assert (target.position, target.round) == (0, record.round)
        state["rounds"] += 1
        record.scalars[:] = 9.0
        return record.lr / 2 if state["rounds"].item() % 2 else np.float32(record.lr)


@pytest.mark.parametrize("base", [Sgd(), Momentum(0.5)], ids=repr)
def test_a_rule_of_ones_own_has_the_rate_of_a_round(optimizer_of, fixed, base):
    own = type("Own", (Halved,), {"move": type(base).move, "fused": type(base).fused, "beta": 0.5})
    initial = type(base).initial
    own.initial = lambda self, p, target: {**Halved.initial(self, p, target), **initial(base, p, target)}
    halved, plain = built(optimizer_of, fixed, own()), built(optimizer_of, fixed, base)
    done = 0
    for record in records(fixed, 1):
        halved.apply(record)
        plain.apply(replace(record, lr=record.lr / 2 if done % 2 == 0 else float(np.float32(record.lr))))
        done += not record.empty
        assert all(torch.equal(a, b) for a, b in zip(halved.parameters, plain.parameters, strict=True))


@pytest.mark.parametrize("given", [math.nan, math.inf, -0.1, 1e39, None, "0.1", torch.ones(1)], ids=repr)
def test_a_rate_that_is_none_is_refused_and_the_state_is_of_no_round(optimizer_of, fixed, given):
    class Odd(Sgd):
        def rate(self, record, state, target):
            return given

    optimizer = built(optimizer_of, fixed, Odd())
    with pytest.raises(ValueError, match=r"update_rule=Odd\(\): rate\(\) gave .* in round 0 with lr=0.1, must give a"):
        optimizer.apply(scaled(1.0))
    with pytest.raises(RuntimeError, match="broken off"):
        optimizer.state_dict()


def test_state_that_a_rate_would_lose_is_refused(optimizer_of, fixed):
    class Lost(Normalized):
        def rate(self, record, state, target):
            state["size"] = state["size"] + 1.0
            return record.lr

    with pytest.raises(ValueError, match=r"update_rule=Lost.* must move its state in place: what rate\(\) puts there"):
        built(optimizer_of, fixed, Lost()).apply(scaled(1.0))


# What a rule needs of a method


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(beta1=1.0), r"beta1=1.0 must be in \[0, 1\)"),
        (lambda: Adam(beta1=-0.1), "beta1=-0.1 must be in"),
        (lambda: Adam(beta2=math.nan), "beta2=nan must be in"),
        (lambda: Adam(beta2=1 - 1e-12), "beta2=0.999999999999 must be in .*, also when rounded to fp32"),
        (lambda: Yogi(beta2="0.9"), "beta2='0.9' must be in"),
        (lambda: Yogi(beta1=True), "beta1=True must be in"),
        (lambda: Adam(eps=0.0), "eps=0.0 must be positive and finite"),
        (lambda: Yogi(eps=-1e-8), "eps=-1e-08 must be positive"),
        (lambda: Adagrad(eps=math.nan), "eps=nan must be positive"),
        (lambda: Adagrad(eps=math.inf), "eps=inf must be positive"),
        (lambda: Adagrad(eps=1e-60), "eps=1e-60 must be positive and finite, also when rounded to fp32"),
        (lambda: Normalized(eps=1e39), r"eps=1e\+39 must be positive and finite, also when rounded to fp32"),
        (lambda: Normalized(eps=10**400), "eps=1000.* must be positive"),
        (lambda: Adagrad(eps=None), "eps=None must be positive"),
        (lambda: Adam(bias_correction="no"), "bias_correction='no' must be true or false"),
        (lambda: Normalized("std"), "size='std' must be 'square' or 'spread'"),
        (lambda: Normalized(beta=1.0), "beta=1.0 must be in"),
        (lambda: Momentum(beta=1 - 1e-9), "beta=0.999999999 must be in"),
        (lambda: Method(local_steps=2, local_lr=-1.0), "local_lr=-1.0 must be finite and not negative"),
        (lambda: Method(local_steps=2, local_lr=math.nan), "local_lr=nan must be finite"),
        (lambda: Method(local_steps=2, local_lr="1"), "local_lr='1' must be finite"),
        (lambda: Method(local_lr=0.1), "local_lr=0.1 must be null with local_steps=1"),
        (
            lambda: Method(num_directions=1, update_rule=Normalized("spread")),
            r"num_directions=1 gives a round 1 in all, must give at least 2 for update_rule=Normalized\(size='spread'",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("rule", [Adam(), Yogi(), Adagrad(), Normalized()], ids=repr)
def test_local_moves_need_a_rate_of_their_own_where_lr_means_something_else(rule):
    with pytest.raises(ValueError, match=r"local_lr=None must be given with local_steps=2 and update_rule=\w+\("):
        Method(local_steps=2, update_rule=rule)
    assert Method(local_steps=2, local_lr=0.0, update_rule=rule).local_lr == 0.0
    assert Method(update_rule=rule).local_lr is None
    for plain in (Sgd(), Momentum()):
        assert Method(local_steps=2, update_rule=plain).local_lr is None


def test_the_fewest_directions_are_those_of_the_whole_schedule():
    """Said before the first round of a run, and in the round itself in a plain loop."""
    spread = Normalized("spread")
    for schedule, at in ((Linear(1.0), 88), (Steps([3, 90], [5.0, 1.0]), 90)):
        method = Method(num_directions=5, num_directions_schedule=schedule, update_rule=spread).over(100)
        with pytest.raises(ValueError, match=rf"num_directions=1 in round {at} gives a round 1 in all, must give at "):
            method.check_rounds(4, range(100))
        method.check_rounds(4, range(at))
    with pytest.raises(ValueError, match="num_directions=1 in round 0 gives a round 1 in all"):
        stepped(num_directions=2, num_directions_schedule=Steps([0], [1.0]), local_lr=0.1, update_rule=spread)
    Method(num_directions=5, num_directions_schedule=Linear(1.0), update_rule=Normalized()).over(9).check_rounds(
        4, range(9)
    )
    # of clients' own they are counted together
    own = Method(num_directions=1, directions="client", update_rule=spread)
    own.check_rounds(2, range(3))
    with pytest.raises(ValueError, match="num_directions=1 in round 0 gives a round 1 in all"):
        own.check_rounds(1, range(3))


# Local moves


def slot_losses(model, clients):
    inputs = torch.linspace(-1.0, 1.0, 3 * 5 * 2 * clients).view(clients, 3, 2, 5)
    return [lambda k, i=i: (model(inputs[i, k]) - i - k).square().mean() for i in range(clients)]


def stepped(rounds=1, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).eval()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), local_steps=3, seed=3, mu=1e-2, **options)
    for _ in range(rounds):
        optimizer.step(losses=slot_losses(model, 2))
    return optimizer


def test_a_local_rate_moves_clients_alone_and_stands_in_no_record():
    both = stepped(lr=0.3)
    own = stepped(lr=0.1, local_lr=0.3)
    assert np.array_equal(both.report.sent, own.report.sent)
    assert (both.record.lr, own.record.lr, own.report.lr) == (0.3, 0.1, 0.1)
    assert not np.array_equal(own.report.sent, stepped(lr=0.1).report.sent)
    replayed = stepped(0, lr=0.1)
    replayed.apply(own.record)
    assert digest(replayed) == digest(own)
    # a client that stands still in the round sends what it would without moves
    still = stepped(lr=0.1, local_lr=0.0)
    assert np.array_equal(still.report.sent[:, 0], own.report.sent[:, 0])
    assert not np.array_equal(still.report.sent[:, 1:], own.report.sent[:, 1:])
    # no scheduler moves it
    later = stepped(0, lr=0.1, local_lr=0.3)
    later.param_groups[0]["lr"] = 0.05
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).eval()
    moved = ZerothOrderOptimizer(model.named_parameters(), local_steps=3, seed=3, mu=1e-2, lr=0.1, local_lr=0.3)
    moved.param_groups[0]["lr"] = 0.05
    moved.step(losses=slot_losses(model, 2))
    assert np.array_equal(moved.report.sent, own.report.sent)
    assert moved.record.lr == 0.05


def test_data_tell_a_local_rate_only_where_there_is_one():
    """Older files have none, and a method without one is told as it was."""
    assert "local_lr" not in Method(local_steps=2).as_data()
    data = Method(local_steps=2, local_lr=0.5, update_rule=Adam()).as_data()
    assert data["local_lr"] == 0.5
    Method.check_data(data)
    assert Method.applying(data).update_rule == Adam()
    # records do not depend on it
    assert Method(local_steps=2, local_lr=0.7, update_rule=Adam()).differing(data) is None
    for given in ("0.1", -1.0, [0.1], True):
        with pytest.raises(ValueError, match="local_lr"):
            Method.applying({**data, "local_lr": given})


# Together with the rest


@pytest.mark.parametrize("rule", [Adam(), Yogi(), Adagrad(), Normalized(), Normalized("spread")], ids=repr)
def test_another_rules_state_is_refused_by_what_it_holds(rule):
    state = stepped(1, local_lr=0.01, update_rule=rule).state_dict()
    with pytest.raises(ValueError, match=r"state of '0.weight' holds .*; this configuration keeps .*momentum"):
        stepped(0, update_rule=Momentum()).load_state_dict(state)
    assert issubclass(type(rule), UpdateRule)


@pytest.mark.parametrize("rule", [Adam(), Normalized("spread")], ids=repr)
def test_with_own_directions_the_record_is_a_round_of_all_of_them(rule):
    """Replay knows no more than the record: mP directions; a slot that was dropped has zeros."""
    made = stepped(0, lr=0.01, local_lr=0.01, num_directions=2, directions="client", update_rule=rule)
    replayed = stepped(0, num_directions=2, local_lr=0.01, update_rule=rule)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).eval()
    made = ZerothOrderOptimizer(model.named_parameters(), made.method, seed=3)
    losses = slot_losses(model, 3)
    for r in range(3):
        made.step(losses=[*losses[:2], (lambda k: losses[2](k) * math.nan) if r == 1 else losses[2]])
        assert made.record.scalars.shape == (3, 6)
        assert made.record.dropped == ((2,) if r == 1 else ())
        replayed.apply(made.record)
        assert digest(replayed) == digest(made)


def test_one_number_for_the_step_and_one_for_the_directions_go_together(optimizer_of, fixed):
    optimizer = built(optimizer_of, fixed, Normalized(), preconditioner=Scalar(nu=0.3))
    for record in records(fixed, 1):
        optimizer.apply(record)
    assert [f"{s.name} {s.kind}" for s in optimizer.tensors()[3:]] == ["0 hessian", "0 size"]
