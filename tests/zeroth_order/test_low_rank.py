"""Directions of low rank in whole rounds: by the equations, in every way to hold a point, and as what a file tells."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hiso_pl.zeroth_order import Diagonal, Identity, Method, Momentum, RoundRecord, Sgd, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.streams import Site, direction

SEED, LR = 77, 0.25


class Network(nn.Module):
    """An embedding that is read by rows, a convolution, matrices, vectors, and matrices of one row and one column."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.c = nn.Embedding(30, 6), nn.Conv1d(6, 4, 3)
        self.a, self.b = nn.Linear(4, 1), nn.Linear(1, 3)

    def forward(self, x):
        h = self.c(self.e(x).transpose(1, 2)).relu().amax(dim=2)
        return self.b(self.a(h).tanh())


def loss_of(network, client=0):
    x = torch.arange(40).reshape(5, 8) * 7 % 28 + client % 2
    y = (torch.arange(5) + client) % 3
    return lambda k: F.cross_entropy(network(x + k % 2), y)


def rounds(network, count=2, **options):
    network = copy.deepcopy(network).eval()
    optimizer = ZerothOrderOptimizer(
        network.named_parameters(),
        lr=0.05,
        mu=1e-2,
        seed=SEED,
        network=network,
        **{"distribution": "low_rank", "rank": 2, **options},
    )
    for _ in range(count):
        optimizer.step(losses=[loss_of(network, client) for client in range(2)])
    return optimizer


@pytest.mark.parametrize("options", [{"local_steps": 2}, {"difference": "central"}, {"directions": "client"}])
def test_every_memory_and_backend_gives_the_same_digest(options):
    network = Network()
    base = rounds(network, **options)
    assert digest(base) != digest(rounds(network, distribution="normal", rank=1, **options))
    assert digest(base) != digest(rounds(network, rank=3, **options))
    for other in ({"memory": "low"}, {"backend": "reference"}, {"backend": "torch"}):
        assert digest(rounds(network, **options, **other)) == digest(base), other


def test_several_points_in_a_forward_pass_give_the_same_scalars_up_to_rounding():
    network = Network()
    alone, together = (rounds(network, 1, directions_per_forward=d).report.sent for d in (1, 3))
    assert np.abs(alone - together).max() < 1e-3
    assert np.abs(alone).max() > 1e-2


class Halving(Preconditioner):
    """A structured one from outside: what it divides goes by buffer."""

    structured = True

    def initial(self, parameter, target):
        return None

    def divide(self, values, hessian):
        return values * 0.5


@pytest.mark.parametrize("preconditioner", [Identity(), Halving()])
@pytest.mark.parametrize("rule", [Sgd(), Momentum(0.0)])
def test_a_record_moves_x_by_the_equation(preconditioner, rule):
    """In float64 from the factors' products: x' = x - lr (1/P) sum_p ghat_p z_p."""
    network = Network()
    start = [p.detach().clone() for p in network.parameters()]
    optimizer = ZerothOrderOptimizer(
        network.named_parameters(),
        seed=SEED,
        distribution="low_rank",
        rank=4,
        preconditioner=preconditioner,
        update_rule=rule,
    )
    ghat = np.array([[0.5, -2.0, 1.0]], dtype=np.float32)
    optimizer.apply(RoundRecord(0, LR, 1e-3, ghat, cohort=1))
    for t, (before, after) in enumerate(zip(start, network.parameters(), strict=True)):
        site = Site.of(SEED, "low_rank", 4, t, before.shape, 0)
        u = sum(g * direction(site, 0, p, 0, before.numel()).astype(np.float64) for p, g in enumerate(ghat[0]))
        z = u * (0.5 if isinstance(preconditioner, Halving) else 1.0)
        expected = before.numpy().astype(np.float64) - LR * z.reshape(before.shape) / 3
        assert np.abs(after.detach().numpy() - expected).max() < 1e-5
    assert len({tuple(p.shape) for p in start}) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"rank=0 must be an integer in \[1, 8\]"),
        ({"rank": 9}, r"rank=9 must be an integer in \[1, 8\]"),
        ({"rank": 1.5}, r"rank=1.5 must be an integer in \[1, 8\]"),
        ({"rank": True}, r"rank=True must be an integer in \[1, 8\]"),
        ({"rank": "2"}, r"rank=2 must be an integer in \[1, 8\]"),
        ({"rank": 2, "distribution": "normal"}, "rank=2 needs distribution='low_rank', not 'normal'"),
        ({"rank": 2, "distribution": "rademacher"}, "rank=2 needs distribution='low_rank', not 'rademacher'"),
    ],
)
def test_ranks_that_cannot_be_are_refused(options, message):
    options = {"distribution": "low_rank", **options}
    with pytest.raises(ValueError, match=message):
        Method(**options)
    with pytest.raises(ValueError, match=message):
        Method.check_data(options)


def test_a_file_tells_the_rank_and_another_one_does_not_replay():
    mine = Method(distribution="low_rank", rank=3)
    assert Method.applying(mine.as_data()).rank == 3
    assert mine.differing(mine.as_data()) is None
    assert mine.differing(Method(distribution="low_rank").as_data()) == "rank is 1 there and 3 here"
    assert "rank" not in Method().as_data()  # what was told before there were ranks is told the same


def test_a_state_of_another_rank_is_refused_and_an_older_one_is_of_none():
    network = Network()
    saved = rounds(network, 1).state_dict()
    with pytest.raises(ValueError, match="rank=3 configured, but the state was made with 2"):
        rounds(network, 0, rank=3).load_state_dict(saved)
    normal = rounds(network, 1, distribution="normal", rank=1)
    older = normal.state_dict()
    del older["param_groups"][0]["rank"]
    again = rounds(network, 0, distribution="normal", rank=1)
    again.load_state_dict(older)
    assert again.round == 1


@pytest.mark.parametrize("rank", [1, 2])
def test_it_learns(rank):
    """Half of the loss that there is to lose, of a linear map that has every rank, is gone."""
    torch.manual_seed(1)
    model, x = nn.Linear(6, 5), torch.randn(64, 6)
    y = x @ torch.randn(6, 5)
    optimizer = ZerothOrderOptimizer(
        model.named_parameters(),
        lr=0.1,
        num_directions=8,
        seed=1,
        distribution="low_rank",
        rank=rank,
        preconditioner=Diagonal(),
    )
    losses = [float(optimizer.step(lambda: F.mse_loss(model(x), y))) for _ in range(150)]
    assert losses[-1] < 0.5 * losses[0]
