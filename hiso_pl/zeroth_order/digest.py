"""The digest of a state, and a cheap checksum of it for every few rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from hiso_pl.zeroth_order.held import of_all

T = TypeVar("T")

_CHUNK = 1 << 22
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit integer
_THREADS = 8


class StateTensor(NamedTuple):
    """One tensor of a state.

    Attributes:
        name: The trainable parameter that it is of.
        kind: ``x`` for the parameter itself, ``hessian``, or the name that a part gives to its state.
        value: The tensor itself, not a copy.
    """

    name: str
    kind: str
    value: Tensor


class Stateful(Protocol):
    """What has a state to be hashed. One that processes hold together says more: see :func:`_found`."""

    def tensors(self) -> list[StateTensor]:
        """All tensors of the state that are here, in the order of :func:`in_order`."""


def in_order(
    names: Sequence[str], parameters: Sequence[Tensor], states: Sequence[Mapping[str, Tensor]]
) -> list[StateTensor]:
    """A state's tensors in the order that digests have: x in tensor order, then H where stored, then what parts keep.

    Args:
        names: The parameters' names, in tensor order.
        parameters: x.
        states: What is kept beside each parameter, by name: H as ``hessian``, the rest taken by tensor and name.
    """
    rows = list(zip(names, states, strict=True))
    tensors = [StateTensor(name, "x", x) for name, x in zip(names, parameters, strict=True)]
    tensors += [StateTensor(name, "hessian", state["hessian"]) for name, state in rows if "hessian" in state]
    tensors += [StateTensor(name, kind, s[kind]) for name, s in rows for kind in sorted(s) if kind != "hessian"]
    return tensors


def tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values, little-endian and row-major, as 64 hexadecimal digits."""
    sha = hashlib.sha256()
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        values = flat[start : start + _CHUNK].cpu().contiguous().numpy()
        sha.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data)
    return sha.hexdigest()


def tensors_sha256(tensors: Iterable[Tensor]) -> list[str]:
    """SHA-256 of each tensor, in order; by as many threads as torch has here, as hashing lets go of Python's lock."""
    threads = min(torch.get_num_threads(), _THREADS)
    if threads == 1:
        return [tensor_sha256(tensor) for tensor in tensors]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(tensor_sha256, tensors))


def digest_of_hashes(hashes: Iterable[str]) -> str:
    """The digest of tensors whose own SHA-256 are known: SHA-256 over their 32 bytes each, in order.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()


def digest_of_tensors(tensors: Iterable[Tensor]) -> str:
    """The digest of tensors in the order given."""
    return digest_of_hashes(tensors_sha256(tensors))


def digest(state: Stateful) -> str:
    """The digest of a state: of all its tensors, in the order of :func:`in_order`.

    Processes that hold a state together all ask for it at the same time.
    """
    return digest_of_hashes(sha256 for _, sha256 in _found(state, tensors_sha256))


def parameters_sha256(state: Stateful) -> list[str]:
    """SHA-256 of each trainable parameter of a state, in tensor order; asked for as :func:`digest` is."""
    return [sha256 for _, sha256 in _found(state, tensors_sha256, "x")]


def _found(
    state: Stateful, look: Callable[[Iterable[Tensor]], Sequence[T]], only: str | None = None
) -> list[tuple[tuple[str, str], T]]:
    """Something of every tensor of a state, or of those of a kind, in the order of :func:`in_order`."""
    tensors = [tensor for tensor in state.tensors() if only in (None, tensor.kind)]
    found = list(zip([(t.name, t.kind) for t in tensors], look(t.value for t in tensors), strict=True))
    held, names = getattr(state, "held", None), getattr(state, "names", ())
    return found if held is None else list(of_all(held, names, dict(found)).items())


def told_as(name: str, kind: str) -> str:
    """What an error calls a tensor of the state."""
    return name if kind == "x" else f"{name} ({kind})"


def _checksum(tensor: Tensor) -> Tensor:
    bits = tensor.detach().reshape(-1).view(torch.int32)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, bits.numel(), _CHUNK):
        part = bits[start : start + _CHUNK].to(torch.int64)
        place = torch.arange(start, start + part.numel(), dtype=torch.int64, device=tensor.device)
        # an odd factor for each place: no single changed bit can cancel modulo 2^64; then stir, for several of them
        mixed = part * (place * _ODD * 2 + 1)
        mixed = mixed ^ ((mixed >> 29) & 0x7FFFFFFFF)
        total = total + (mixed * _ODD).sum()
    return total


def checksums(state: Stateful) -> tuple[list[str], Tensor]:
    """A 64-bit checksum of every tensor of the state, in the digest's order, computed on the device.

    It is a sum modulo 2^64 of the elements' bits, each stirred with its place, so it does not depend on an order of
    summation; changing one bit always changes it.

    Returns:
        The tensors' names, and their checksums as int64, shape ``[tensors]``.
    """
    found = _found(state, lambda tensors: torch.stack([_checksum(tensor) for tensor in tensors]).tolist())
    names = [told_as(name, kind) for (name, kind), _ in found]
    return names, torch.tensor([checksum for _, checksum in found], dtype=torch.int64)
