"""Where a model or tokenizer comes from: a folder, or a name on the hub; and how it is said that it cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils.hub import cached_file

from hiso_pl import hub
from hiso_pl.errors import one_line
from hiso_pl.models.folder import Find

FIRST = "give a model's folder, or first download it where there is a network (hf download {})"


@contextmanager
def refusing(name: str, source: str) -> Iterator[None]:
    """Makes one line of whatever the readers of a broken file raise: OSError, SafetensorError, KeyError, and more."""
    try:
        yield
    except BaseException as error:
        # what panics in Rust is no Exception, so that nobody else takes it for one
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{name}={source!r} {_refusal(error)}") from error


def finder(source: str, folder: Path | None, revision: str | None) -> Find:
    """Finds files of a model by name: in its folder, or in the hub's cache, where they are fetched to."""

    def find(name: str) -> Path | None:
        if folder is not None:
            return folder / name if (folder / name).exists() else None
        try:
            found = cached_file(source, name, revision=revision, local_files_only=bool(hub.away()))
        except OSError:  # it has none such, or the hub is not to be reached: from_pretrained says it better
            return None
        return None if found is None else Path(found)

    return find


def _refusal(error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return "comes with Python code of its own: read it, and run it by trust_remote_code=true of the network"
    return f"cannot be loaded: {one_line(error)}"


def check_source(name: str, source: str) -> Path | None:
    """Tells a local folder from a name on the hub.

    Args:
        name: The argument that ``source`` was given as, for the message.
        source: A folder, or ``owner/name`` or ``name`` on the hub.

    Returns:
        The folder, or None for a name on the hub.

    Raises:
        ValueError: If it can only be a folder and there is none.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{name}={source!r} is a file, must be a model's folder or its name on the hub")
    if not source or source.startswith((".", "~", "/")) or source.count("/") > 1 or "\\" in source:
        raise ValueError(f"{name}={source!r}: no such folder; give a model's folder or its name on the hub")
    return None
