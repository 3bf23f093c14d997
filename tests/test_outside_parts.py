"""What a part from outside gives is refused by its name where it is not what a round can go on with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl.data.rounds import EvaluationBatches
from hiso_pl.federation.partition import Partition
from hiso_pl.zeroth_order import Diagonal, Method, Momentum, Schedule, Sgd, ZerothOrderOptimizer
from hiso_pl.zeroth_order.aggregation import Aggregation
from hiso_pl.zeroth_order.transform import Transform

NAN32 = np.float32("nan")
GIVEN = {
    "another shape": (lambda s: s[:, :1], r"float32 of shape \(1, 1\), must give float32 of shape \(1, 3\)"),
    "one dimension": (lambda s: s[0], r"float32 of shape \(3,\), must give"),
    "another dtype": (lambda s: s.astype(np.float64), r"float64 of shape \(1, 3\), must give float32"),
    "half": (lambda s: s.astype(np.float16), "float16 of shape"),
    "nothing": (lambda s: None, "gave NoneType, must give"),
    "a list": (lambda s: s.tolist(), "gave list, must give"),
    "a tensor": (torch.from_numpy, "gave Tensor, must give"),
    "a number": (lambda s: np.float32(1.0), "gave float32, must give"),
    "NaN": (lambda s: s * NAN32, "gave nan, must give finite numbers of finite ones"),
    "infinity": (lambda s: s / np.float32(0.0) + np.float32("inf"), "must give finite numbers of finite ones"),
}


def stepped(rounds: int = 1, **parts: object) -> ZerothOrderOptimizer:
    """An optimizer after rounds with parts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    optimizer = ZerothOrderOptimizer(model.named_parameters(), num_directions=3, **parts)
    for _ in range(rounds):
        optimizer.step(lambda: model(torch.ones(2, 3)).square().mean())
    return optimizer


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("kind", ["transform", "aggregation"])
def test_scalars_that_are_none(kind, name):
    make, message = GIVEN[name]

    class Odd(Transform if kind == "transform" else Aggregation):  # type: ignore[misc]
        def __call__(self, scalars, *_):
            return make(scalars if kind == "transform" else scalars[0])

    with pytest.raises(ValueError, match=rf"{kind}=Odd\(\) gave ") as refused:
        stepped(**{kind: Odd()})
    assert refused.match(message)


def test_what_a_part_does_to_its_arguments_changes_nothing():
    class Meddling(Aggregation):
        def __call__(self, scalars, present, weights):
            found = scalars[present].mean(axis=0, dtype=np.float64).astype(np.float32)
            scalars[:], present[:] = 0.0, False
            return found

    class Rewriting(Transform):
        def __call__(self, scalars, departure):
            sent = scalars.copy()
            scalars[:] = NAN32
            if departure.before is not None:
                departure.before.scalars[:] = NAN32
            return sent

    plain, odd = stepped(3), stepped(3, aggregation=Meddling(), transform=Rewriting())
    assert odd.record.dropped == ()
    assert np.array_equal(odd.record.scalars, plain.record.scalars)
    assert np.array_equal(odd.report.sent, plain.report.sent)


def test_scalars_that_are_too_large_to_combine_are_still_a_drop():
    class Overflowing(Aggregation):
        def __call__(self, scalars, present, weights):
            with np.errstate(all="ignore"):
                return (scalars[present].sum(axis=0) * np.float32(1e38)).astype(np.float32)

    with torch.random.fork_rng():
        model = nn.Linear(3, 2)
    optimizer = ZerothOrderOptimizer(model.named_parameters(), num_directions=3, aggregation=Overflowing())
    optimizer.step(lambda: model(torch.ones(2, 3)).square().mean() * 1e25)
    assert optimizer.record.empty


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.1", True, [0.1], torch.ones(2)], ids=repr)
@pytest.mark.parametrize("name", ["mu_schedule", "num_directions_schedule"])
def test_a_schedule_that_gives_no_number(name, value):
    class Odd(Schedule):
        def __call__(self, initial, round):
            return value

    method = Method(**{name: Odd()})
    with pytest.raises(ValueError, match=rf"{name}=Odd\(\) gave .* in round 3, must give a finite number"):
        method.mu_at(3) if name == "mu_schedule" else method.num_directions_at(3)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_a_schedule_that_gives_too_little(value):
    class Odd(Schedule):
        def __call__(self, initial, round):
            return value

    with pytest.raises(ValueError, match=r"mu=.* must be finite and positive: see mu_schedule"):
        Method(mu_schedule=Odd()).mu_at(3)
    with pytest.raises(ValueError, match=r"num_directions in round 3=.* must be an integer"):
        Method(num_directions_schedule=Odd()).num_directions_at(3)


@pytest.mark.parametrize(
    ("initial", "found"),
    [
        (lambda p: p.detach().double(), "float64 of shape"),
        (lambda p: torch.ones(4), r"float32 of shape \(4,\)"),
        (lambda p: 1.0, "gave float"),
        (lambda p: np.ones(p.shape, np.float32), "gave ndarray"),
    ],
)
def test_an_h_that_cannot_be(initial, found):
    class Odd(Diagonal):
        def initial(self, parameter, target):
            return initial(parameter)

    with pytest.raises(ValueError, match=rf"preconditioner=Odd.* initial\(\) gave {found}|{found}") as refused:
        stepped(preconditioner=Odd())
    assert "for 'weight', must give float32 on cpu, of its shape or one element" in str(refused.value)


@pytest.mark.parametrize("owners", [[0], [0, 0, 0], [1, 0], [0, 7], ["a", "b"], [-1, 1]])
def test_owners_that_are_none(owners):
    class Odd(Diagonal):
        def owners(self, targets):
            return owners

    with pytest.raises(ValueError, match=r"owners\(\) gave .* must give for each of 2 tensors an owner"):
        stepped(preconditioner=Odd())


def test_a_division_of_another_shape_and_an_advance_that_is_lost():
    class Wide(Diagonal):
        structured = True

        def divide(self, values, hessian):
            return values.sum()

    class Lost(Diagonal):
        structured = True

        def divide(self, values, hessian):
            return values

        def advance(self, hessian, steps, target):
            return hessian + 1.0

    with pytest.raises(ValueError, match=r"preconditioner=Wide.*divide\(\) gave torch.float32 of shape \(\)"):
        stepped(preconditioner=Wide())
    with pytest.raises(ValueError, match=r"preconditioner=Lost.* must advance H in place: what advance\(\) gives"):
        stepped(preconditioner=Lost())


def test_a_rule_whose_move_is_lost():
    class Gives(Sgd):
        fused = False

        def move(self, x, direction, lr, state, target):
            return x - lr * direction

    class Replaces(Momentum):
        def move(self, x, direction, lr, state, target):
            state["momentum"] = state["momentum"] * 0.5 + direction
            x.sub_(state["momentum"] * lr)

    class Odd(Momentum):
        def initial(self, parameter, target):
            return {"momentum": torch.zeros_like(parameter, dtype=torch.float64)}

    for rule in (Gives(), Replaces()):
        with pytest.raises(ValueError, match=r"update_rule=.* must move x and state in place"):
            stepped(update_rule=rule)
    with pytest.raises(ValueError, match=r"update_rule=Odd.* initial\(\) gave torch.float64 .* as 'momentum'"):
        stepped(update_rule=Odd())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (None, "a list of clients=2 arrays"),
        ([[0, 1, 2, 3]], "a list of clients=2 arrays"),
        ([[0, 1], [2.0, 3.0]], "arrays of integers"),
        ([[[0, 1]], [[2, 3]]], "a list of clients=2 arrays"),
        ([[0, 1], [1, 2]], "gave 4 indices, must give each of 0 to 3 once"),
        ([[0, 1], [2]], "gave 3 indices, must give each of 0 to 3 once"),
        ([[0, 1], [2, 4]], "must give each of 0 to 3 once"),
        ([[0, 1], [2, -1]], "must give each of 0 to 3 once"),
    ],
)
def test_a_partition_that_loses_examples_or_gives_them_twice(parts, message):
    class Odd(Partition):
        def deal(self, values, clients, seed):
            return parts

    with pytest.raises(ValueError, match=rf"partition=Odd: deal\(\) .*{message}"):
        Odd()(np.zeros(4, np.int64), 2, 0)


def test_examples_that_stop_are_not_the_end_of_a_split():
    class Stopping:
        def __len__(self):
            return 8

        def collate(self, indices):
            raise StopIteration

    with pytest.raises(RuntimeError, match="let out by the examples of batch 1"):
        EvaluationBatches(Stopping(), 4)[1]
