"""Blocks on H's diagonal against loops in float64, and the same bits by every way of computing them."""

import math

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import Block, Diagonal, Method, Momentum, RoundRecord
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.kernels import select
from hiso_pl.zeroth_order.kernels.blocks import Average, Blocks, TorchFactor
from hiso_pl.zeroth_order.streams import Site, direction
from hiso_pl.zeroth_order.tensors import NotFiniteError

SHAPES = {"matrix": (6, 5), "vector": (7,), "one": (), "conv": (2, 3, 3, 3), "none": (0, 4)}
SEED, P, MU, LR, NU, EPS = 11, 3, 1e-2, 0.02, 0.3, 1e-3
BACKENDS = ["numba", "torch", "reference"]


# The oracle: lists of Python floats, from the equations


def cut(shape, size):
    """Where a tensor's blocks are in its elements."""
    rows = shape[0] if len(shape) > 1 else 1
    width = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    starts = [(r * width + c, min(size, width - c)) for r in range(rows) for c in range(0, width, size)]
    return [range(start, start + count) for start, count in starts]


def cholesky(h):
    low = [[0.0] * len(h) for _ in h]
    for i in range(len(h)):
        for j in range(i + 1):
            left = h[i][j] - sum(low[i][k] * low[j][k] for k in range(j))
            low[i][j] = math.sqrt(left) if i == j else left / low[j][j]
    return low


def divided(u, blocks, hs):
    """z = L^-T u."""
    z = [0.0] * len(u)
    for block, h in zip(blocks, hs, strict=True):
        low = cholesky(h)
        for i in reversed(range(len(h))):
            behind = sum(low[k][i] * z[block[k]] for k in range(i + 1, len(h)))
            z[block[i]] = (u[block[i]] - behind) / low[i][i]
    return z


def inverse_trace(h):
    """tr H^-1, from the columns of L^-1."""
    low, total = cholesky(h), 0.0
    for column in range(len(h)):
        found = []
        for i in range(len(h)):
            right = float(i == column) - sum(low[i][k] * found[k] for k in range(i))
            found.append(right / low[i][i])
        total += sum(v * v for v in found)
    return total


class Oracle:
    """x and H of every tensor."""

    def __init__(self, start, size, which, trace):
        self.x = {name: x.reshape(-1).tolist() for name, x in start.items()}
        self.blocks = {name: cut(tuple(x.shape), size) for name, x in start.items()}
        self.h = {
            name: [[[float(i == j) for j in range(len(b))] for i in range(len(b))] for b in blocks]
            for name, blocks in self.blocks.items()
        }
        self.which, self.trace = which, trace
        self.c = 1.0

    def z(self, name, t, round, k, p):
        u = direction(Site(SEED, "normal", t, round), k, p, 0, len(self.x[name])).tolist()
        return [self.c * v for v in divided(u, self.blocks[name], self.h[name])]

    def d(self, ghat, round):
        """D by local step and tensor."""
        found = []
        for k, row in enumerate(ghat):
            step = {}
            for t, name in enumerate(self.x):
                zs = [self.z(name, t, round, k, p) for p in range(len(row))]
                step[name] = [
                    sum(g * z[e] for g, z in zip(row, zs, strict=True)) / len(row) for e in range(len(self.x[name]))
                ]
            found.append(step)
        return found

    def apply(self, ghat, round):
        steps = self.d(ghat, round)
        for step in steps:
            for name, d in step.items():
                self.x[name] = [v - LR * s for v, s in zip(self.x[name], d, strict=True)]
        for step in {"last": steps[-1:], "first": steps[:1], "all": steps}[self.which]:
            for name, d in step.items():
                for block, h in zip(self.blocks[name], self.h[name], strict=True):
                    for i, a in enumerate(block):
                        for j, b in enumerate(block):
                            h[i][j] = (1 - NU) * h[i][j] + NU * (d[a] * d[b] + (EPS if i == j else 0.0))

        if self.trace:
            elements = sum(map(len, self.x.values()))
            self.c = math.sqrt(elements / sum(inverse_trace(h) for hs in self.h.values() for h in hs))

    def scalars(self, round, tau):
        """g of the loss |x|^2 / 2, on the way of a client's own local steps."""
        rows, x = [], {name: list(v) for name, v in self.x.items()}
        for k in range(tau):
            zs = [{name: self.z(name, t, round, k, p) for t, name in enumerate(x)} for p in range(P)]
            pairs = [[(v, s) for name in x for v, s in zip(x[name], z[name], strict=True)] for z in zs]
            rows.append([sum(v * s + MU / 2 * s * s for v, s in some) for some in pairs])
            for name in x:
                steps = [sum(g * z[name][e] for g, z in zip(rows[k], zs, strict=True)) / P for e in range(len(x[name]))]
                x[name] = [v - LR * s for v, s in zip(x[name], steps, strict=True)]
        return rows


def packed(hs):
    return [h[i][j] for h in hs for i in range(len(h)) for j in range(i + 1)]


@pytest.fixture
def start(fixed):
    return {name: fixed(shape, salt) for salt, (name, shape) in enumerate(SHAPES.items())}


@pytest.fixture
def built(start, optimizer_of):
    """Builds an optimizer of the tensors."""

    def built(preconditioner, tensors=start, **options):
        chosen = {"lr": LR, "mu": MU, "num_directions": P, "seed": SEED, **options}
        return optimizer_of([(n, x.clone()) for n, x in tensors.items()], preconditioner=preconditioner, **chosen)

    return built


def squared(optimizer):
    """The loss |x|^2 / 2 of whatever the parameters hold."""
    return lambda *_: sum(p.double().square().sum() for p in optimizer.parameters).float() / 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("size", "tau", "which", "normalize"),
    [
        (1, 1, "last", "none"),
        (4, 3, "all", "none"),
        (4, 2, "last", "trace"),
        (16, 1, "last", "trace"),
        (64, 2, "last", "none"),
    ],
)
def test_scalars_x_and_h_are_those_of_loops_in_float64(start, built, backend, size, tau, which, normalize):
    optimizer = built(Block(size, NU, EPS, 1e-8, which, normalize), local_steps=tau, backend=backend)
    oracle = Oracle(start, size, which, normalize == "trace")
    for r in range(4):
        expected = oracle.scalars(r, tau)
        assert optimizer.plan().frozen.scale == pytest.approx(oracle.c, rel=1e-5)
        optimizer.step(squared(optimizer))
        assert np.allclose(optimizer.report.scalars, expected, rtol=2e-3, atol=2e-3)
        oracle.apply(optimizer.report.scalars.tolist(), r)
        for name, p in zip(optimizer.names, optimizer.parameters, strict=True):
            assert np.allclose(p.reshape(-1).numpy(), oracle.x[name], rtol=1e-4, atol=1e-5)
        for name, h in zip(optimizer.names, optimizer.hessians, strict=True):
            assert np.allclose(h.reshape(-1).numpy(), packed(oracle.h[name]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", [None, Momentum()])
@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_of_one_element_are_the_diagonal_to_the_bit(built, rule, backend):
    found = []
    for kind in (lambda *options: Block(1, *options), Diagonal):
        options = {} if rule is None else {"update_rule": rule}
        optimizer = built(kind(NU, 1e-3, 0.8, "last"), local_steps=2, backend=backend, **options)
        for _ in range(3):
            optimizer.step(squared(optimizer))
        found.append([t.value.reshape(-1) for t in optimizer.tensors()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert (found[0][len(SHAPES)] == np.float32(0.8)).any()  # the floor is felt


# The same bits


@pytest.mark.parametrize("shape", [(5,), (), (70, 40), (3, 1367), (2, 3, 3, 3), (9, 1), (0, 3), (3, 0)])
@pytest.mark.parametrize("size", [1, 4, 16, 64])
def test_torch_and_compiled_loops_agree_to_the_bit_on_any_number_of_threads(shape, size):
    blocks = Blocks.of(shape, size)
    average = Average(*map(np.float32, (0.8, 0.2, 1e-3, 0.1)))
    numba, torched = select("numba", torch.device("cpu")), select("torch", torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    ways = [torch.zeros(blocks.rows, blocks.packed) for _ in range(2)]
    before, threads = None, torch.get_num_threads()
    try:
        for way in ways:
            way[:, torch.from_numpy(blocks.diagonal)] = 1.0
        for count in (1, 3, 1):
            d = torch.randn(shape, generator=generator)
            torch.set_num_threads(count)
            numba.advance_blocks(ways[0], blocks, d, average)
            torched.advance_blocks(ways[1], blocks, d, average)
            assert torch.equal(*ways)
            u = torch.randn(shape, generator=generator)
            one, other = numba.factor(ways[0], blocks, before), TorchFactor.made(ways[1], blocks)
            assert torch.equal(one.solve(u), other.solve(u))
            assert np.array_equal(one.inverse_traces(), other.inverse_traces())
            if len(shape) > 1 and u.numel():
                rows = torch.tensor([blocks.rows - 1, 0, blocks.rows - 1])
                for factor in (one, other):
                    assert torch.equal(factor.of_rows(rows).solve(u[rows]), one.solve(u)[rows])
            before = one
    finally:
        torch.set_num_threads(threads)


def test_what_is_not_positive_definite_is_found_wherever_it_is():
    blocks = Blocks.of((70, 21), 4)
    for kernels in (select("numba", torch.device("cpu")), select("torch", torch.device("cpu"))):
        for row, block in ((0, 0), (69, 5), (33, 2)):
            h = torch.zeros(70, blocks.packed)
            h[:, torch.from_numpy(blocks.diagonal)] = 1.0
            assert kernels.factor(h, blocks) is not None
            h[row, block * 10] = -1.0 if block < 5 else float("nan")
            assert kernels.factor(h, blocks) is None


@pytest.mark.parametrize("trace", ["none", "trace"])
def test_every_backend_and_chunk_replays_and_resumes_to_the_same_digest(built, trace, monkeypatch):
    monkeypatch.setattr("hiso_pl.zeroth_order.kernels.blocks._CHUNKS", {"cpu": 8})
    digests, kind = set(), Block(4, NU, normalize=trace)
    for backend in BACKENDS:
        trained = built(kind, backend=backend, local_steps=2)
        records = []
        for r in range(4):
            if r == 2:
                saved, other = (
                    trained.state_dict(),
                    built(kind, dict(zip(trained.names, trained.parameters, strict=True))),
                )
                trained = built(
                    kind,
                    {n: p.clone() for n, p in zip(other.names, other.parameters, strict=True)},
                    backend=backend,
                    local_steps=2,
                )
                trained.load_state_dict(saved)
            trained.step(squared(trained))
            records.append(trained.record)
        replayed = built(kind, backend="torch", local_steps=2)
        for record in records:
            replayed.apply(record)
        digests |= {digest(trained), digest(replayed)}
    assert len(digests) == 1


# What cannot be


@pytest.mark.parametrize("size", [0, 65, 1.5, -4, True, "16"])
def test_sizes_that_cannot_be(size):
    with pytest.raises(ValueError, match=rf"size={size} must be an integer in \[1, 64\]"):
        Block(size)


@pytest.mark.parametrize("distribution", ["rademacher"])
def test_directions_that_blocks_cannot_be_had_with(distribution):
    with pytest.raises(
        ValueError, match=rf"distribution='{distribution}' must be normal with preconditioner=Block\(size=16"
    ):
        Method(preconditioner=Block(), distribution=distribution)
    with pytest.raises(ValueError, match=f"distribution='{distribution}' must be normal"):
        Method.applying({"preconditioner": {"Block": {}}, "distribution": distribution})


def test_an_h_that_is_no_longer_positive_definite_stops_the_run_by_name_and_round(built):
    optimizer = built(Block(4, nu=1.0, eps=0.0, floor=1e-8))
    message = r"round 0: 'matrix' \(hessian\) is not positive definite: give the preconditioner a larger eps.* after"
    with pytest.raises(NotFiniteError, match=message) as caught:
        optimizer.apply(RoundRecord(0, LR, MU, np.ones((1, P), np.float32), cohort=1))
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="the update of round 0 was broken off"):
        optimizer.state_dict()


def test_a_state_of_other_blocks_or_of_none_is_refused(built):
    saved = built(Block(4)).state_dict()
    with pytest.raises(
        ValueError, match=r"state of 'matrix' holds hessian \(6, 11\); this configuration keeps hessian \(6, 15\)"
    ):
        built(Block(5)).load_state_dict(saved)
    with pytest.raises(ValueError, match="this configuration keeps hessian"):
        built(Diagonal()).load_state_dict(saved)
    saved["state"][0]["hessian"][0, 1] = 1.5
    optimizer = built(Block(4))
    with pytest.raises(ValueError, match=r"state of 'matrix' \(hessian\) is not positive definite"):
        optimizer.load_state_dict(saved)


def test_curves_show_the_diagonals(built, start):
    optimizer = built(Block(4, NU))
    optimizer.step(squared(optimizer))
    for shown, h, x in zip(optimizer.shown_hessians(), optimizer.hessians, start.values(), strict=True):
        assert shown.value.numel() == x.numel()
        assert bool((shown.value > 0).all())
        assert x.numel() == 0 or h.numel() == x.numel() or bool((h < 0).any())


def test_a_hessian_that_is_set_between_rounds_is_taken(built):
    one, other = built(Block(4, NU)), built(Block(4, NU))
    for optimizer in (one, other):
        optimizer.step(squared(optimizer))
    one.hessians[0].mul_(4.0)
    record = RoundRecord(1, LR, MU, np.ones((1, P), np.float32), cohort=1)
    for optimizer in (one, other):
        optimizer.apply(record)
    assert not torch.equal(one.parameters[0], other.parameters[0])
    assert torch.equal(one.parameters[1], other.parameters[1])
