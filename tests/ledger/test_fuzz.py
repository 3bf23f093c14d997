"""Whatever a ledger holds, it is read or refused in a line: in bounded memory and time, with nothing else touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hiso_pl.ledger import LedgerWriter
from hiso_pl.zeroth_order import Diagonal

COUNT = int(os.environ.get("HISO_PL_FUZZ", "120"))
pytestmark = pytest.mark.timeout(60 + 2 * COUNT)


def test_damaged_and_hostile_ledgers(run, tmp_path):
    made = run(rounds=8, closed=False, local_steps=2)
    changed = replace(made.header, method={**made.header.method, "preconditioner": Diagonal(nu=0.4).as_data()})
    with LedgerWriter.resume(made.path, changed, 5, changed=True) as writer:
        for record in made.records[5:]:
            writer.append(record)
        writer.close("ab" * 32)
    (tmp_path / "cases").mkdir()
    began = time.monotonic()
    found = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("fuzzing.py")),
            str(made.path),
            str(tmp_path / "cases"),
            "1",
            str(COUNT),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )
    *problems, last = found.stdout.splitlines() or [""]
    assert not problems, "\n".join(problems[:20])
    assert last.startswith(f"done {COUNT}"), found.stderr[-3000:]
    print(f"{last}, {time.monotonic() - began:.0f} s")
