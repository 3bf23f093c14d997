"""What is said where memory does not suffice: how much a network takes, and in how many stages it would fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hiso_pl.errors import RunError, one_line
from hiso_pl.stages.blocks import blocks_of, even_starts
from hiso_pl.stages.held import sizes_by
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.out_of_memory import is_out_of_memory
from hiso_pl.zeroth_order.tensors import Target

SHARE = 0.8
"""Of a device's memory what x, H and a displaced copy may take; the rest is for activations."""


@contextmanager
def advising(network: nn.Module, method: Any, device: torch.device) -> Iterator[None]:
    """Says of memory that does not suffice inside the block what would.

    Args:
        network: The network.
        method: What a round computes; nothing is known of what other methods than scalar-only ones take.
        device: The device.

    Raises:
        RunError: In place of an error of memory, if the network has blocks.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or not isinstance(method, Method):
            raise
        try:
            advice = advised(network, method, device)
        except ValueError:  # it has no blocks
            raise error from None
        raise RunError(f"{advice} ({one_line(error, 120)})") from error


def advised(network: nn.Module, method: Method, device: torch.device, room: int | None = None) -> str:
    """How much a network takes, and in how many stages it would fit.

    Args:
        network: The network.
        method: What a round computes.
        device: The device.
        room: Bytes of its memory; asked for if None.

    Raises:
        ValueError: If the network has no blocks.
    """
    blocks = blocks_of(network)
    room = _memory_of(device) if room is None else room
    kept = sizes_by(network, blocks, lambda p: _kept(p, method))
    copied = sizes_by(network, blocks, lambda p: p.numel() * method.dtype.itemsize if _displaced(p, method) else 0)
    whole = sum(kept) + sum(copied)
    said = f"{device} has {_gb(room)}, and the weights, H and a displaced copy of the network take {_gb(whole)}"
    gpu = device.type != "cpu"
    found = []
    ranks = _least([a + b for a, b in zip(kept, copied, strict=True)] if gpu else copied, room)
    if ranks is not None and gpu:
        found.append(f"on: ranks and count: {ranks[0]} has {_gb(ranks[1])} on a rank")
    elif ranks is not None:
        found.append(f"count: {ranks[0]} and an offload_dir has {_gb(ranks[1])} of it at a time")
    # a stage is brought while another is worked on
    host = _least([2 * a + b for a, b in zip(kept, copied, strict=True)], room) if gpu else None
    if host is not None:
        found.append(f"on: host and count: {host[0]} has {_gb(host[1])} of it there at a time")
    if not found:
        return f"out of memory: {said}; it fits in no number of stages: take an adapter, or a larger device"
    return f"out of memory: {said}; model.stages with {', or with '.join(found)}, and activations"


def _least(sizes: Sequence[int], room: int) -> tuple[int, int] | None:
    """The least number of stages of which the largest fits, and its bytes; None if there is none."""
    for count in range(2, len(sizes) + 1):
        starts = even_starts(sizes, count)
        largest = max(sum(sizes[a:b]) for a, b in zip(starts, [*starts[1:], len(sizes)], strict=True))
        if largest <= SHARE * room:
            return count, largest
    return None


def _displaced(p: Tensor, method: Method) -> bool:
    return p.requires_grad and not method.lean


def _kept(p: Tensor, method: Method) -> int:
    """Bytes of a parameter, its H and what a rule keeps with it."""
    size = p.numel() * p.element_size()
    if not p.requires_grad:
        return size
    shape, target = torch.empty_like(p, device="meta"), Target(1, "", tuple(p.shape))
    hessian = method.preconditioner.initial(shape, target)
    kept = [*method.update_rule.initial(shape, target).values(), *([] if hessian is None else [hessian])]
    return size + sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
