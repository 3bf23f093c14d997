"""What passes between the ranks that hold a network together, each a stage of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hiso_pl.ranks.roll_call import meeting
from hiso_pl.stages.messages import Inbox, Outbox, as_bytes
from hiso_pl.zeroth_order.held import ApartError

K = TypeVar("K")
V = TypeVar("V")


def groups_of(world: int, count: int) -> int:
    """How many networks the ranks hold, ``count`` of them each.

    Raises:
        ValueError: If they do not come to whole groups.
    """
    if world % count:
        raise ValueError(
            f"stages.count={count} must divide the number of ranks, {world}: with on=ranks that many hold a network "
            "together; in one process, leave stages out"
        )
    return world // count


class Ways:
    """The ways from one stage to the others: of ``count`` ranks in a row each is a stage.

    Args:
        count: Number of stages.
        world: Number of ranks.
        via: Where a tensor must be to be handed to the process group.
        timeout: How long the ranks wait for one another; as long as torch has it if None.

    Attributes:
        stage: This rank's stage.
    """

    def __init__(self, count: int, world: int, via: torch.device, timeout: timedelta | None) -> None:
        self._count, self._via = count, via
        self._members: list[int] = []
        for start in range(0, world, count):
            members = list(range(start, start + count))
            group = dist.new_group(members, timeout=timeout)  # all ranks make all groups, in one order
            if dist.get_rank() in members:
                self._group, self._members = group, members
        self.stage = self._members.index(dist.get_rank())
        self._inbox = self._outbox = None
        if self.stage:
            waiting = partial(_waiting, self.stage)
            self._inbox = Inbox(self._members[self.stage - 1], self._group, waiting, via)
        if self.stage < count - 1:
            waiting = partial(_waiting, self.stage + 1)
            self._outbox = Outbox(self._members[self.stage + 1], self._group, waiting, via)

    @property
    def bytes(self) -> int:
        """What was handed to the next stage so far."""
        return 0 if self._outbox is None else self._outbox.bytes

    def begin(self, passes: Sequence[tuple[str, int]]) -> None:
        """See :class:`hiso_pl.zeroth_order.linked.Links`; and so all that follow."""
        for box in (self._inbox, self._outbox):
            if box is not None:
                box.begin(passes)

    def receive(self, device: torch.device) -> Any:
        """What the stage before has left of the next pass; None in the first stage."""
        return None if self._inbox is None else self._inbox.take(device)

    def send(self, output: Any) -> None:
        """Hands what this stage has left to the next one."""
        assert self._outbox is not None
        self._outbox.put(output)

    def end(self) -> None:
        """Waits until all that was sent has been taken."""
        if self._outbox is not None:
            self._outbox.end()

    def told(self, values: Tensor) -> Tensor:
        """What the last stage has here."""
        values = values.to(self._via)
        with meeting("to the losses of round {next}"):
            dist.broadcast(values, self._members[-1], self._group)
            return values.cpu()

    def merged(self, found: Mapping[K, V]) -> dict[K, V]:
        """See :meth:`hiso_pl.zeroth_order.held.Held.merged`."""
        merged: dict[K, V] = {}
        for stage, said in enumerate(self._everyone(found)):
            for key, value in said.items():
                if merged.setdefault(key, value) != value:
                    raise ApartError(f"stages are out of step: stage {stage} has another {key} than one before it", key)
        return merged

    # What one rank writes for all

    def brought(
        self, tensors: Sequence[tuple[K, Tensor]], take: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[K, Tensor]]:
        """On the first rank of all its group's tensors of a kind, one after another; elsewhere nothing.

        All ranks of a group ask at the same time.

        Args:
            tensors: Those that are here, by a key that is theirs in the whole network.
            take: Where those that come are to live.
        """
        mine = dict(tensors)
        everyone = self._everyone({key: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for key, t in tensors})
        if self._members[0] != 0:
            return
        holders: dict[K, tuple[int, str, tuple[int, ...]]] = {}
        for stage, said in enumerate(everyone):
            for key, (dtype, shape) in said.items():
                holders.setdefault(key, (stage, dtype, shape))
        for key, (stage, dtype, shape) in holders.items():
            with meeting("to what stages write of round {done}"):
                if stage == self.stage != 0:
                    dist.send(as_bytes(mine[key].detach().to(self._via).contiguous()), 0, self._group)
                elif self.stage == 0 != stage:
                    values = torch.empty(shape, dtype=getattr(torch, dtype), device=self._via)
                    dist.recv(as_bytes(values), self._members[stage], self._group)
            if self.stage == 0:
                yield key, mine[key] if stage == 0 else take(values.cpu())

    def fill(self, values: Tensor, stage: int) -> None:
        """Fills values by those of a stage; all ask at the same time."""
        whole = values.to(self._via).contiguous()
        with meeting("to weights brought to all stages in round {next}"):
            dist.broadcast(as_bytes(whole), self._members[stage], self._group)
        if whole is not values:
            values.copy_(whole)

    def _everyone(self, said: Mapping[K, V]) -> list[Mapping[K, V]]:
        """What every stage has to say."""
        everyone: list[Mapping[K, V]] = [{}] * self._count
        with meeting("to a comparison of stages in round {next}"):
            dist.all_gather_object(everyone, dict(said), self._group)
        return everyone


def _waiting(stage: int, place: str) -> AbstractContextManager[None]:
    """Names who does not come to a stage."""
    return meeting(f"to stage {stage} with {place} of round {{next}}")
