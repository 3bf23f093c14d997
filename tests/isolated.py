"""Runs Python in a process of its own, with a bound on its memory and its time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

GIB = 1 << 30


def isolated(code: str, *args: str, memory: int = 8 * GIB, seconds: float = 240) -> str:
    """What code writes, in a process that ends where it asks for more.

    Args:
        code: The code.
        args: What it finds in ``sys.argv``.
        memory: Bytes of addresses it may have, libraries included.
        seconds: How long it may take.
    """
    run = subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout
