"""Probing a network that lives in host memory, of which a device has one stage at a time.

What a stage reads is brought to the device, with H and what a rule keeps; there the update is done that the round
before has decided, its displaced versions are made one after another, and all points go through it. So each stage is
brought once a round. What runs uncut has one operator's weights brought at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiso_pl.zeroth_order.losses import Loss
from hiso_pl.zeroth_order.points import LeanPoints, Point, Writer, absent, standing_at
from hiso_pl.zeroth_order.staged import Cuts, StagedProbe
from hiso_pl.zeroth_order.substitution import substituted
from hiso_pl.zeroth_order.watching import Watch
from hiso_pl.zeroth_order.workplace import Brings, Workplace

T = TypeVar("T")

_X = Point((), ())
"""x itself: no direction, no H."""


@runtime_checkable
class Carried(Cuts, Protocol):
    """Stages of a network that lives in host memory.

    Attributes:
        place: Where they are worked on.
        frozen: Parameters that are not trained and live in host memory as well.
    """

    place: Workplace
    frozen: Sequence[Tensor]

    def frozen_of(self, stage: int) -> Sequence[Tensor]:
        """Those that a stage reads."""


class _AtHand(Sequence[Any]):
    """What stands for the elements of a list at a workplace."""

    def __init__(self, values: Sequence[Any], place: Workplace) -> None:
        self._values, self._place = values, place

    def __getitem__(self, i: Any) -> Any:
        return self._place.at_hand(self._values[i])

    def __len__(self) -> int:
        return len(self._values)


class CarriedWriter(Writer):
    """Writes points where they are evaluated, of an x and an H that live in host memory.

    Args:
        place: Where points are evaluated.
        args: See :class:`~.points.Writer`.
    """

    in_place = False

    def __init__(self, place: Workplace, *args: Any) -> None:
        super().__init__(*args)
        self._place = place
        self._host: Sequence[Tensor] = []

    @property
    def device(self) -> torch.device:
        """Where points are evaluated."""
        return self._place.device

    def look(self) -> None:
        """See :class:`~.points.Writer`."""
        super().look()
        self._host, self.bases = self.bases, _AtHand(self.bases, self._place)

    def write(self, t: int, out: Tensor, point: Point, rows: Tensor | None = None) -> None:
        """See :class:`~.points.Writer`."""
        if point.at_x:
            out.copy_(self._place.at_hand(self._host[t], rows).view(out.shape))
            return
        super().write(t, out, self._there(point), rows)

    def write_all(self, outs: Mapping[int, Tensor], point: Point) -> None:
        """See :class:`~.points.Writer`."""
        if point.at_x:
            for t, out in outs.items():
                self.write(t, out, point)
            return
        super().write_all(outs, self._there(point))

    def _there(self, point: Point) -> Point:
        return point._replace(hessians=_AtHand(point.hessians, self._place))


class Uncut:
    """Evaluates a network that lives in host memory at x, one operator's weights brought to the device at a time.

    Args:
        stages: The network's stages.
        parameters: Those that are trained, in tensor order.
        dtype: What forward passes compute in.
    """

    def __init__(self, stages: Carried, parameters: Sequence[Tensor], dtype: torch.dtype) -> None:
        self._stages, self._parameters = stages, parameters
        # x is copied: nothing displaces or divides
        self._points = LeanPoints(parameters, CarriedWriter(stages.place, parameters, None, None), dtype)
        self._looked = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Forward passes see x inside the block."""
        with self._points.at(_X), self.frozen_brought():
            yield

    @contextmanager
    def frozen_brought(self) -> Iterator[None]:
        """Forward passes see frozen weights inside the block."""
        frozen, device = self._stages.frozen, self._stages.place.device
        values = [p.data for p in frozen]

        def write(i: int, out: Tensor, rows: Tensor | None) -> None:
            out.copy_(self._stages.place.at_hand(values[i], rows).view(out.shape))

        nowhere = [absent(p, p.dtype, device) for p in frozen]
        with standing_at(frozen, nowhere), substituted(frozen, write, device):
            yield

    def watched(self, watch: Watch, evaluate: Callable[[], T], network: nn.Module | None) -> T:
        """Evaluates under watch; what no operator was seen to take exists all the time from then on."""
        with self.active():
            result = watch.of(evaluate, network)
        self._points.keep(watch.unseen)
        self._looked = True
        return result

    def of(self, evaluate: Callable[[], T], network: nn.Module | None) -> T:
        """Evaluates in inference mode; before the first time it is run once to look at what it reads."""
        if not self._looked:
            self.watched(Watch(self._parameters), evaluate, network)
        with self.active(), torch.inference_mode():
            return evaluate()


class CarriedProbe(StagedProbe):
    """Evaluates losses around points of a network that lives in host memory, stage by stage on a device.

    That a loss is not finite where it is at x is looked into at x brought operator by operator.

    Args:
        state: What the parameters belong to.
        stages: The stages.
        parameters: See :class:`~.probe.Probe`; and so all that follow.
        options: What else :class:`~.probe.Probe` takes.

    Raises:
        ValueError: If several points are to go through one forward pass.
    """

    def __init__(
        self, state: Brings, stages: Carried, parameters: Sequence[Tensor], *args: Any, **options: Any
    ) -> None:
        self._carried = stages
        super().__init__(state, stages, parameters, *args, **options)
        self._at_rest = Uncut(stages, parameters, self._dtype)

    def _new_writer(self, *args: Any) -> Writer:
        return CarriedWriter(self._carried.place, *args)

    def _watched(self, watch: Watch, evaluate: Callable[[], object], x: Point) -> frozenset[int]:
        def followed() -> None:
            with self._followed(watch):
                evaluate()

        self._at_rest.watched(watch, followed, self._network)
        if isinstance(self._points, LeanPoints):
            self._points.keep(watch.unseen)
            return frozenset()
        return frozenset(watch.rows - watch.whole) if self._network is not None else frozenset()

    def _stages(self) -> Iterator[None]:
        place, count = self._carried.place, self._carried.count
        frozen = [self._carried.frozen_of(stage) for stage in range(count)]
        values = [[p.data for p in some] for some in frozen]
        for stage, _ in enumerate(self._state.brought(self._carried.parts, values)):
            with standing_at(frozen[stage], [place.at_hand(value) for value in values[stage]]):
                yield

    def _uncut(self, losses: Sequence[Loss], k: int, points: Sequence[Point]) -> list[NDArray[np.float32]]:
        with self._at_rest.frozen_brought():
            return super()._uncut(losses, k, points)

    def _cast(self, loss: Loss, k: int) -> Tensor:
        return self._rows(self._at_rest.of(partial(loss, k), self._network))

    def at_base(self, x: Point, evaluate: Callable[[], T]) -> T:
        """See :class:`~.probe.Probe`."""
        return self._at_rest.of(evaluate, self._network)
