"""Each method against a slow loop in float64, written from its paper, that shares no code with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl.first_order import DifferenceOptimizer, FedAdagrad, FedAdam, FedAvg, FedYogi, FedZO
from hiso_pl.zeroth_order.interfaces import Slots
from hiso_pl.zeroth_order.streams import Site, direction

COHORT = Slots(3, (0, 1, 2), (4, 1, 6), (5.0, 1.0, 2.0))
ROUNDS = 6


def local_sgd(problem, x, client, round, steps, lr, momentum=0.0, decay=0.0):
    """One client's model after its steps, less x."""
    here, carried = [v.copy() for v in x], [np.zeros_like(v) for v in x]
    for k in range(steps):
        for t, g in enumerate(problem.gradient(here, client, k + 10 * round)):
            carried[t] = momentum * carried[t] + g + decay * here[t]
        here = [v - lr * b for v, b in zip(here, carried, strict=True)]
    return [v - start for v, start in zip(here, x, strict=True)]


def server(problem, rule, rounds=ROUNDS, steps=2, lr=0.1, weights=(1.0, 1.0, 1.0), lrs=None, **local):
    """x after rounds: `rule` moves x by the mean difference of a tensor, its moments being its own affair."""
    x, memory = [v.numpy().astype(np.float64) for v in problem.start], [{} for _ in problem.start]
    for r in range(rounds):
        eta = lr if lrs is None else lrs[r]
        found = [local_sgd(problem, x, client, r, steps, eta, **local) for client in COHORT.clients]
        mean = [sum(n * d[t] for n, d in zip(weights, found, strict=True)) / sum(weights) for t in range(len(x))]
        x = [v + rule(m, kept, eta) for v, m, kept in zip(x, mean, memory, strict=True)]
    return x


def ran(problem, method, rounds=ROUNDS, lrs=None):
    optimizer = problem.optimizer(method)
    for r in range(rounds):
        if lrs is not None:
            optimizer.param_groups[0]["lr"] = lrs[r]
        problem.round(optimizer, COHORT, r)
    return [p.detach().numpy() for p in optimizer.parameters]


def assert_close(found, expected, tolerance=2e-6):
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


@pytest.mark.parametrize(
    ("options", "local", "weights"),
    [
        ({}, {}, (1.0, 1.0, 1.0)),
        ({"server_lr": 0.7}, {}, (1.0, 1.0, 1.0)),
        ({"momentum": 0.9}, {"momentum": 0.9}, (1.0, 1.0, 1.0)),
        ({"weight_decay": 0.3}, {"decay": 0.3}, (1.0, 1.0, 1.0)),
        ({"momentum": 0.5, "weight_decay": 0.1}, {"momentum": 0.5, "decay": 0.1}, (1.0, 1.0, 1.0)),
        ({"weighted": True}, {}, (5.0, 1.0, 2.0)),
    ],
    ids=str,
)
def test_fedavg(problem, options, local, weights):
    eta = options.get("server_lr", 1.0)
    expected = server(problem, lambda mean, kept, lr: eta * mean, weights=weights, steps=3, **local)
    found = ran(problem, FedAvg(lr=0.1, local_steps=3, **options))
    assert_close(found, expected)
    plain = server(problem, lambda mean, kept, lr: mean, steps=3)
    if options:
        with pytest.raises(AssertionError):
            assert_close(found, plain, 1e-3)


def adaptive(eta, beta_1, tau, second):
    """Algorithm 2 of arXiv 2003.00295."""

    def rule(mean, kept, lr):
        kept["m"] = beta_1 * kept.get("m", 0.0) + (1 - beta_1) * mean
        kept["v"] = second(kept.get("v", tau**2), mean)
        return eta * kept["m"] / (np.sqrt(kept["v"]) + tau)

    return rule


SECOND = {
    FedAdagrad: lambda v, d: v + d**2,
    FedYogi: lambda v, d: v - (1 - 0.95) * d**2 * np.sign(v - d**2),
    FedAdam: lambda v, d: 0.95 * v + (1 - 0.95) * d**2,
}


@pytest.mark.parametrize("kind", SECOND)
@pytest.mark.parametrize(("beta_1", "tau"), [(0.9, 1e-3), (0.0, 0.1)])
def test_adaptive_methods(problem, kind, beta_1, tau):
    more = {} if kind is FedAdagrad else {"beta_2": 0.95}
    found = ran(problem, kind(lr=0.1, server_lr=0.05, local_steps=2, beta_1=beta_1, tau=tau, **more))
    assert_close(found, server(problem, adaptive(0.05, beta_1, tau, SECOND[kind])), 1e-5)


def test_the_papers_defaults():
    assert (FedAdam().beta_1, FedAdam().beta_2, FedAdam().tau) == (0.9, 0.99, 1e-3)
    assert (FedYogi().beta_1, FedYogi().beta_2, FedYogi().tau) == (0.9, 0.99, 1e-3)
    assert FedAdagrad().beta_1 == 0.0
    assert (FedAvg().momentum, FedAvg().weight_decay, FedAvg().weighted, FedAvg().server_lr) == (0.0, 0.0, False, 1.0)


def test_the_authors_variant_has_one_rate_and_its_epsilon_under_the_root(problem):
    """fed_avg/server.py of the authors' code: v from 0, no correction of bias, lr m / sqrt(v + 1e-8)."""

    def rule(mean, kept, lr):
        kept["m"] = 0.9 * kept.get("m", 0.0) + 0.1 * mean
        kept["v"] = 0.999 * kept.get("v", 0.0) + 0.001 * mean**2
        return lr * kept["m"] / np.sqrt(kept["v"] + 1e-8)

    lrs = [0.05, 0.04, 0.04, 0.02, 0.01, 0.01]
    method = FedAdam(lr=0.05, server_lr=None, local_steps=2, beta_2=0.999, tau=0.0, epsilon=1e-8)
    assert_close(ran(problem, method, lrs=lrs), server(problem, rule, lrs=lrs), 1e-5)


def test_fedavg_of_one_step_is_sgd_on_the_union_of_the_minibatches():
    """All clients, minibatches of one size, one local step: against torch's own SGD on all examples."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
        twin = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
        twin.load_state_dict(model.state_dict())
        inputs, targets = torch.randn(5, 40, 6), torch.randint(0, 3, (5, 40))
    optimizer = DifferenceOptimizer(model.named_parameters(), FedAvg(lr=0.3), network=model)
    plain = torch.optim.SGD(twin.parameters(), lr=0.3)
    slots = Slots(4, (0, 1, 2, 3), (0, 1, 2, 3))

    def loss_of(x, y):
        return lambda k: nn.functional.cross_entropy(model(x), y)

    for x, y in zip(inputs, targets, strict=True):
        losses = [loss_of(*part) for part in zip(x.split(10), y.split(10), strict=True)]
        loss = optimizer.step(losses=losses, slots=slots)
        plain.zero_grad()
        union = nn.functional.cross_entropy(twin(x), y)
        union.backward()
        plain.step()
        assert float(loss) == pytest.approx(float(union.detach()), rel=1e-6)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=5e-7)


@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
def test_fedzo(problem, difference, distribution):
    """Local steps along directions of each client's own: slot i draws numbers i P to i P + P - 1."""
    steps, directions, mu, lr, seed, rank = 3, 2, 1e-2, 0.02, 11, 2 if distribution == "low_rank" else 1
    probed = {"mu": mu, "num_directions": directions, "difference": difference}
    method = FedZO(lr=lr, local_steps=steps, distribution=distribution, rank=rank, **probed)
    optimizer = problem.optimizer(method, seed=seed)
    x = [v.numpy().astype(np.float64) for v in problem.start]

    def f(values, client, k):
        a, b = (
            [g(client, k, t).numpy().astype(np.float64) for t in range(len(values))] for g in (problem.a, problem.b)
        )
        return sum(((p * v - q) ** 2).sum() for p, v, q in zip(a, values, b, strict=True)) / 2

    for r in range(3):
        problem.round(optimizer, COHORT, r)
        moves = []
        for slot, client in enumerate(COHORT.clients):
            here = [v.copy() for v in x]
            for k in range(steps):
                step = [np.zeros_like(v) for v in here]
                for p in range(slot * directions, (slot + 1) * directions):
                    u = [
                        direction(Site.of(seed, distribution, rank, t, v.shape, r), k, p, 0, v.size)
                        .reshape(v.shape)
                        .astype(np.float64)
                        for t, v in enumerate(here)
                    ]
                    up = f([v + mu * w for v, w in zip(here, u, strict=True)], client, k + 10 * r)
                    down = [v - mu * w for v, w in zip(here, u, strict=True)] if difference == "central" else here
                    g = (up - f(down, client, k + 10 * r)) / (mu * (2 if difference == "central" else 1))
                    step = [s + g * w / directions for s, w in zip(step, u, strict=True)]
                here = [v - lr * s for v, s in zip(here, step, strict=True)]
            moves.append([v - start for v, start in zip(here, x, strict=True)])
        x = [v + np.mean([m[t] for m in moves], axis=0) for t, v in enumerate(x)]
        assert_close([p.detach().numpy() for p in optimizer.parameters], x, 2e-4)
    assert optimizer.report.forwards == 3 * steps * (directions + 1 if difference == "forward" else 2 * directions)
