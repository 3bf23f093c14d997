"""Weights that have a name, a folder or one on the hub, read as safetensors without building a model.

A network's names of its tensors are not those of the files: it puts prefixes in front, adapters wrap, tied weights are
there once. So names only say where to look first. What counts is the content: a tensor is taken if the SHA-256 of its
values in fp32 is the one that is looked for.
"""

from __future__ import annotations

import logging
import math
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from hiso_pl import hub
from hiso_pl.ledger.stored import open_safetensors
from hiso_pl.zeroth_order.digest import tensor_sha256

log = logging.getLogger(__name__)

WRAPPERS = {"base_layer", "modules_to_save", "default", "original_module"}
"""Parts that adapters put into names."""
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""Types of a tensor that can be trained; to read others in fp32 would make more of a file than there is."""
ENDS, LIKELY = 8, 4
"""How many parts of a name count, and how many tensors of an end are looked at before all of a shape are."""


class NamedWeights:
    """The tensors of a model's safetensors files.

    Args:
        source: A model's folder, or its name on the hub.
        revision: Branch, tag or commit on the hub.
        local: Whether only what is on this machine already is looked at.

    Attributes:
        source: As given.
        revision: The commit on the hub; None for a folder.
        elements: Elements of all tensors.

    Raises:
        ValueError: If there is no such thing, or it holds no safetensors.
    """

    def __init__(self, source: str, revision: str | None = None, local: bool = False) -> None:
        self.source = source
        folder = Path(source).expanduser()
        self.revision: str | None = None
        if not folder.is_dir():
            folder = _downloaded(source, revision, local)
            self.revision = folder.name
        self._files: list[Any] = []
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = open_safetensors(path)
            except ValueError as error:
                raise ValueError(f"weights={source!r}: {error}") from error
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(key)
                if part.get_dtype() in FLOATS:
                    self._places[key] = (len(self._files), tuple(part.get_shape()))
            self._files.append(file)
        if not self._places:
            raise ValueError(f"weights={source!r} holds no weights (*.safetensors)")
        self.elements = sum(math.prod(shape) for _, shape in self._places.values())
        self._known: dict[tuple[tuple[int, ...], str], str] = {}  # names by shape and content, as far as it was read
        self._unread: dict[tuple[int, ...], dict[str, None]] = {}  # names by shape, in order
        self._alike: dict[tuple[Any, ...], list[str]] = {}  # names by shape and end
        for key in sorted(self._places):
            shape = self._places[key][1]
            self._unread.setdefault(shape, {})[key] = None
            for end in _ends(key):
                self._alike.setdefault((shape, *end), []).append(key)

    def find(self, name: str, shape: tuple[int, ...], sha256: str) -> Tensor | None:
        """The tensor of this content, by shape and SHA-256 of its values as fp32, in fp32; None if there is none.

        By its name in the network the likeliest tensors are looked at first. Each is read once to know its content,
        however many are looked for.
        """
        unread = self._unread.get(shape, {})
        wanted = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        likely = (key for end in _ends(wanted) for key in self._alike.get((shape, *end), ())[:LIKELY])
        for key in chain(likely, list(unread) if (shape, sha256) not in self._known else ()):
            if (shape, sha256) in self._known:
                break
            if key in unread:
                del unread[key]
                self._known.setdefault((shape, tensor_sha256(self._read(key))), key)
        found = self._known.get((shape, sha256))
        # a copy, as several may be of one content, and what is read lies in the file's own memory
        return None if found is None else self._read(found).clone()

    def _read(self, key: str) -> Tensor:
        tensor: Tensor = self._files[self._places[key][0]].get_tensor(key).to(torch.float32)
        return tensor


def _ends(name: str) -> list[tuple[str, ...]]:
    """The last parts of a name, most of them first."""
    parts = name.rsplit(".", ENDS)[-ENDS:]
    return [tuple(parts[i:]) for i in range(len(parts))]


def _downloaded(source: str, revision: str | None, local: bool) -> Path:
    if source.startswith((".", "~", "/")) or source.count("/") > 1:
        raise ValueError(f"weights={source!r}: no such folder; give a model's folder or its name on the hub")
    try:
        only = local or bool(hub.away())
        folder = snapshot_download(
            source, revision=revision, allow_patterns=["*.safetensors"], ignore_patterns=["*/*"], local_files_only=only
        )
        return Path(folder)
    except Exception as error:  # of many kinds: no network, no such name, no access
        if not local:
            hub.check_there(f"weights={source!r}", not hub.away(), "give a model's folder, or first download it")
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"weights={source!r} is no folder, and the hub does not give it: {what}") from error
