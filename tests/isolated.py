"""Runs Python in a process of its own, with a bound on its memory and its time."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap

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
    assert run.returncode == 0, f"status {run.returncode}: {run.stderr[-3000:]}"
    return run.stdout


def fuzz(module: str, function: str, cases: int, memory: int, seconds: int) -> None:
    """Calls a function of a test with the numbers of cases, in a process of its own; what it raises fails the test.

    Args:
        module: Where the function is.
        function: Its name. It takes the number of a case, from which alone it draws, and raises what must not be.
        cases: How many; ``HISO_PL_FUZZ`` says another number.
        memory: Bytes that the cases may take beside what the process had before.
        seconds: How long one may take.
    """
    code = f"""
        import faulthandler, resource, signal, sys
        from pathlib import Path
        from {module} import {function}
        {function}(0)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, ((pages << 12) + {memory},) * 2)
        faulthandler.enable()
        def late(*_):
            raise SystemExit(f"case {{case}} took over {seconds} seconds")
        signal.signal(signal.SIGALRM, late)
        for case in range(int(sys.argv[1])):
            signal.alarm({seconds})
            try:
                {function}(case)
            except BaseException:
                print("case", case, file=sys.stderr)
                raise
        signal.alarm(0)
        print("all", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "MiB")
    """
    count = int(os.environ.get("HISO_PL_FUZZ", cases))
    isolated(textwrap.dedent(code), str(count), memory=64 * GIB, seconds=max(280.0, count * 2.0))
