"""What a stage hands to the next one, from process to process: a tensor, or a tuple of tensors.

A message begins with its layout, and those that follow and are alike do without. So the next one is asked for before
the one that came is worked on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.bool)
_KINDS: tuple[type, ...] = (Tensor, tuple, list)
_HEADER = 64
"""Integers of a header."""
_AHEAD = 4
"""Messages that may be under way before the sender waits."""


class Layout(NamedTuple):
    """What a message is made of.

    Attributes:
        kind: Its place in the kinds that are known.
        parts: Type and shape of each tensor; None where there is none.
    """

    kind: int
    parts: tuple[tuple[torch.dtype, tuple[int, ...]] | None, ...]

    @classmethod
    def of(cls, output: Any) -> Layout:
        """The layout of what a block has given.

        Raises:
            ValueError: If it is something else than a tensor, or a few of them in a tuple or list.
        """
        parts = [output] if isinstance(output, Tensor) else output
        kind = next((i for i, known in enumerate(_KINDS) if type(output) is known), None)
        if kind is None or not all(part is None or type(part) is Tensor for part in parts):
            raise ValueError(
                f"stages on ranks cannot be had: a block gives {type(output).__name__}, must give a tensor or a tuple "
                "of tensors"
            )
        layout = cls(kind, tuple(None if part is None else (part.dtype, tuple(part.shape)) for part in parts))
        if len(layout._words()) > _HEADER or any(part is not None and part[0] not in _DTYPES for part in layout.parts):
            raise ValueError("stages on ranks cannot be had: a block gives more, or other, tensors than can be sent")
        return layout

    def _words(self) -> list[int]:
        words = [self.kind, len(self.parts)]
        for part in self.parts:
            words += [-1] if part is None else [_index(part[0]), len(part[1]), *part[1]]
        return words

    def header(self) -> Tensor:
        """It as integers."""
        words = self._words()
        return torch.tensor(words + [0] * (_HEADER - len(words)), dtype=torch.int64)

    @classmethod
    def of_header(cls, header: Tensor) -> Layout:
        """It from integers."""
        kind, count, *words = header.tolist()
        parts: list[tuple[torch.dtype, tuple[int, ...]] | None] = []
        for _ in range(count):
            dtype, *words = words
            if dtype < 0:
                parts.append(None)
                continue
            dims, *words = words
            parts.append((_DTYPES[dtype], tuple(words[:dims])))
            words = words[dims:]
        return cls(kind, tuple(parts))

    def whole(self, tensors: Sequence[Tensor]) -> Any:
        """The message, of its tensors in order."""
        given = iter(tensors)
        parts = [None if part is None else next(given) for part in self.parts]
        return parts[0] if _KINDS[self.kind] is Tensor else _KINDS[self.kind](parts)


def _index(dtype: torch.dtype) -> int:
    return _DTYPES.index(dtype) if dtype in _DTYPES else len(_DTYPES)


class Inbox:
    """What comes from the stage before.

    Args:
        source: Its rank.
        group: The processes of all stages.
        waiting: What is wrapped around waiting for the message of a pass, given where that stands.
        via: Where a tensor must be to be handed to the process group.
    """

    def __init__(
        self,
        source: int,
        group: dist.ProcessGroup,
        waiting: Callable[[str], AbstractContextManager[Any]],
        via: torch.device,
    ) -> None:
        self._source, self._group, self._waiting, self._via = source, group, waiting, via
        self._passes: deque[tuple[str, int]] = deque()
        self._layouts: dict[int, Layout] = {}
        self._asked: deque[tuple[Layout, list[Tensor], list[Any]]] = deque()

    def begin(self, passes: Sequence[tuple[str, int]]) -> None:
        """Says what comes: where each pass stands, and a number that those have in common that are alike."""
        self._passes = deque(passes)
        self._layouts = {}

    def take(self, device: torch.device) -> Any:
        """The message of the next pass; the one after it is asked for, if it is known what it will be like.

        Args:
            device: Where it is to be worked on.
        """
        place, number = self._passes.popleft()
        with self._waiting(place):
            if not self._asked:
                if number not in self._layouts:
                    header = torch.empty(_HEADER, dtype=torch.int64, device=self._via)
                    dist.recv(as_bytes(header), self._source, self._group)
                    self._layouts[number] = Layout.of_header(header)
                self._ask(number)
            if self._passes and self._passes[0][1] in self._layouts:
                self._ask(self._passes[0][1])
            layout, tensors, works = self._asked.popleft()
            for work in works:
                work.wait()
        return layout.whole([tensor.to(device) for tensor in tensors])

    def _ask(self, number: int) -> None:
        layout = self._layouts[number]
        tensors = [torch.empty(part[1], dtype=part[0], device=self._via) for part in layout.parts if part is not None]
        self._asked.append((layout, tensors, [dist.irecv(as_bytes(t), self._source, self._group) for t in tensors]))


class Outbox:
    """What goes to the stage after.

    Args:
        target: Its rank.
        group: The processes of all stages.
        waiting: What is wrapped around waiting until a message has been taken.
        via: Where a tensor must be to be handed to the process group.

    Attributes:
        bytes: What was sent so far.
    """

    def __init__(
        self,
        target: int,
        group: dist.ProcessGroup,
        waiting: Callable[[str], AbstractContextManager[Any]],
        via: torch.device,
    ) -> None:
        self._target, self._group, self._waiting, self._via = target, group, waiting, via
        self._passes: deque[tuple[str, int]] = deque()
        self._told: dict[int, Layout] = {}
        self._sent: deque[tuple[str, list[Any], list[Tensor]]] = deque()
        self.bytes = 0

    def begin(self, passes: Sequence[tuple[str, int]]) -> None:
        """As :meth:`Inbox.begin`."""
        self._passes = deque(passes)
        self._told = {}

    def put(self, output: Any) -> None:
        """Sends what a block has given in the next pass.

        Raises:
            ValueError: If it cannot be sent, or is unlike the one of the same number before it.
        """
        place, number = self._passes.popleft()
        layout, tensors = Layout.of(output), []
        if number not in self._told:
            self._told[number] = layout
            tensors.append(layout.header().to(self._via))
        elif layout != self._told[number]:
            raise ValueError(
                f"stages on ranks cannot be had: at one point a block gives {self._told[number].parts}, at another "
                f"{layout.parts}"
            )
        parts = [output] if isinstance(output, Tensor) else output
        tensors += [part.detach().to(self._via).contiguous() for part in parts if part is not None]
        works = [dist.isend(as_bytes(t), self._target, self._group) for t in tensors]
        self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        self._sent.append((place, works, tensors))  # kept, as they are read from until they have been taken
        self._wait(_AHEAD)

    def end(self) -> None:
        """Waits until all has been taken."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        while len(self._sent) > left:
            place, works, _ = self._sent.popleft()
            with self._waiting(place):
                for work in works:
                    work.wait()


def as_bytes(tensor: Tensor) -> Tensor:
    """A tensor's memory as bytes, which every backend sends alike."""
    return tensor.view(-1).view(torch.uint8)
