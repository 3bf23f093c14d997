"""The folder that is written: refused where something is, and whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FACTS = "hiso_pl.json"
"""What an exported folder says of the run it comes from; also what shows that a folder is an export."""


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses a place that is taken.

    Args:
        output: The folder to be written.
        overwrite: Whether it may be an earlier export.

    Raises:
        ValueError: If something else is there.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"output={output} is a file, must be a folder")
    if not any(output.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"output={output} is not empty: give another folder, or --overwrite true")
    if not (output / FACTS).is_file():
        raise ValueError(f"output={output} is no earlier export (it has no {FACTS}), so it is not replaced")


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` to write into, which takes its place if the block ends well and is gone if not."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    part.mkdir()
    try:
        yield part
        if output.exists():
            check_output(output, overwrite=True)  # a run may have begun there since
            output.rename(old)
        try:
            part.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if output.exists():
            shutil.rmtree(old, ignore_errors=True)
