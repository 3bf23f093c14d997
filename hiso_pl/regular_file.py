"""Reads files whose size and kind somebody else decides: regular ones only, and no more of them than is allowed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


def open_regular(path: Path, follow: bool = True) -> BinaryIO:
    """Opens a regular file for reading. A FIFO is not waited for, and a device is not touched.

    Args:
        path: The file.
        follow: Whether it may be a link to one.

    Raises:
        OSError: If it cannot be opened, or is something else.
    """
    _check(path, os.stat(path, follow_symlinks=follow))
    # looked at again once it is open: in between another may have come in its place
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        _check(path, os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_at_most(path: Path, most: int, follow: bool = True) -> bytes:
    """The bytes of a regular file, if it has no more than ``most``.

    Raises:
        OSError: As :func:`open_regular`.
        ValueError: If it has more.
    """
    with open_regular(path, follow) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > most else file.read(size + 1)
        if len(data) > size:  # it grows; memory is taken at once for all that is asked for
            data += file.read(most + 1 - len(data))
        size = max(os.fstat(file.fileno()).st_size, len(data))
    if size > most:
        raise ValueError(f"{path} has {size} bytes, must have at most {most}")
    return data


def sha256_of(file: BinaryIO) -> str:
    """SHA-256 of a file from its beginning, which it is left at."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()


def _check(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, must be a regular file", str(path))
