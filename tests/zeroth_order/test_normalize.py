"""Directions whose expected square is that of directions without H: what H's shape alone does."""

import copy
import math

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import Block, Diagonal, Identity, PerTensor, RoundRecord, Scalar
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.part import built as part_built
from hiso_pl.zeroth_order.precision import displacements_in_ulps
from hiso_pl.zeroth_order.streams import Site, direction

SHAPES = {"long": (3, 1367), "one": (), "odd": (7,), "none": (0, 3)}
SEED, P, MU, LR, NU = 5, 2, 1e-2, 1e-4, 0.3
RATE = 0.05  # of records that no losses belong to, so that x moves far
KINDS = {"Diagonal": Diagonal, "Scalar": Scalar, "PerTensor": PerTensor, "Block": lambda **options: Block(4, **options)}


@pytest.fixture
def built(fixed, optimizer_of):
    def built(preconditioner, **options):
        tensors = [(name, fixed(shape, salt)) for salt, (name, shape) in enumerate(SHAPES.items())]
        chosen = {"lr": LR, "mu": MU, "num_directions": P, "seed": SEED, **options}
        return optimizer_of(tensors, preconditioner=preconditioner, **chosen)

    return built


def record(fixed, r, tau):
    return RoundRecord(r, RATE, MU, fixed((tau, P), 50 + r).numpy() * np.float32(3), cohort=1)


def squared(optimizer):
    return lambda *_: sum(p.double().square().sum() for p in optimizer.parameters).float() / 2


@pytest.mark.parametrize("kind", ["Diagonal", "Scalar", "PerTensor"])
@pytest.mark.parametrize("tau", [1, 3])
def test_x_and_h_are_those_of_float64_loops_and_directions_are_as_long_as_without_h(built, fixed, kind, tau):
    """Block's are in ``test_block.py``."""
    optimizer = built(KINDS[kind](nu=NU, normalize="trace"), local_steps=tau)
    sizes = [math.prod(shape) for shape in SHAPES.values()]
    x = [p.reshape(-1).double().numpy() for p in optimizer.parameters]
    h = [np.ones(n) for n in sizes]
    for r in range(4):
        inverses = [1.0 / v for some in h for v in some]
        c = math.sqrt(sum(sizes) / math.fsum(inverses))
        assert optimizer.plan().frozen.scale == pytest.approx(c, rel=1e-6)
        assert sum(c * c * v for v in inverses) == pytest.approx(sum(sizes))
        given = record(fixed, r, tau)
        optimizer.apply(given)
        d = [
            [
                sum(
                    float(g) * c * direction(Site(SEED, "normal", t, r), k, p, 0, n).astype(np.float64)
                    for p, g in enumerate(row)
                )
                / P
                / np.sqrt(h[t])
                for t, n in enumerate(sizes)
            ]
            for k, row in enumerate(given.scalars)
        ]
        x = [v - RATE * sum(step[t] for step in d) for t, v in enumerate(x)]
        squares = [step**2 for step in d[-1]]
        if kind == "Scalar":
            squares = [np.full(n, sum(s.sum() for s in squares) / sum(sizes)) for n in sizes]
        elif kind == "PerTensor":
            squares = [np.full(n, s.mean() if n else 0.0) for n, s in zip(sizes, squares, strict=True)]
        h = [(1 - NU) * v + NU * (s + 1e-8) for v, s in zip(h, squares, strict=True)]
        for t, p in enumerate(optimizer.parameters):
            assert np.allclose(p.reshape(-1).numpy(), x[t], rtol=1e-5, atol=1e-6)
            found = optimizer.hessians[t].reshape(-1).numpy()
            assert np.allclose(found if found.size == sizes[t] else np.full(sizes[t], found), h[t], rtol=1e-5)
    assert optimizer.plan().frozen.scale != 1.0


def test_one_scalar_normalized_goes_as_without_h_up_to_rounding(built, fixed):
    one, none = built(Scalar(NU, normalize="trace")), built(Identity())
    for r in range(6):
        for optimizer in (one, none):
            optimizer.apply(record(fixed, r, 1))
    assert float(one.stored_hessians[0]) != pytest.approx(1.0, rel=0.1)
    for ours, theirs in zip(one.parameters, none.parameters, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1, 2])
def test_probes_local_moves_and_replay_go_by_the_same_number_on_every_backend(built, kind, tau):
    """The scalars of |x|^2 / 2 along c z, by a step's own z; then the same records give the same bits."""
    digests = set()
    for backend in ("numba", "torch", "reference"):
        trained, replayed = (
            built(KINDS[kind](nu=NU, normalize="trace"), local_steps=tau, backend=backend) for _ in range(2)
        )
        for _ in range(3):
            # x moves along c z by lr g / P in an update of one direction alone: that is what a probe has to see
            sides = []
            for p in range(P):
                weights = np.zeros((tau, P), np.float32)
                weights[0, p] = 1.0
                aside = built(KINDS[kind](nu=NU, normalize="trace"), local_steps=tau, backend=backend, lr=1.0)
                aside.load_state_dict(copy.deepcopy(trained.state_dict()))
                before = [q.clone() for q in aside.parameters]
                aside.apply(RoundRecord(trained.round, 1.0, MU, weights, cohort=1))
                sides.append([(b - q).double() * P for b, q in zip(before, aside.parameters, strict=True)])
            x = [q.double().clone() for q in trained.parameters]
            expected = [
                sum(float((v * z).sum() + MU / 2 * (z * z).sum()) for v, z in zip(x, side, strict=True))
                for side in sides
            ]
            trained.step(squared(trained))
            replayed.apply(trained.record)
            assert np.allclose(trained.report.scalars[0], expected, rtol=5e-3, atol=1e-1)
        assert trained.plan().frozen.scale != 1.0
        digests |= {digest(trained), digest(replayed)}
    assert len(digests) == 1


def test_the_default_is_off_and_an_old_ledgers_options_mean_it():
    for kind in KINDS:
        assert part_built("preconditioner", {kind: {"nu": 0.1}}).normalize == "none"
        with pytest.raises(ValueError, match="normalize='length' must be 'none' or 'trace'"):
            KINDS[kind](normalize="length")
    with pytest.raises(ValueError, match="preconditioner Identity has no option 'normalize'"):
        part_built("preconditioner", {"Identity": {"normalize": "trace"}})


def test_the_size_of_displacements_counts_it(built, fixed):
    """One scalar changes neither the size of a displacement nor what is said of it, once it is normalized."""
    frozen = []
    for normalize in ("none", "trace"):
        optimizer = built(Scalar(NU, normalize=normalize))
        optimizer.apply(record(fixed, 0, 1))
        frozen.append(optimizer.plan().frozen)
    plain, normalized = (displacements_in_ulps(optimizer.parameters, f, MU, torch.bfloat16) for f in frozen)
    without = displacements_in_ulps(optimizer.parameters, built(Identity()).plan().frozen, MU, torch.bfloat16)
    assert normalized == pytest.approx(without, rel=1e-5)
    assert plain != pytest.approx(without, rel=0.05)
