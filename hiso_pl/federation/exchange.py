"""The one collective of a round: an all-reduce of a few scalars that replaces a central aggregation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from hiso_pl.ranks.roll_call import meeting
from hiso_pl.zeroth_order.interfaces import Exchange, Slots


class AllReduceExchange(Exchange):
    """Places every client's scalars in its own slot and adds up the ranks' tensors.

    A slot is filled by one rank and zero on all others, and adding zero is exact. So the result is the scalars
    themselves, bit-equal on every rank and for every number of ranks, whatever order the sum is taken in.

    The tensor handed over is flat, fp32, ``m * width`` scalars and one ballot more: 1 where this process was asked
    to stop. So all ranks learn of a stop in the same round, with no collective of its own.

    Attributes:
        stop_requested: Set by this process when it wants the run to end after a round.
        rounds: Exchanges done.
        payload_bytes: Bytes this rank handed to the process group; none where it is alone.
        before: What every rank does first of all, as long as nothing of the round has left it.
        silent: Whether another rank fills this one's slots: it has the same rows.

    Args:
        group: The process group; the default one if none is given.
        device: Where the tensor is handed over: the CPU for gloo, this rank's GPU for NCCL.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, device: torch.device | str | None = None) -> None:
        self.group = group
        self.device = torch.device("cpu" if device is None else device)
        self.stop_requested = False
        self.rounds = 0
        self.payload_bytes = 0
        self.before: Callable[[Slots], None] | None = None
        self.silent = False
        self._ballots = 0.0

    @property
    def alone(self) -> bool:  # type: ignore[override]
        """Whether there is no other process."""
        return self._place()[1] == 1

    @property
    def stop_agreed(self) -> bool:
        """Whether any rank had asked to stop when the last exchange was made; the same on every rank."""
        return self._ballots > 0.0

    def slots(self, local: int) -> Slots:
        """Every rank fills ``local`` slots: rank 0 the first ones, rank 1 the next ones, and so on.

        Raises:
            ValueError: If ``local`` is below 1.
        """
        if local < 1:
            raise ValueError(f"local={local} losses must be at least 1")
        rank, world = self._place()
        everyone = tuple(range(world * local))
        return Slots(len(everyone), everyone[rank * local : (rank + 1) * local], everyone)

    def __call__(self, rows: Tensor, slots: Slots) -> Tensor:
        """Exchanges the rows of a round.

        Args:
            rows: This process's rows, fp32, shape ``[len(slots.own), width]``.
            slots: Where they belong.

        Returns:
            The rows of all slots, on the device of ``rows``, shape ``[slots.size, width]``. A zero is always +0.0,
            as -0.0 would not survive the addition and so tell how many ranks there are.

        Raises:
            ValueError: If rows and slots do not fit each other.
            LostRankError: If a rank does not come; it names the rank and the round.
        """
        _check(rows, slots)
        if self.before is not None:
            self.before(slots)
        width = rows.shape[1]
        payload = torch.zeros(slots.size * width + 1, dtype=torch.float32)
        table = payload[:-1].view(slots.size, width)
        if not self.silent:
            table[list(slots.own)] = rows.detach().cpu()
        payload[-1] = float(self.stop_requested)
        if self._place()[1] > 1:
            payload = payload.to(self.device)
            with meeting("to the exchange of round {next}"):
                dist.all_reduce(payload, op=dist.ReduceOp.SUM, group=self.group)
                payload = payload.cpu()  # on a GPU it is only now that it has come
            self.payload_bytes += payload.numel() * payload.element_size()
        self.rounds += 1
        self._ballots = float(payload[-1])
        return (payload[:-1].view(slots.size, width) + 0.0).to(rows.device)

    def _place(self) -> tuple[int, int]:
        """This process's rank in the group and the group's size."""
        if not (dist.is_available() and dist.is_initialized()):
            return 0, 1
        return dist.get_rank(self.group), dist.get_world_size(self.group)


def _check(rows: Tensor, slots: Slots) -> None:
    """Refuses rows that would leave a slot of this process empty or fill one twice."""
    if rows.dtype != torch.float32 or rows.ndim != 2 or rows.shape[0] != len(slots.own):
        raise ValueError(
            f"rows={rows.dtype} of shape {list(rows.shape)} must be torch.float32 of shape [{len(slots.own)}, width]"
        )
    if len(set(slots.own)) != len(slots.own) or not all(0 <= slot < slots.size for slot in slots.own):
        raise ValueError(f"slots.own={slots.own} must be distinct and in [0, {slots.size})")
