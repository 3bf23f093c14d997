"""Probing a network stage by stage: of a displaced point no more exists at a time than one stage reads.

All points' forward passes go through a stage before the next one follows. Every operator runs on the values and shapes
of the uncut network, so the same bits come out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.losses import Loss
from hiso_pl.zeroth_order.plan import Plan
from hiso_pl.zeroth_order.points import LeanPoints, Point, Points, Writer, absent, standing_at
from hiso_pl.zeroth_order.probe import Group, Probe
from hiso_pl.zeroth_order.substitution import Substitution
from hiso_pl.zeroth_order.watching import Watch
from hiso_pl.zeroth_order.workplace import Brings

log = logging.getLogger(__name__)

_MORE = (
    "a block, or what follows the last one, reads more of what was before it than what the block before it gave, as a "
    "decoder reads its encoder"
)


class Cuts(Protocol):
    """A network's stages.

    Attributes:
        count: Number of stages.
        parts: Positions of the parameters that each stage reads; known once it was told by :meth:`learn`.
    """

    parts: Sequence[frozenset[int]]

    @property
    def count(self) -> int:
        """Number of stages."""

    def following(self, watch: Watch) -> Any:
        """A context in which a watched forward pass says at which block it is."""

    def learn(self, watch: Watch) -> None:
        """Takes from a followed forward pass which stage reads what."""

    def run(self, stage: int, evaluate: Callable[[], Any], arrived: Any) -> Any:
        """Runs one stage of a forward pass, given what the stage before left; the last one gives the result."""


class Pass(NamedTuple):
    """Forward passes at one point.

    Attributes:
        point: Where.
        evaluations: What runs each of them: a loss, of a local step.
    """

    point: Point
    evaluations: Sequence[partial[Tensor]]


class StagedPoints(Points):
    """A point of which one stage exists at a time, in memory that serves all stages.

    Args:
        parameters: See :class:`~.points.Points`.
        writer: See :class:`~.points.Points`.
        dtype: See :class:`~.points.Points`.
        parts: Positions of the parameters that each stage reads.
        by_rows: Positions of those that are read by rows at marked places and nowhere else: they are not copied.

    Attributes:
        stage: The stage that is evaluated next.
    """

    partial = True

    def __init__(
        self,
        parameters: Sequence[Tensor],
        writer: Writer,
        dtype: torch.dtype,
        parts: Sequence[frozenset[int]],
        by_rows: frozenset[int],
    ) -> None:
        super().__init__(parameters, writer, dtype)
        self.stage = 0
        self._parts = [sorted(part - by_rows) for part in parts]
        self._absent = [absent(p, dtype, writer.device) for p in parameters]
        sizes = [sum(parameters[t].numel() for t in part) for part in self._parts]
        self._memory = torch.empty(max(sizes), dtype=dtype, device=writer.device)
        self._rows = Substitution(parameters, self._write, dtype, everywhere=False, device=writer.device)

    def _values(self) -> dict[int, Tensor]:
        """Memory of the stage's tensors, each laid out as the parameter is: a probe runs the same forward pass."""
        found, start = {}, 0
        for t in self._parts[self.stage]:
            p = self._parameters[t]
            layout = torch.empty_like(p, dtype=self._dtype, device="meta")
            found[t] = self._memory[start : start + p.numel()].as_strided(p.shape, layout.stride())
            start += p.numel()
        return found

    @contextmanager
    def _at(self, point: Point) -> Iterator[None]:
        values = self._values()
        self._writer.write_all(values, point)
        self._point = point
        standing = [values.get(t, nothing) for t, nothing in enumerate(self._absent)]
        with standing_at(self._parameters, standing), self._rows.active():
            yield


class StagedProbe(Probe):
    """Evaluates losses around points, all of them one stage of the network after another.

    The first losses are evaluated uncut as well, at a displaced point of which one operator's weights exist at a time.

    Args:
        state: What the parameters belong to.
        cuts: The stages.
        parameters: See :class:`~.probe.Probe`; and so all that follow.
        options: What else :class:`~.probe.Probe` takes.

    Raises:
        ValueError: If several points are to go through one forward pass.
    """

    def __init__(self, state: Brings, cuts: Cuts, parameters: Sequence[Tensor], *args: Any, **options: Any) -> None:
        super().__init__(parameters, *args, **options)
        if self._batched is not None:
            raise ValueError("directions_per_forward must be 1 with stages, through which points go one by one")
        self._state, self._cuts = state, cuts
        self._unseen: set[int] = set()

    def _followed(self, watch: Watch) -> AbstractContextManager[None]:
        return self._cuts.following(watch)

    def _chosen(self, watch: Watch, rows: frozenset[int]) -> Points:
        self._cuts.learn(watch)
        self._unseen = watch.unseen
        log.info("Probes go through %r.", self._cuts)
        return self._points or StagedPoints(self._parameters, self._writer, self._dtype, self._parts(), rows)

    def _parts(self) -> Sequence[frozenset[int]]:
        """What the stages that are evaluated here read."""
        return self._cuts.parts

    def together(self, groups: Sequence[Group], k: int, chosen: Sequence[int]) -> list[list[NDArray[np.float32]]]:
        """See :class:`~.probe.Probe`: each stage is gone to once for all groups."""
        if not self._checked:
            return super().together(groups, k, chosen)
        passes = [self._passes(losses, k, drift, plan, chosen) for losses, drift, plan in groups]
        found = iter(self._through([one for group in passes for one in group]))
        values = [_by_slot([next(found) for _ in group]) for group in passes]
        for (losses, _, _), group, rows in zip(groups, passes, values, strict=True):
            doubtful = self._doubtful(losses, k, rows)
            if doubtful:
                points = [point for point, _ in group]
                self._again([losses[i] for i in doubtful], k, points, _MORE, [rows[i] for i in doubtful])
        return values

    def each(
        self, losses: Sequence[Loss], k: int, drift: NDArray[np.float32], plan: Plan, chosen: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """See :class:`~.probe.Probe`.

        Raises:
            ValueError: If the network cut gives other losses than uncut: its blocks hand on more than they give.
        """
        tried = self._checked
        values = super().each(losses, k, drift, plan, chosen)
        if not tried:
            offset = next(offset for offset in plan.offsets if offset is not None)
            point = plan.point(k, offset, drift)
            # beside a second one, which a block that remembers another's state would mix up with it
            cut = self._evaluate(self._way(), losses[:1], k, [point, plan.x])
            self._again(losses[:1], k, [point], _MORE, [rows[:, :1] for rows in cut])
        return values

    def _uncut(self, losses: Sequence[Loss], k: int, points: Sequence[Point]) -> list[NDArray[np.float32]]:
        """Evaluates uncut, with no more of a point at a time than the running operator takes."""
        self._state.complete()
        way = LeanPoints(self._parameters, self._writer, self._dtype)
        way.keep(self._unseen)
        return super()._evaluate(way, losses, k, points)

    def _again(
        self,
        losses: Sequence[Loss],
        k: int,
        points: Sequence[Point],
        reason: str,
        values: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Evaluates uncut.

        Raises:
            ValueError: If the result is another.
        """
        try:
            uncut = self._uncut(losses, k, points)
        except (RuntimeError, IndexError) as error:
            if values is None:
                raise
            reason = f"what it gives uncut cannot be tried ({self._why_whole(error)})"
            raise ValueError(f"{self._cuts!r} cannot be had of this network: {reason}") from error
        if values is None or not all(map(partial(np.array_equal, equal_nan=True), uncut, values)):
            why = reason if values is None else _MORE
            raise ValueError(f"{self._cuts!r} do not give the loss of the network uncut: {why}")
        return uncut

    def _evaluate(
        self, way: Points, losses: Sequence[Loss], k: int, points: Sequence[Point]
    ) -> list[NDArray[np.float32]]:
        return _by_slot(self._through([Pass(point, [partial(loss, k) for loss in losses]) for point in points]))

    def _passes(
        self, losses: Sequence[Loss], k: int, drift: NDArray[np.float32], plan: Plan, chosen: Sequence[int]
    ) -> list[Pass]:
        points = [plan.point(k, plan.offsets[i], drift) for i in chosen]
        return [Pass(point, [partial(loss, k) for loss in losses]) for point in points]

    def _way(self) -> Points:
        assert self._points is not None
        return self._points

    def _through(self, passes: Sequence[Pass]) -> list[list[Tensor]]:
        """Sends forward passes through all stages; what each gives, by point."""
        way = self._way()
        held: list[list[Any]] = [[None] * len(evaluations) for _, evaluations in passes]
        for stage, _ in enumerate(self._stages()):
            if isinstance(way, StagedPoints):
                way.stage = stage
            for (point, evaluations), left in zip(passes, held, strict=True):
                with way.at(point), torch.inference_mode():
                    for i, one in enumerate(evaluations):
                        left[i] = self._cuts.run(stage, one, left[i])
        return [[self._rows(value) for value in left] for left in held]

    def _stages(self) -> Iterator[None]:
        """Goes from one stage to the next; what it reads is at hand, and of this round."""
        return self._state.brought(self._cuts.parts)

    def _whole(self, reason: str) -> Points:
        raise ValueError(f"{self._cuts!r} cannot be had of this network: {reason}")


def _by_slot(values: Sequence[Sequence[Tensor]]) -> list[NDArray[np.float32]]:
    """Losses by slot, a column for each point, of losses by point; one transfer to the host for all."""
    sizes = [len(rows) for rows in values[0]]
    together = torch.stack([torch.cat(list(rows)) for rows in values]).cpu().numpy().T
    return np.split(together, np.cumsum(sizes)[:-1])
