"""A state that is no longer finite: found by the update, named, and never written."""

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import Diagonal, Identity, RoundRecord, Scalar, ZerothOrderOptimizer
from hiso_pl.zeroth_order.tensors import NotFiniteError


def optimizer_of(**options):
    torch.manual_seed(0)
    return ZerothOrderOptimizer(torch.nn.Linear(4, 3).named_parameters(), **{"lr": 0.1, **options})


def record(round, *scalars, lr=0.1):
    return RoundRecord(round, lr, 1e-3, np.array([scalars], np.float32), cohort=1)


@pytest.mark.parametrize(
    ("options", "records", "said"),
    [
        ({"preconditioner": Diagonal()}, [record(0, 3e25)], r"round 0: 'weight \(hessian\)' is not finite"),
        ({"preconditioner": Scalar()}, [record(0, 3e25)], r"round 0: 'weight \(hessian\)' is not finite"),
        ({"preconditioner": Identity()}, [record(0, 1.0), record(1, 3e38, lr=10.0)], "round 1: 'weight' is not finite"),
        (
            {"preconditioner": Diagonal(nu=1.0, eps=0.0, floor=0.0)},
            [record(0, 0.0)],
            r"round 0: 'weight \(hessian\)' has fallen to 0: give the preconditioner a floor above 0",
        ),
    ],
)
def test_the_update_names_round_and_tensor_and_the_state_is_of_no_round(options, records, said):
    optimizer = optimizer_of(**options)
    for one in records[:-1]:
        optimizer.apply(one)
    with pytest.raises(NotFiniteError, match=said) as caught:
        optimizer.apply(records[-1])
    assert "\n" not in str(caught.value)
    assert optimizer.round == records[-1].round
    with pytest.raises(RuntimeError, match="was broken off"):
        optimizer.state_dict()


def test_large_but_finite_values_pass():
    optimizer = optimizer_of(preconditioner=Identity())
    optimizer.apply(record(0, 1e30))
    optimizer.apply(RoundRecord(1, 0.1, 1e-3, np.zeros((1, 1), np.float32), cohort=1, dropped=(0,)))  # an empty one
    assert (optimizer.round, optimizer.param_groups[0]["applied"]) == (2, 1)
