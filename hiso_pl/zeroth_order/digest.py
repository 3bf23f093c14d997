"""The digest of a state, and a cheap checksum of it for every few rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer

_CHUNK = 1 << 22
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit integer


def digest(optimizer: ZerothOrderOptimizer) -> str:
    """SHA-256 over the little-endian bytes of the trainable parameters, then of H where stored, in tensor order.

    Returns:
        64 hexadecimal digits.
    """
    sha = hashlib.sha256()
    for tensor in [*optimizer.parameters, *optimizer.stored_hessians]:
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            values = flat[start : start + _CHUNK].cpu().contiguous().numpy()
            sha.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return sha.hexdigest()


def _tensors(optimizer: ZerothOrderOptimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in zip(optimizer.names, optimizer.parameters, strict=True):
        yield name, parameter
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                yield f"{name} ({key})", value


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


def checksums(optimizer: ZerothOrderOptimizer) -> tuple[list[str], Tensor]:
    """A 64-bit checksum of every tensor of the state, H and momentum included, computed on the device.

    It is a sum modulo 2^64 of the elements' bits, each stirred with its place, so it does not depend on an order of
    summation; changing one bit always changes it.

    Returns:
        The tensors' names, and their checksums as int64, shape ``[tensors]``.
    """
    pairs = list(_tensors(optimizer))
    return [name for name, _ in pairs], torch.stack([_checksum(tensor) for _, tensor in pairs])
