"""The tensors beside a ledger: those whose values at the start are in no named weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hiso_pl import bounds
from hiso_pl.ledger.format import LedgerError, stored_path
from hiso_pl.ledger.header import Header
from hiso_pl.run.whole_file import whole_file
from hiso_pl.zeroth_order.digest import tensor_sha256


def write_stored(ledger: Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Writes beside a ledger what its header says is stored, of tensors by name, whole or not at all.

    Raises:
        LedgerError: If a tensor is missing, or its values are not those that the header says.
        OSError: If it cannot be written.
    """
    if not header.stored:
        return
    chosen: dict[str, Tensor] = {}
    for facts in header.stored:
        tensor = tensors.get(facts.name)
        if tensor is None or tuple(tensor.shape) != facts.shape or tensor_sha256(tensor) != facts.sha256:
            raise LedgerError(f"tensors: {facts.name!r} is missing, or not what the header says of it")
        # a copy, as two views of one storage cannot be saved
        chosen[facts.name] = tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
    save_tensors(stored_path(ledger), chosen)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all."""
    with whole_file(path) as part:
        part.touch()
        mode = part.stat().st_mode
        save_file(tensors, part, metadata)
        part.chmod(mode)  # safetensors lets nobody else read it


def open_safetensors(path: Path) -> Any:
    """Opens a safetensors file, whose header is looked at before it is parsed.

    Raises:
        ValueError: If it is none.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > bounds.SAFETENSORS_HEADER_BYTES:
            raise ValueError(f"it says its header has {size} bytes, at most {bounds.SAFETENSORS_HEADER_BYTES} are read")
        return safe_open(path, framework="pt")
    except (SafetensorError, ValueError, OSError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged or no safetensors file: {said}") from error


def read_stored(ledger: Path, header: Header) -> dict[str, Tensor]:
    """Reads the tensors beside a ledger, by name and as data, and compares them with its header.

    Where to look is said by the ledger's path, never by what is inside a file.

    Raises:
        LedgerError: If the file is missing, is not safetensors, or holds something else than the header says.
    """
    if not header.stored:
        return {}
    path = stored_path(ledger)
    if not path.is_file():
        raise LedgerError(f"{path} is missing: it holds {len(header.stored)} tensors of the start of {ledger.name}")
    found: dict[str, Tensor] = {}
    try:
        with open_safetensors(path) as file:
            differing = set(file.keys()) ^ {facts.name for facts in header.stored}
            if differing:
                raise LedgerError(f"{path}: tensor {min(differing)!r} is in one of this file and {ledger.name} alone")
            for facts in header.stored:
                part = file.get_slice(facts.name)
                if part.get_dtype() != "F32" or tuple(part.get_shape()) != facts.shape:
                    raise LedgerError(
                        f"{path}: tensor {facts.name!r} is {part.get_dtype()} of shape {part.get_shape()}, "
                        f"must be F32 of shape {list(facts.shape)}"
                    )
                found[facts.name] = file.get_tensor(facts.name)
                if tensor_sha256(found[facts.name]) != facts.sha256:
                    raise LedgerError(f"{path}: tensor {facts.name!r} has other values than {ledger.name} says")
    except LedgerError:
        raise
    except (SafetensorError, ValueError) as error:
        raise LedgerError(" ".join(str(error).split())[:400]) from error
    return found
