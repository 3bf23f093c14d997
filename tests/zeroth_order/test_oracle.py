"""The method against an oracle that shares nothing with the package but the directions.

The oracle is written from the equations: a two-layer network in NumPy, its losses in float64, x and H in NumPy fp32.
"""

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl.zeroth_order import Diagonal, Identity, Momentum, PerTensor, RoundRecord, Scalar, ZerothOrderOptimizer
from hiso_pl.zeroth_order.streams import Site, direction

F, D = np.float32, np.float64
SEED, LR, MU, NU, EPS, FLOOR, DIRECTIONS, ROUNDS = 77, 0.02, 1e-2, 0.05, 1e-8, 1e-8, 3, 4
SHAPES = [(6, 5), (6,), (3, 6), (3,)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def batches(clients, tau):
    """Inputs [clients, rounds, tau, 8, 5] and targets [clients, rounds, tau, 8]."""
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((clients, ROUNDS, tau, 8, 5)).astype(F)
    return inputs, rng.integers(0, 3, (clients, ROUNDS, tau, 8))


def loss64(x, inputs, targets):
    """Cross-entropy of the network in float64."""
    w1, b1, w2, b2 = (v.astype(D) for v in x)
    logits = np.tanh(inputs.astype(D) @ w1.T + b1) @ w2.T + b2
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float((log_sum - logits[np.arange(len(targets)), targets]).mean())


def u(tensor, round, k, p):
    count = int(np.prod(SHAPES[tensor]))
    return direction(Site(SEED, "normal", tensor, round), k, p, 0, count).reshape(SHAPES[tensor])


def weighted(tensor, round, k, w):
    """s_k = ((w_0 u_0) + w_1 u_1) + ..., fp32."""
    s = F(w[0]) * u(tensor, round, k, 0)
    for p in range(1, DIRECTIONS):
        s = s + F(w[p]) * u(tensor, round, k, p)
    return s


def taken(hessian_update, tau):
    """The local steps whose D moves H."""
    return {"last": [tau - 1], "first": [0], "all": range(tau)}[hessian_update]


def oracle_round(x, h, ghat, round, hessian_update):
    """x_{r+1} and H_{r+1} from x_r, H_r and the aggregated scalars, all fp32."""
    w = (ghat.astype(D) / DIRECTIONS).astype(F)
    new_x, new_h = [], []
    for t in range(len(x)):
        s = [weighted(t, round, k, w[k]) for k in range(len(w))]
        total = s[0]
        for part in s[1:]:
            total = total + part
        if h is None:
            new_x.append(x[t] - F(LR) * total)
            continue
        root = np.sqrt(h[t])
        new_x.append(x[t] - F(LR) * (total / root))
        value = h[t]
        for k in taken(hessian_update, len(s)):
            part = s[k]
            d = part / root
            value = np.maximum(F(1 - NU) * value + F(NU) * (d * d + F(EPS)), F(FLOOR))
        new_h.append(value)
    return new_x, None if h is None else new_h


def oracle_scalars(x, h, inputs, targets, round, difference):
    """g[k, p] of one client in float64 arithmetic, walking its own local steps."""
    tau = len(inputs)
    g = np.zeros((tau, DIRECTIONS))
    root = [np.ones_like(v, dtype=D) if h is None else np.sqrt(hv.astype(D)) for v, hv in zip(x, h or x, strict=True)]
    local = [v.astype(D) for v in x]
    for k in range(tau):
        z = [[u(t, round, k, p).astype(D) / root[t] for t in range(len(x))] for p in range(DIRECTIONS)]
        for p in range(DIRECTIONS):
            plus = loss64([v + MU * d for v, d in zip(local, z[p], strict=True)], inputs[k], targets[k])
            if difference == "central":
                minus = loss64([v - MU * d for v, d in zip(local, z[p], strict=True)], inputs[k], targets[k])
                g[k, p] = (plus - minus) / (2 * MU)
            else:
                g[k, p] = (plus - loss64(local, inputs[k], targets[k])) / MU
        step = [sum(g[k, p] * z[p][t] for p in range(DIRECTIONS)) / DIRECTIONS for t in range(len(x))]
        local = [v - LR * d for v, d in zip(local, step, strict=True)]
    return g


@pytest.mark.parametrize("method", ["hiso", "decomfl"])
@pytest.mark.parametrize(("tau", "hessian_update"), [(1, "last"), (3, "last"), (3, "first"), (3, "all")])
@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("backend", ["numba", "reference", "torch"])
def test_state_to_the_bit_and_scalars_to_rounding(method, tau, hessian_update, difference, backend):
    clients = 2
    model = network()
    preconditioner = Diagonal(NU, EPS, FLOOR, hessian_update) if method == "hiso" else Identity()
    optimizer = ZerothOrderOptimizer(
        model.named_parameters(),
        lr=LR,
        mu=MU,
        num_directions=DIRECTIONS,
        local_steps=tau,
        difference=difference,
        preconditioner=preconditioner,
        seed=SEED,
        backend=backend,
    )
    inputs, targets = batches(clients, tau)
    x = [p.detach().numpy().copy() for p in model.parameters()]
    h = [np.ones_like(v) for v in x] if method == "hiso" else None
    for r in range(ROUNDS):

        def loss(client, r=r):
            def at(k):
                logits = model(torch.from_numpy(inputs[client, r, k]))
                return nn.functional.cross_entropy(logits, torch.from_numpy(targets[client, r, k]))

            return at

        optimizer.step(losses=[loss(i) for i in range(clients)])
        report = optimizer.report
        for i in range(clients):
            expected = oracle_scalars(x, h, inputs[i, r], targets[i, r], r, difference)
            assert np.all(np.abs(report.sent[i] - expected) <= 1e-3 * np.maximum(1, np.abs(expected)))
        mean = np.zeros((tau, DIRECTIONS))
        for i in range(clients):
            mean = mean + report.sent[i].astype(D)
        ghat = (mean / clients).astype(F)
        assert np.array_equal(ghat, report.scalars)

        x, h = oracle_round(x, h, ghat, r, hessian_update)
        for parameter, expected in zip(model.parameters(), x, strict=True):
            assert np.array_equal(parameter.detach().numpy().view(np.uint32), expected.view(np.uint32))
        if h is not None:
            for hessian, expected in zip(optimizer.stored_hessians, h, strict=True):
                assert np.array_equal(hessian.numpy().view(np.uint32), expected.view(np.uint32))
        assert (h is None) == (optimizer.stored_hessians == [])


@pytest.mark.parametrize("kind", [Scalar, PerTensor])
@pytest.mark.parametrize("hessian_update", ["last", "first", "all"])
def test_one_number_follows_the_mean_square(kind, hessian_update):
    model = network()
    optimizer = ZerothOrderOptimizer(
        model.named_parameters(),
        lr=LR,
        num_directions=DIRECTIONS,
        local_steps=2,
        preconditioner=kind(NU, EPS, FLOOR, hessian_update),
        seed=SEED,
    )
    value = [1.0] * len(SHAPES)
    for r in range(ROUNDS):
        ghat = np.random.default_rng(r).standard_normal((2, DIRECTIONS)).astype(F)
        optimizer.apply(RoundRecord(r, LR, MU, ghat, cohort=1))
        w = (ghat.astype(D) / DIRECTIONS).astype(F)
        steps = [[weighted(t, r, k, w[k]).astype(D) / np.sqrt(value[t]) for k in range(2)] for t in range(len(SHAPES))]
        for k in taken(hessian_update, 2):
            means = [float((s[k] ** 2).mean()) for s in steps]
            if kind is Scalar:
                everything = sum(float((s[k] ** 2).sum()) for s in steps) / sum(s[k].size for s in steps)
                means = [everything] * len(SHAPES)
            value = [max((1 - NU) * v + NU * (m + EPS), FLOOR) for v, m in zip(value, means, strict=True)]
        stored = [float(h) for h in optimizer.hessians]
        assert stored == pytest.approx(value, rel=1e-6)
    assert len(optimizer.stored_hessians) == (1 if kind is Scalar else len(SHAPES))


@pytest.mark.parametrize("beta", [0.0, 0.7, 0.9])
@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("method", ["hiso", "decomfl"])
def test_momentum_is_that_of_torch_given_the_same_gradient(optimizer_of, fixed, method, tau, beta):
    """The gradient of :class:`torch.optim.SGD` is sum_k D_k, from the equations.

    Every learning rate is a power of two, so lr times v has no rounding that torch could leave out by fusing it, and
    all is equal to the bit.
    """
    start = [fixed(shape, t).numpy() for t, shape in enumerate(SHAPES)]
    preconditioner = Diagonal(NU, EPS, FLOOR) if method == "hiso" else Identity()
    optimizer = optimizer_of(
        [(str(t), torch.from_numpy(x.copy())) for t, x in enumerate(start)],
        local_steps=tau,
        preconditioner=preconditioner,
        update_rule=Momentum(beta),
        seed=SEED,
    )
    theirs = [nn.Parameter(torch.from_numpy(x.copy())) for x in start]
    sgd = torch.optim.SGD(theirs, lr=1.0, momentum=beta, dampening=0.0, nesterov=False)
    h = [np.ones_like(x) for x in start]
    for r, lr in enumerate([2.0**-5, 2.0**-5, 2.0**-7, 0.0, 2.0**-4, 2.0**-6]):
        ghat = fixed((tau, DIRECTIONS), 10 + r).numpy() * F(3)
        w = (ghat.astype(D) / DIRECTIONS).astype(F)
        optimizer.apply(RoundRecord(r, lr, MU, ghat, cohort=1))
        sums = [[weighted(t, r, k, w[k]) for k in range(tau)] for t in range(len(SHAPES))]
        for t, s in enumerate(sums):
            root = np.sqrt(h[t]) if method == "hiso" else F(1)
            theirs[t].grad = torch.from_numpy(sum(s[1:], start=s[0]) / root)
            h[t] = np.maximum(F(1 - NU) * h[t] + F(NU) * ((s[-1] / root) ** 2 + F(EPS)), F(FLOOR))
        sgd.param_groups[0]["lr"] = lr
        sgd.step()
        kept = {(tensor.name, tensor.kind): tensor.value for tensor in optimizer.tensors()}
        for t, parameter in enumerate(theirs):
            assert torch.equal(kept[str(t), "x"], parameter)
            if beta:
                assert torch.equal(kept[str(t), "momentum"], sgd.state[parameter]["momentum_buffer"])
