"""The folder that is written: refused where something is, and whole or not there.

What takes the place of an earlier folder removes the files that were written there, told by name, and no others.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hiso_pl.bounds import FOLDER_FACTS_BYTES
from hiso_pl.regular_file import open_regular, read_at_most, sha256_of

log = logging.getLogger(__name__)

FACTS = "hiso_pl.json"
"""What an exported folder says of the run it comes from, and the SHA-256 of each other file."""


def check_output(output: Path, overwrite: bool) -> frozenset[str]:
    """Refuses a place that is taken.

    Args:
        output: The folder to be written.
        overwrite: Whether it may be an earlier export, with nothing else in it.

    Returns:
        The names of the files of the earlier export.

    Raises:
        ValueError: If something else is there.
    """
    if not output.exists():
        return frozenset()
    if not output.is_dir():
        raise ValueError(f"output={output} is a file, must be a folder")
    if not any(output.iterdir()):
        return frozenset()
    if not overwrite:
        raise ValueError(f"output={output} is not empty: give another folder, or --overwrite true")
    try:
        facts = json.loads(read_at_most(output / FACTS, FOLDER_FACTS_BYTES, follow=False))
        written = {**facts["files"], FACTS: None}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"output={output} is no earlier export (it has no {FACTS} that lists its files), so it is not replaced"
        ) from error
    check_files(output, written)
    for name, digest in written.items():
        if name != FACTS and (output / name).exists() and file_digest(output / name) != digest:
            raise ValueError(f"output={output}: {name} is not as it was exported, so it is not replaced: move it away")
    return frozenset(written)


def check_files(output: Path, names: Collection[str]) -> None:
    """Refuses a folder that holds anything but regular files of these names.

    Raises:
        ValueError: If it does.
    """
    for path in sorted(output.iterdir()):
        if path.name not in names or path.is_symlink() or not path.is_file():
            raise ValueError(f"output={output} also holds {path.name}, so it is not replaced: move it away")


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file."""
    with open_regular(path, follow=False) as file:
        return sha256_of(file)


def remove_files(folder: Path, names: Collection[str]) -> None:
    """Removes the files of these names from a folder, and the folder if nothing is left in it."""
    for path in list(folder.iterdir()):
        if path.name in names and not path.is_dir():
            path.unlink()
    with suppress(OSError):  # something else is in it
        folder.rmdir()


@contextmanager
def replacing(output: Path, names: Collection[str] = ()) -> Iterator[Path]:
    """A folder beside ``output`` to write into, which takes its place if the block ends well and is gone if not.

    Args:
        output: The folder.
        names: The files of an earlier one, which are removed.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    part.mkdir()
    try:
        yield part
        if output.exists():
            check_files(output, names)  # a run may have begun there since
            output.rename(old)
        try:
            part.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
        if old.exists():
            remove_files(old, names)
            if old.exists():
                log.warning("%s holds what came into %s meanwhile: it is kept.", old, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
