"""Fixed small runs give the pinned digests: a change of structure leaves the bits as they are.

Their gradients are single products and differences of numbers, and losses are summed exactly, so that no processor or
version of torch has others. ``HISO_PL_REPIN=1 pytest tests/first_order/test_pins.py`` writes the table anew.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hiso_pl.first_order import FedAdagrad, FedAdam, FedAvg, FedYogi, FedZO
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import Slots

LOCAL = {"lr": 0.3, "local_steps": 3}
PROBED = {"lr": 0.01, "local_steps": 2, "num_directions": 3}
METHODS = {
    "FedAvg": FedAvg(**LOCAL),
    "FedAvg, weighted, momentum, weight decay": FedAvg(**LOCAL, weighted=True, momentum=0.9, weight_decay=0.01),
    "FedAvg, server_lr null": FedAvg(**LOCAL, server_lr=None),
    "FedAdam": FedAdam(**LOCAL, server_lr=0.03),
    "FedAdam, authors": FedAdam(**LOCAL, server_lr=None, beta_2=0.999, tau=0.0, epsilon=1e-8),
    "FedYogi": FedYogi(**LOCAL, server_lr=0.03),
    "FedAdagrad": FedAdagrad(**LOCAL, server_lr=0.03, beta_1=0.5),
    "FedZO": FedZO(**PROBED),
    "FedZO, central, rademacher, weighted": FedZO(
        **PROBED, difference="central", distribution="rademacher", weighted=True
    ),
}
CLIENTS, WEIGHTS, ROUNDS = (5, 0, 3), (7.0, 1.0, 3.0), 5


def exact(problem, parameters, client: int, k: int) -> Tensor:
    """The loss summed exactly, for those who do not ask for its gradient."""
    parts = [(problem.a(client, k, t) * x - problem.b(client, k, t)) ** 2 for t, x in enumerate(parameters)]
    return torch.tensor(math.fsum(float(v) for part in parts for v in part.reshape(-1)) / 2, dtype=torch.float32)


def rounds(problem, method):
    """An optimizer after rounds, in one of which a slot is dropped, and in one all."""
    optimizer = problem.optimizer(method, seed=2**63 + 5)
    slots = Slots(3, (0, 1, 2), CLIENTS, WEIGHTS)
    value = exact if isinstance(method, FedZO) else type(problem).loss
    for r in range(ROUNDS):
        optimizer.param_groups[0]["lr"] = method.lr / (1 + r)

        def of(slot, r=r):
            lost = {1: (1,), 3: (0, 1, 2)}.get(r, ())
            scale = torch.nan if slot in lost else 1.0
            return lambda k: value(problem, optimizer.parameters, CLIENTS[slot], k + 10 * r) * scale

        optimizer.step(losses=[of(slot) for slot in range(3)], slots=slots)
        assert len(optimizer.report.dropped) == {1: 1, 3: 3}.get(r, 0)
    return optimizer


@pytest.mark.parametrize("name", METHODS)
def test_a_run_gives_the_pinned_digest(problem, pins, name):
    optimizer = rounds(problem, METHODS[name])
    assert all(torch.isfinite(state.value).all() for state in optimizer.tensors())
    pins.hold(name, digest(optimizer))


@pytest.mark.parametrize("backend", ["reference", "numba", "torch"])
def test_every_backend_gives_the_pinned_digest(problem, pins, backend):
    pins.hold("FedZO", digest(rounds(problem, FedZO(**PROBED, backend=backend))))


def test_each_pin_is_of_its_own(pins):
    assert pins.table.keys() == METHODS.keys()
    assert len({*pins.table.values()}) == len(METHODS)
