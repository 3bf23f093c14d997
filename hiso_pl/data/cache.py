"""Tokenised splits on disk: made by one process of a machine, read by all of them.

An entry is a safetensors file of arrays. Its name is the SHA-256 of all that its content follows from, so an entry is
never out of date; a checksum inside tells one that was cut off or altered, which is then made again. Entries are read,
not mapped: a file that is altered under a mapping would alter a run that has checked it.

Entries lie in a folder of their own inside the one that is named, which may be shared with anything. What is dropped
is shown to be an entry by its name and by what its header says, so that nothing else can be lost, there either.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from hiso_pl.bounds import CACHE_HEADER_BYTES
from hiso_pl.data.examples import arrays_fingerprint
from hiso_pl.regular_file import open_regular, read_at_most

logger = logging.getLogger(__name__)

FORMAT = "hiso_pl tokens 1"
"""Changes whenever the same key would stand for other arrays."""

ENVIRONMENT = "HISO_PL_CACHE"
MOST_BYTES = 10 * 10**9
"""What a cache may hold: beyond it, the entries that have not been used for longest are dropped."""

Arrays = dict[str, NDArray[Any]]

_DTYPES = {"I64": "<i8", "I32": "<i4", "U8": "|u1"}
_ENTRY = re.compile(r"(?P<key>[0-9a-f]{64})\.safetensors")
_NEW = re.compile(r"\.new-(?P<key>[0-9a-f]{64})-\w+")  # half written
_A_DAY = 86400.0
_LEFT = 0.9  # of what a cache may hold is left when room is made, so that it is not looked through at every write


def cache_folder(option: str | None = None) -> Path:
    """Where entries are kept: the option, else what ``HISO_PL_CACHE`` names, else ``hiso_pl`` in the user's cache."""
    named = option or os.environ.get(ENVIRONMENT)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hiso_pl"


def cache_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 over everything that an entry's content follows from, as hexadecimal digits."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **parts}, sort_keys=True).encode()).hexdigest()


class Cache:
    """Entries in a folder, by key.

    Args:
        within: The folder that holds the cache's own, :attr:`folder`; both are made when the first entry is written.
        most_bytes: What its entries may take together.
    """

    def __init__(self, within: Path, most_bytes: int = MOST_BYTES) -> None:
        self.within = within
        self.folder = within / FORMAT.replace(" ", "-")
        self.most_bytes = most_bytes
        self._held: int | None = None  # by its entries, as far as this process knows

    def read(self, key: str) -> Arrays | None:
        """Reads an entry.

        Returns:
            The arrays, not to be written to; None if there is no entry, or none that is whole.
        """
        path = self._path(key)
        try:
            self._check_folder()
            arrays, stated = _arrays_in(read_at_most(path, self.most_bytes, follow=False), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            logger.warning("%s may not be read: it is made again. Give a cache_dir of your own.", path)
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("%s is damaged (%s): it is not used, and made again.", path, error or type(error).__name__)
            return None
        if checksum(arrays) != stated:
            logger.warning("%s is damaged (its checksum does not fit): it is not used, and made again.", path)
            return None
        try:
            os.utime(path)  # used just now
        except OSError:
            logger.debug("cannot mark %s as used", path)
        return arrays

    def write(self, key: str, arrays: Arrays) -> bool:
        """Writes an entry, whole or not at all, and makes room for it.

        Returns:
            Whether it could be written; if not, a warning has been logged.
        """
        path = self._path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_folder()
            handle, name = tempfile.mkstemp(prefix=f".new-{key}-", dir=self.folder)
            os.close(handle)
            try:
                save_file(
                    {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                    name,
                    {"format": FORMAT, "key": key, "checksum": checksum(arrays)},
                )
                os.replace(name, path)
            except BaseException:
                os.unlink(name)
                raise
        except (OSError, SafetensorError) as error:  # the latter where a disk is full
            why = getattr(error, "strerror", None) or error
            logger.warning(
                "Nothing is kept in cache_dir=%s, as it cannot be written (%s): give another, or cache=false.",
                self.within,
                why,
            )
            return False
        self._make_room(path)
        return True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _check_folder(self) -> None:
        if self.folder.is_symlink():
            raise OSError(f"{self.folder} is a link, must be the cache's own folder")

    def _make_room(self, newest: Path) -> None:
        """Where the entries may take too much, drops those unused for longest, and what a killed process left."""
        try:
            size = newest.stat().st_size
            if self._held is not None and self._held + size <= self.most_bytes:
                self._held += size
                return
            entries = []
            for path in self.folder.iterdir():
                status = path.lstat()
                if _ENTRY.fullmatch(path.name) and path != newest and _is_own(path):
                    entries.append((path, status))
                elif _NEW.fullmatch(path.name) and status.st_mtime < time.time() - _A_DAY and _is_own(path):
                    path.unlink()
            self._held = size + sum(status.st_size for _, status in entries)
            if self._held <= self.most_bytes:
                return
            for path, status in sorted(entries, key=lambda entry: entry[1].st_mtime_ns):
                if self._held <= self.most_bytes * _LEFT:
                    return
                path.unlink()
                self._held -= status.st_size
                logger.info("Dropped %s from the cache, which is full.", path.name)
        except OSError as error:  # another process may be doing the same
            logger.debug("not all was dropped from %s: %s", self.folder, error)


def _is_own(path: Path) -> bool:
    """Whether a file is one that a cache made: a regular one, with its format and the key of its name in the header.

    A half written one may also be empty yet.
    """
    found = _ENTRY.fullmatch(path.name) or _NEW.fullmatch(path.name)
    try:
        with open_regular(path, follow=False) as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= CACHE_HEADER_BYTES else b""
            if found is None or (not header and path.name.startswith(".new-") and file.seek(0, os.SEEK_END) == 0):
                return found is not None
        stated = json.loads(header)["__metadata__"]
        return bool(stated["format"] == FORMAT and stated["key"] == found["key"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def checksum(arrays: Arrays) -> str:
    """SHA-256 over names and contents of arrays, as hexadecimal digits."""
    names = sorted(arrays)
    listed = np.frombuffer("\0".join(names).encode(), dtype=np.uint8)
    return arrays_fingerprint(listed, *(arrays[name] for name in names))


def _arrays_in(data: bytes, key: str) -> tuple[Arrays, str]:
    """The arrays of an entry and the checksum it states, every length checked before it is used.

    Source of the format: https://huggingface.co/docs/safetensors/index#format

    Raises:
        ValueError: If the bytes are not an entry of that key.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(CACHE_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"its header has {length} bytes")
    header = json.loads(data[8 : 8 + length])
    stated = header.pop("__metadata__")
    if stated["format"] != FORMAT or stated["key"] != key:
        raise ValueError("it is another entry")
    content = memoryview(data)[8 + length :]
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= len(content):
            raise ValueError(f"array {name!r} lies outside")
        flat = np.frombuffer(content[begin:end], dtype=np.dtype(_DTYPES[entry["dtype"]]))
        arrays[name] = flat.reshape([int(side) for side in entry["shape"]])
    return arrays, str(stated["checksum"])
