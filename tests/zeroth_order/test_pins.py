"""Fixed round records give the pinned digests, by every kernel: a change of structure leaves the bits as they are.

Where bits are to move, on purpose and with
a new number of stream or numerics, ``HISO_PL_REPIN=1 pytest tests/zeroth_order/test_pins.py`` writes the table anew.
"""

import itertools
import re

import numpy as np
import pytest
import torch

from hiso_pl.federation import Quantize
from hiso_pl.zeroth_order import (
    Adagrad,
    Adam,
    Block,
    Diagonal,
    Greedy,
    Identity,
    Momentum,
    Normalized,
    PerTensor,
    RoundRecord,
    Scalar,
    Sgd,
    Yogi,
)
from hiso_pl.zeroth_order.digest import digest

SHAPES = {"scalar": (), "odd": (7,), "long": (3, 1367), "empty": (0, 3), "conv": (5, 3, 3, 3), "even": (4, 8)}
# lr, mu, P, size of the scalars, slots dropped of three; of numbers that fp32 has only nearly
ROUNDS = [
    (0.1, 1e-3, 3, 4.0, ()),
    (0.07, 1e-3, 1, 3.0, (1,)),
    (0.07, 5e-4, 5, 0.0, (0, 1, 2)),
    (0.0, 5e-4, 2, 2.0, ()),
    (0.3, 5e-4, 4, 1e-3, (0, 2)),
    (0.01, 1e-3, 2, 0.5, ()),
]
PRECONDITIONERS = {"Identity": lambda _: Identity()} | {
    # the floor is reached by some elements, eps is felt
    kind.__name__: lambda update, kind=kind: kind(nu=0.3, eps=1e-3, floor=0.4, hessian_update=update)
    for kind in (Diagonal, Scalar, PerTensor)
}
RULES = {"Sgd": Sgd, "Momentum": lambda: Momentum(beta=0.7)}
# with a rate of their own for local moves, of which no record knows; eps is felt
OWN_RATE = {
    "Adam": lambda: Adam(0.7, 0.9, 1e-3),
    "Adam uncorrected": lambda: Adam(0.7, 0.9, 1e-3, bias_correction=False),
    "Yogi": lambda: Yogi(0.7, 0.9, 1e-3),
    "Adagrad": lambda: Adagrad(1e-3),
    "Normalized": lambda: Normalized(beta=0.7, eps=1e-3),
    "Normalized spread": lambda: Normalized("spread", beta=0.7, eps=1e-5),
    "Greedy": lambda: Greedy(beta=0.7, caution=0.5, eps=1e-3),
}
CASES = {
    f"{preconditioner} {rule} tau={tau} {distribution} {update}": {
        "preconditioner": PRECONDITIONERS[preconditioner](update),
        "update_rule": RULES[rule](),
        "local_steps": tau,
        "distribution": distribution,
    }
    for preconditioner, rule, tau, distribution, update in itertools.product(
        PRECONDITIONERS, RULES, (1, 3), ("normal", "rademacher"), ("last", "first", "all")
    )
} | {
    f"{preconditioner} {rule} tau={tau} normal last": {
        "preconditioner": PRECONDITIONERS[preconditioner]("last"),
        "update_rule": OWN_RATE[rule](),
        "local_steps": tau,
        "local_lr": None if tau == 1 else 0.01,
        "distribution": "normal",
    }
    for preconditioner, rule, tau in itertools.product(("Identity", "Diagonal"), OWN_RATE, (1, 3))
}
# x moves as it does without them, and their state with it
CASES |= {
    f"Identity Sgd tau={tau} normal last, {bits} bits on a scale shared along {directions} directions": {
        "preconditioner": Identity(),
        "transform": Quantize(bits, scale="shared", start=0.7, nu=0.3, floor=1e-3),
        "local_steps": tau,
        "directions": directions,
    }
    for tau, bits, directions in itertools.product((1, 3), (2, 8), ("shared", "client"))
}
BLOCKS = {
    f"Block {rule} tau={tau} normal {update}": (Block(4, 0.3, 1e-3, 0.4, update), rule, tau, "normal")
    for rule, tau, update in itertools.product(RULES, (1, 3), ("last", "first", "all"))
}
NORMALIZED = {
    f"{kind.__name__} trace {rule} tau={tau} {distribution} last": (
        kind(nu=0.3, eps=1e-3, floor=0.4, normalize="trace"),
        rule,
        tau,
        distribution,
    )
    for kind, (rule, tau, distribution) in itertools.product(
        (Diagonal, Scalar, PerTensor, Block), [("Sgd", 3, "normal"), ("Momentum", 1, "rademacher")]
    )
    if kind is not Block or distribution == "normal"
}
CASES |= {
    name: {
        "preconditioner": preconditioner,
        "update_rule": RULES[rule](),
        "local_steps": tau,
        "distribution": distribution,
    }
    for name, (preconditioner, rule, tau, distribution) in (BLOCKS | NORMALIZED).items()
}


# directions of low rank: each preconditioner once, and another rank
CASES |= {
    f"{preconditioner} Sgd tau={tau} low_rank {rank}": {
        "preconditioner": PRECONDITIONERS[preconditioner]("last"),
        "local_steps": tau,
        "distribution": "low_rank",
        "rank": rank,
    }
    for preconditioner, tau, rank in [*((name, 3, 3) for name in PRECONDITIONERS), ("Diagonal", 1, 1)]
}


@pytest.fixture
def replayed(optimizer_of, fixed):
    """The optimizer after the records."""

    def replayed(case, backend, device="cpu"):
        options = CASES[case]
        start = [(name, fixed(shape, salt).to(device)) for salt, (name, shape) in enumerate(SHAPES.items())]
        optimizer = optimizer_of(start, seed=2**63 + 5, backend=backend, **options)
        for r, (lr, mu, directions, size, dropped) in enumerate(ROUNDS):
            scalars = fixed((options["local_steps"], directions), 100 + r).numpy() * np.float32(size)
            optimizer.apply(RoundRecord(r, lr, mu, scalars, cohort=3, dropped=dropped))
        assert all(torch.isfinite(t.value).all() for t in optimizer.tensors())
        return optimizer

    return replayed


@pytest.mark.parametrize("backend", ["reference", "numba", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_fixed_records_give_the_pinned_digest(replayed, pins, case, backend):
    pins.hold(case, digest(replayed(case, backend)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_so_they_do_on_a_gpu(replayed, pins, backend):
    for case in CASES:
        pins.hold(case, digest(replayed(case, backend, "cuda")))


def test_the_records_reach_the_floor_here_and_there(replayed):
    tensors = replayed("Diagonal Sgd tau=1 normal last", "reference").tensors()
    (hessian,) = (t.value for t in tensors if (t.name, t.kind) == ("long", "hessian"))
    assert 0.02 < (hessian == 0.4).double().mean() < 0.98


def test_nothing_else_is_pinned_and_what_differs_has_another_digest(pins):
    assert set(pins.table) == set(CASES)
    # H is advanced once with one local step; the identity has none
    alone = {case: "tau=1" in case or case.startswith("Identity") for case in CASES}
    same = {case: re.sub("all$|first$", "last", case) if alone[case] else case for case in CASES}
    assert all(pins.table[case] == pins.table[other] for case, other in same.items())
    assert len(set(pins.table.values())) == len(set(same.values()))
