"""What the files of a model's or a tokenizer's folder may be, seen to before transformers opens any of them.

A folder from elsewhere names no other place: no file of it is a link that leads outside (the hub's own cache apart,
whose snapshots are links into the blobs beside them), and the shards of an index are files of the folder.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hiso_pl.bounds import (
    MODEL_INDEX_BYTES,
    MODEL_SHARDS,
    MODEL_TEXT_BYTES,
    MODEL_WEIGHTS_HEADER_BYTES,
)
from hiso_pl.regular_file import open_regular, read_at_most

WEIGHTS = "model.safetensors"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".npz")
_TEMPLATES = "additional_chat_templates"
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-")
_DIMENSIONS = 16  # of a tensor; torch itself knows 64, models two to five

Find = Callable[[str], Path | None]
"""Where a file of a model is, by its name: in its folder, or in the hub's cache; None if it has none such."""


class Held(NamedTuple):
    """What weight files hold: tensors and their elements together."""

    tensors: int
    elements: int


def check_folder(folder: Path) -> None:
    """Refuses a folder with files that are links to elsewhere, no regular files, or too large for what they are.

    Raises:
        ValueError: If there is one.
    """
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":
        homes.append(homes[0].parent.parent / "blobs")
    paths = list(folder.iterdir())
    templates = folder / _TEMPLATES
    if templates.is_dir():
        paths += [templates, *templates.iterdir()]
    for path in paths:
        if not path.exists() or (path.is_dir() and path != templates):
            continue
        target = path.resolve()
        if not any(target.is_relative_to(home) for home in homes):
            raise ValueError(f"{path} is a link to {target}, must be a file of the folder itself")
        if path == templates:
            continue
        if not path.is_file():
            raise ValueError(f"{path} must be a regular file")
        if _DISTRIBUTED.match(path.name):
            raise ValueError(f"{path} is part of a distributed checkpoint, must be {WEIGHTS} or shards with an index")
        size = path.stat().st_size
        if path.suffix not in _WEIGHT_SUFFIXES and size > MODEL_TEXT_BYTES and _is_read(path):
            raise ValueError(f"{path} has {size} bytes, must have at most {MODEL_TEXT_BYTES}")


def read_json(path: Path, most: int) -> dict[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        ValueError: If there is none, or the file has more than ``most`` bytes.
    """
    try:
        values = json.loads(read_at_most(path, most))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}, must be an object")
    return values


def plain_name(name: object) -> bool:
    """Whether something is the name of a file in the folder where it is named."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(c in name for c in "/\\\0")


def weight_files(find: Find, stem: str, suffix: str, named: str | None = None) -> list[Path]:
    """The weight files of a model, those of an index included.

    Args:
        find: Where a file is.
        stem: ``model``, or ``pytorch_model`` for pickled weights.
        suffix: ``.safetensors`` or ``.bin``.
        named: The file that a configuration names instead.

    Raises:
        ValueError: If the index is not one, or names what is no file of the model.
    """
    for name in (f"{stem}{suffix}", f"{stem}{suffix}.index.json") if named is None else (named,):
        path = find(name)
        if path is not None:
            return [path] if not name.endswith(".index.json") else _shards(path, find, suffix)
    return []


def _shards(index: Path, find: Find, suffix: str) -> list[Path]:
    values = read_json(index, MODEL_INDEX_BYTES)
    where, metadata = values.get("weight_map"), values.get("metadata")
    if not isinstance(where, dict) or not where or not isinstance(metadata, dict):
        raise ValueError(f"{index} must hold the objects weight_map and metadata")
    names = dict.fromkeys(str(name) for name in where.values())
    if len(names) > MODEL_SHARDS:
        raise ValueError(f"{index} names {len(names)} files, must name at most {MODEL_SHARDS}")
    shards = []
    for name in names:
        if not plain_name(name) or not name.endswith(suffix):
            raise ValueError(f"{index} names {name!r}, must be a {suffix} file of the same folder")
        path = find(name)
        if path is None:
            raise ValueError(f"{index} names {name!r}, which is missing")
        shards.append(path)
    return shards


def held_by(files: list[Path]) -> Held:
    """What weight files hold; of pickled ones, the most that they could.

    Raises:
        ValueError: If the header of a safetensors file is none.
    """
    tensors = elements = 0
    for path in files:
        if path.suffix == ".safetensors":
            found = _header(path)
        else:
            size = path.stat().st_size
            found = Held(size // 64, size)
        tensors, elements = tensors + found.tensors, elements + found.elements
    return Held(tensors, elements)


def _header(path: Path) -> Held:
    """Tensors and elements by a safetensors header, every length checked before it is used.

    Source of the format: https://huggingface.co/docs/safetensors/index#format
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            most = min(MODEL_WEIGHTS_HEADER_BYTES, size - 8)
            if not 2 <= length <= most:
                raise ValueError(f"its header has {length} bytes, must have at most {most}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not safetensors, or damaged ({error})") from error
    content, elements = size - 8 - length, 0
    try:
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            shape, (begin, end) = tensor["shape"], tensor["data_offsets"]
            sizes = all(type(n) is int and n >= 0 for n in (*shape[:_DIMENSIONS], begin, end))
            count = math.prod(shape[:_DIMENSIONS]) if sizes else -1
            # the smallest numbers have half a byte
            if len(shape) > _DIMENSIONS or not (0 <= begin <= end <= content and 0 <= count <= 2 * (end - begin)):
                raise ValueError(f"tensor {name[:100]!r} does not fit into the file")
            elements += count
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not safetensors, or damaged ({error})") from error
    return Held(len(header), elements)


def _is_read(path: Path) -> bool:
    """Whether transformers may read a file whole: text and vocabularies."""
    return path.suffix in (".json", ".jinja", ".txt", ".model", ".py", ".tiktoken", ".vocab", ".bpe")
