"""Standard streams that outlast their reader: a run whose output goes to `head`, or to a terminal that is closed."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from typing import Any

log = logging.getLogger(__name__)

GONE = (errno.EPIPE, errno.EIO)


class _Lasting(io.FileIO):
    """A descriptor that takes what is written to it also when nobody reads there any more."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Writes, or lets all from here on go nowhere."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            log.warning("Nobody reads what is printed any more; the run goes on, and its folder tells of it.")
            return len(memoryview(data).cast("B"))


def fill_gaps() -> None:
    """Opens standard streams that came closed: else the next file, a run's own, would be what is printed to."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def outlast_readers() -> None:
    """Lets the process go on when the reader of its output goes away; what it works for is in files."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        raw = _Lasting(stream.fileno(), "w", closefd=False)
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                raw if stream.write_through else io.BufferedWriter(raw),  # type: ignore[arg-type]
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering or name == "stderr",
                write_through=stream.write_through,
            ),
        )
