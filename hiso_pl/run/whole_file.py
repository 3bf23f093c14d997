"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write at, which is moved there once the block has ended and the disk has it all.

    So a stop at any time leaves the old file or the new one. What a failed block has written is removed: on a full disk
    it would be in the way of what comes next.

    Args:
        path: The file; its folder is made.

    Yields:
        Where to write.

    Raises:
        OSError: If it cannot be written; the error names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if part.is_symlink():
        part.unlink()  # what is written is not to go where a link leads
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except SafetensorError as error:  # its name for whatever the system refuses it
        _remove(part)
        raise OSError(f"{path} cannot be written: {error}") from error
    except Exception as error:
        _remove(part)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, part, str(part)):
            error.filename = str(path)
        raise


def _remove(part: Path) -> None:
    with suppress(OSError):  # what went wrong first is what matters
        part.unlink()
