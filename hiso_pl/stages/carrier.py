"""Brings tensors from host memory to a device, one group while the group before is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

Key = tuple[int, tuple[int, ...]]

_ALIGNED = 256
"""Bytes that a tensor begins at a multiple of."""


class Carrier:
    """Two spaces on a device, in which groups of tensors are in turn.

    Tensors keep living in host memory. A group is brought to one space while the one before it is worked on in the
    other; what has changed there goes back. On a GPU both directions are streams of their own, and overlap with work
    if the host's memory is pinned, as :meth:`kept` has it. A group waits until nothing works in its space any more and
    all that has left it has arrived.

    Args:
        device: The device. On the CPU everything happens one after another, in memory of its own.

    Attributes:
        device: As given.
        bytes: What was brought there so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self._here: dict[Key, Tensor] = {}
        self._spaces: list[Tensor] = []
        cuda = device.type == "cuda"
        self._into = torch.cuda.Stream(device) if cuda else None
        self._back = torch.cuda.Stream(device) if cuda else None

    def kept(self, tensor: Tensor) -> Tensor:
        """A tensor of the same values in host memory that the device reads by itself."""
        if self.device.type != "cuda" or tensor.device.type != "cpu" or tensor.untyped_storage().filename is not None:
            return tensor
        return tensor.pin_memory()

    # A workplace, as :class:`hiso_pl.zeroth_order.workplace.Workplace` tells of it

    def through(self, groups: Sequence[Sequence[Tensor]]) -> Iterator[None]:
        """Goes from one group to the next."""
        self._make_room(max((_size(group) for group in groups), default=0))
        coming = self._bring(groups[0], 0) if groups else None
        try:
            for i in range(len(groups)):
                assert coming is not None
                here, shared = coming
                self._wait(None, self._into)
                for key in shared:  # as the work on the group before has left it
                    self._copy(None, here[key], self._here[key])
                self._here = here
                coming = self._bring(groups[i + 1], (i + 1) % 2) if i + 1 < len(groups) else None
                yield
        finally:
            self._here = {}

    def at_hand(self, value: Any, rows: Tensor | None = None) -> Any:
        """What stands for a tensor, or some rows of it; a copy of one that is not at hand, in memory of its own."""
        if not isinstance(value, Tensor):
            return value
        here = self._here.get(_key(value))
        if here is not None:
            return here if rows is None else here[rows]
        self.finish()
        return (value if rows is None else value[rows.to(value.device)]).to(self.device, copy=True)

    def moved(self, tensors: Iterable[Tensor]) -> None:
        """Has tensors follow what stands for them."""
        self._wait(self._back, None)
        for tensor in tensors:
            self._copy(self._back, tensor, self._here[_key(tensor)])

    def finish(self) -> None:
        """Waits until all have followed."""
        if self._back is not None:
            self._back.synchronize()

    def _make_room(self, size: int) -> None:
        if not self._spaces or self._spaces[0].numel() < size:
            if self.device.type == "cuda":  # whose allocator does not know of the other streams
                torch.cuda.synchronize(self.device)
            self._spaces = []  # what is too small goes before its successor comes
            with torch.inference_mode(False):
                self._spaces = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2)]

    def _bring(self, group: Sequence[Tensor], place: int) -> tuple[dict[Key, Tensor], list[Key]]:
        """Begins to bring a group; what of it is worked on now has to be taken over from there."""
        here: dict[Key, Tensor] = {}
        shared, start = [], 0
        self._wait(self._into, None)
        self._wait(self._into, self._back)
        with torch.inference_mode(False), torch.no_grad():
            for tensor in group:
                key = _key(tensor)
                if key in here:
                    continue
                size = tensor.numel() * tensor.element_size()
                layout = torch.empty_like(tensor, device="meta").stride()
                flat = self._spaces[place][start : start + size].view(tensor.dtype)
                here[key] = flat.as_strided(tensor.shape, layout)
                start += -(-size // _ALIGNED) * _ALIGNED
                if key in self._here:
                    shared.append(key)
                else:
                    self._copy(self._into, here[key], tensor)
                    self.bytes += size
        return here, shared

    # What is asynchronous on a GPU; None is the stream in which work is done

    def _copy(self, stream: Any, to: Tensor, values: Tensor) -> None:
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            to.copy_(values, non_blocking=True)

    def _wait(self, waits: Any, ends: Any) -> None:
        """Has a stream wait for all that was given to another so far."""
        if self._into is not None:
            work = torch.cuda.current_stream(self.device)
            (waits or work).wait_stream(ends or work)


def _key(tensor: Tensor) -> Key:
    """What a tensor in host memory is known by: where it is, and its shape."""
    return tensor.data_ptr(), tuple(tensor.shape)


def _size(group: Sequence[Tensor]) -> int:
    return sum(-(-t.numel() * t.element_size() // _ALIGNED) * _ALIGNED for t in group)
