"""Weights that have a name, a folder or one on the hub, read as safetensors without building a model.

A network's names of its tensors are not those of the files: it puts prefixes in front, adapters wrap, tied weights are
there once. So names only say where to look first. What counts is the content: a tensor is taken if the SHA-256 of its
values in fp32 is the one that is looked for.
"""

from __future__ import annotations

import logging
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hiso_pl.zeroth_order.digest import tensor_sha256

log = logging.getLogger(__name__)

WRAPPERS = {"base_layer", "modules_to_save", "default", "original_module"}
"""Parts that adapters put into names."""


class NamedWeights:
    """The tensors of a model's safetensors files.

    Args:
        source: A model's folder, or its name on the hub.
        revision: Branch, tag or commit on the hub.
        local: Whether only what is on this machine already is looked at.

    Attributes:
        source: As given.
        revision: The commit on the hub; None for a folder.

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
        self._hashes: dict[str, str] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ValueError(f"weights={source!r}: {path.name}: {' '.join(str(error).split())[:200]}") from error
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                self._places[key] = (len(self._files), tuple(file.get_slice(key).get_shape()))
            self._files.append(file)
        if not self._places:
            raise ValueError(f"weights={source!r} holds no weights (*.safetensors)")

    def find(self, name: str, shape: tuple[int, ...], sha256: str) -> Tensor | None:
        """The tensor of this content, by shape and SHA-256 of its values as fp32, in fp32; None if there is none.

        By its name in the network the likeliest tensors are looked at first.
        """
        parts = [part for part in name.split(".") if part not in WRAPPERS]
        candidates = [key for key, (_, there) in self._places.items() if there == shape]
        for key in sorted(candidates, key=lambda key: (-_common_end(parts, key.split(".")), key)):
            if self._hashes.get(key, sha256) != sha256:
                continue
            tensor: Tensor = self._files[self._places[key][0]].get_tensor(key).to(torch.float32)
            if key not in self._hashes:
                self._hashes[key] = tensor_sha256(tensor)
            if self._hashes[key] == sha256:
                return tensor
        return None


def _common_end(first: list[str], second: list[str]) -> int:
    """How many parts two names have in common, from their ends."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _downloaded(source: str, revision: str | None, local: bool) -> Path:
    if source.startswith((".", "~", "/")) or source.count("/") > 1:
        raise ValueError(f"weights={source!r}: no such folder; give a model's folder or its name on the hub")
    try:
        folder = snapshot_download(
            source, revision=revision, allow_patterns=["*.safetensors"], ignore_patterns=["*/*"], local_files_only=local
        )
        return Path(folder)
    except Exception as error:  # of many kinds: no network, no such name, no access
        what = " ".join(str(error).split())[:200]
        raise ValueError(f"weights={source!r} is no folder, and the hub does not give it: {what}") from error
