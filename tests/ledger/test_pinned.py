"""A small ledger, committed with its digest: it is read and replayed to the bit, and the same run writes it again.

``HISO_PL_REPIN=1 pytest tests/ledger/test_pinned.py`` writes it anew where the format is to change.
"""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hiso_pl.ledger import LedgerReader, LedgerWriter, header_of, initial_tensors, replay, stored_path
from hiso_pl.zeroth_order import Diagonal, Momentum, RoundRecord
from hiso_pl.zeroth_order.digest import digest

LEDGER = Path(__file__).with_suffix(".ledger")
SHAPES = {"weight": (7, 5), "bias": (7,), "scale": (), "kernel": (2, 3, 3, 3)}
# P and slots dropped of three; options are changed on resume before round 6
ROUNDS = [(3, ()), (1, (1,)), (2, (0, 1, 2)), (4, ()), (4, (0, 2)), (2, ()), (2, ()), (5, (2,)), (1, ())]
CHANGED = 6
METHODS = [
    {
        "preconditioner": Diagonal(nu=0.3, eps=1e-3, floor=0.4, hessian_update="all"),
        "update_rule": Momentum(beta=0.7),
        "local_steps": 3,
    },
    {"preconditioner": Diagonal(nu=0.1, eps=1e-3, floor=0.4), "update_rule": Momentum(beta=0.5), "local_steps": 1},
]


@pytest.fixture
def written(tmp_path, optimizer_of, fixed):
    """The ledger of the run, written now, and its digests before round ``CHANGED`` and at the end."""
    start = {name: fixed(shape, salt) for salt, (name, shape) in enumerate(SHAPES.items())}
    path, digests = tmp_path / LEDGER.name, []
    tensors, state = [(name, value.clone()) for name, value in start.items()], None
    for changed, options in enumerate(METHODS):
        optimizer = optimizer_of(tensors, seed=2**63 + 5, distribution="rademacher", **options)
        if state is not None:
            optimizer.load_state_dict(state)
        header = header_of(
            list(start.items()),
            optimizer.method,
            seed=2**63 + 5,
            clients=8,
            cohort=3,
            frozen_sha256="5e" * 32,
            configuration={"model": {"lr": 0.07}, "threads": 1},
            versions={"torch": "2"},
        )
        with (
            LedgerWriter.resume(path, header, CHANGED, changed=True) if changed else LedgerWriter(path, header, start)
        ) as writer:
            for r in range(CHANGED, len(ROUNDS)) if changed else range(CHANGED):
                directions, dropped = ROUNDS[r]
                scalars = fixed((options["local_steps"], directions), 100 + r).numpy() * np.float32(len(dropped) < 3)
                optimizer.apply(RoundRecord(r, 0.07 - 0.01 * (r % 3), 1e-3, scalars, cohort=3, dropped=dropped))
                writer.append(optimizer.record)
            digests.append(digest(optimizer))
            if changed:
                writer.close(digests[-1])
        state = optimizer.state_dict()
    return path, digests


def test_the_run_writes_the_ledger_that_is_pinned(pins, written):
    path, digests = written
    if pins.repin:
        for file in (path, stored_path(path)):
            shutil.copyfile(file, LEDGER.with_name(file.name))
    pins.hold("run", {"digests": digests, "ledger": hashlib.sha256(path.read_bytes()).hexdigest()})
    assert path.read_bytes() == LEDGER.read_bytes()
    there, here = load_file(stored_path(LEDGER)), load_file(stored_path(path))
    assert there.keys() == here.keys() == SHAPES.keys()
    assert all(torch.equal(there[name], here[name]) for name in there)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_the_pinned_ledger_leads_to_its_digest(pins, backend):
    reader, digests = LedgerReader(LEDGER), pins.table["run"]["digests"]
    assert reader.survey().closing == (len(ROUNDS), digests[-1])
    for to, expected in zip((CHANGED, len(ROUNDS)), digests, strict=True):
        optimizer = replay(reader.header, reader.entries(), initial_tensors(LEDGER, reader.header), to, backend=backend)
        assert digest(optimizer) == expected
