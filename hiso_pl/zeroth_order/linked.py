"""Probing a network whose stages are processes: points flow through them one behind another.

Each process runs its own stage of every point, so that with k of them P + 1 points take about (P + k) / (P + 1) of a
k-th of the time. Losses come out of the last one, which tells the others; all that follows on them is the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.held import Held
from hiso_pl.zeroth_order.losses import Loss
from hiso_pl.zeroth_order.points import Point, Writer
from hiso_pl.zeroth_order.staged import Cuts, Pass, StagedProbe
from hiso_pl.zeroth_order.workplace import Brings


@runtime_checkable
class Links(Held, Cuts, Protocol):
    """Stages that are processes, and the ways between them.

    Attributes:
        stage: This process's stage.
        frozen: Parameters that are not trained, of which those of other stages are absent as well.
    """

    stage: int
    frozen: Sequence[Tensor]

    def begin(self, passes: Sequence[tuple[str, int]]) -> None:
        """Says which forward passes come, in order.

        Args:
            passes: Of each where it stands, in words, and a number; what those of equal numbers hand on is alike.
        """

    def receive(self) -> Any:
        """What the stage before has left of the next pass; None in the first stage."""

    def send(self, output: Any) -> None:
        """Hands what this stage has left of the pass to the next one."""

    def end(self) -> None:
        """Waits until all that was sent has been taken."""

    def told(self, values: Tensor) -> Tensor:
        """What the last stage has here, in memory that every stage gives; all of them ask at the same time."""

    def bring(self, t: int, values: Tensor) -> None:
        """Fills values of a trained parameter where it is absent, from where it is; all ask at the same time."""

    def bringing(self, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Weights of others are brought to the operators that take them inside the block."""


class _LinkedWriter(Writer):
    """Writes displaced values of tensors that are here; those of others are NaN, or brought from where they are.

    Args:
        links: The stages.
        args: See :class:`~.points.Writer`.
    """

    def __init__(self, links: Links, *args: Any) -> None:
        super().__init__(*args)
        self._links = links
        self._brings = False

    @contextmanager
    def bringing(self) -> Iterator[None]:
        """All processes write the same tensors in the same order inside the block, and have what others hold."""
        self._brings = True
        try:
            yield
        finally:
            self._brings = False

    def write(self, t: int, out: Tensor, point: Point, rows: Tensor | None = None) -> None:
        """See :class:`~.points.Writer`."""
        if t in self._links.own:
            super().write(t, out, point, rows)
        else:
            out.fill_(float("nan"))
        if self._brings:
            self._links.bring(t, out)

    def write_all(self, outs: Mapping[int, Tensor], point: Point) -> None:
        """See :class:`~.points.Writer`."""
        if not self._brings and outs.keys() <= self._links.own:
            super().write_all(outs, point)
            return
        for t, out in outs.items():
            self.write(t, out, point)


class LinkedProbe(StagedProbe):
    """Evaluates losses around points, this process's stage of each.

    The first losses are evaluated uncut as well: every process runs the whole network, one operator's weights brought
    to it at a time. That a loss is not finite where it is at x is not looked into: weights that the first forward pass
    did not read are with the stage that has their block.

    Args:
        state: What the parameters belong to.
        links: The stages.
        parameters: See :class:`~.probe.Probe`; and so all that follow.
        options: What else :class:`~.probe.Probe` takes.

    Raises:
        ValueError: If several points are to go through one forward pass, or a loss is one for each example.
    """

    def __init__(self, state: Brings, links: Links, parameters: Sequence[Tensor], *args: Any, **options: Any) -> None:
        if options.get("per_example"):
            raise ValueError("losses must be of minibatches, not of examples, where stages are on ranks")
        self._links = links
        super().__init__(state, links, parameters, *args, **options)

    def _here(self) -> Sequence[int]:
        return sorted(self._links.own)

    def _parts(self) -> Sequence[frozenset[int]]:
        return [self._links.own]

    def _new_writer(self, *args: Any) -> Writer:
        return _LinkedWriter(self._links, *args)

    def _doubtful(self, losses: Sequence[Loss], k: int, values: Sequence[NDArray[np.float32]]) -> list[int]:
        return []

    def _through(self, passes: Sequence[Pass]) -> list[list[Tensor]]:
        if not passes:
            return []
        way, links = self._way(), self._links
        # of one loss all points' activations are of one shape
        links.begin([(f"point {i}", id(one.func)) for i, each in enumerate(passes) for one in each.evaluations])
        sizes = [len(each.evaluations) for each in passes]
        found = []
        for point, evaluations in passes:
            with way.at(point), torch.inference_mode():
                for one in evaluations:
                    output = links.run(links.stage, one, links.receive())
                    if links.stage == links.count - 1:
                        found.append(self._rows(output))
                    else:
                        links.send(output)
        links.end()
        values = torch.cat(found) if found else torch.empty(sum(sizes), dtype=torch.float32)
        return [list(some.split(1)) for some in links.told(values).split(sizes)]

    def _uncut(self, losses: Sequence[Loss], k: int, points: Sequence[Point]) -> list[NDArray[np.float32]]:
        assert isinstance(self._writer, _LinkedWriter)
        with self._writer.bringing(), self._links.bringing(self._links.frozen):
            return super()._uncut(losses, k, points)
