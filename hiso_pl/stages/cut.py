"""A network cut into stages, by its own forward pass and with nothing written for its family.

On every stage the network's whole forward pass runs, so masks, positions and rotary tables are made by its own code.
The blocks of earlier stages are stand-ins that give what the last of them gave when it ran, the last block of the
stage ends the pass. No operator runs on other shapes than in the network uncut, so the same bits come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hiso_pl.stages.blocks import blocks_of, check_starts, even_starts
from hiso_pl.zeroth_order.watching import Watch, is_compiled


class OrderError(ValueError):
    """A forward pass does not run the blocks once each and in order."""


class _Left(BaseException):
    """Ends a forward pass where its stage does; no handler of errors is to take it for one."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class Cut:
    """A network's stages, once a forward pass has shown what is read where.

    Args:
        network: The network.
        parameters: The trained ones, in tensor order.
        count: Number of stages.
        blocks: Name of the list of blocks; None for the largest.
        starts: First block of each stage; None cuts by the bytes that are displaced, so that the largest is small.

    Attributes:
        parts: Positions of the trained parameters that each stage reads; those that no operator was seen to take are
            in all of them. Empty until :meth:`learn` was called.

    Raises:
        ValueError: If the network has no blocks, or too few, or is compiled.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: Sequence[Tensor],
        count: int,
        blocks: str | None = None,
        starts: Sequence[int] | None = None,
    ) -> None:
        if is_compiled(network):
            raise ValueError("stages cannot be had of a compiled network, whose blocks nobody sees: compile=False")
        self._name, self._blocks = blocks_of(network, blocks)
        if count > len(self._blocks):
            raise ValueError(f"count={count} must be at most {len(self._blocks)}, the number of blocks in {self._name}")
        if starts is not None:
            check_starts(starts, len(self._blocks))
        self._parameters, self._count, self._given = parameters, count, starts
        self._starts: list[int] = []
        self.parts: Sequence[frozenset[int]] = []

    @property
    def count(self) -> int:
        """Number of stages."""
        return self._count

    def __repr__(self) -> str:
        cuts = ", ".join(f"{a} to {b - 1}" for a, b in zip(self._starts, self._ends(), strict=True))
        return f"{self._count} stages of {self._name}" + (f": blocks {cuts}" if cuts else "")

    def _ends(self) -> list[int]:
        return [*self._starts[1:], len(self._blocks)] if self._starts else []

    # What is read where

    @contextmanager
    def following(self, watch: Watch) -> Iterator[None]:
        """Has a watched forward pass note at which block it is: 2 i + 1 in block i, 2 i before it.

        Raises:
            OrderError: If it runs blocks in another order, more than once or not at all.
        """
        ran: list[int] = []

        def watched(i: int, block: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                again = i in ran
                ran.append(i)
                if again:
                    raise self._other_order(ran)
                watch.place = 2 * i + 1
                output = block(*args, **kwargs)
                watch.place = 2 * i + 2
                return output

            return forward

        with self._replaced({i: watched(i, block.forward) for i, block in enumerate(self._blocks)}):
            watch.place = 0
            yield
        if ran != list(range(len(self._blocks))):
            raise self._other_order(ran)

    def _other_order(self, ran: Sequence[int]) -> OrderError:
        order = ", ".join(map(str, ran[:8])) + (", ..." if len(ran) > 8 else "")
        return OrderError(
            f"stages cannot be had of {self._name}: a forward pass must run its {len(self._blocks)} blocks once each "
            f"and in order, it ran {order or 'none'}"
        )

    def learn(self, watch: Watch) -> None:
        """Takes from a followed forward pass which stage reads what, and decides on the cuts."""
        places = [watch.places.get(t, set()) for t in range(len(self._parameters))]
        last = len(self._blocks) - 1
        # what lies between two blocks runs in the stage of the second, what comes after all in the last
        read = [{min(place // 2, last) for place in taken} for taken in places]
        if self._given is not None:
            self._starts = list(self._given)
        else:
            sizes = [0] * len(self._blocks)
            for t in watch.whole:  # of the rest a stage needs rows alone
                for block in read[t]:
                    sizes[block] += self._parameters[t].numel() * self._parameters[t].element_size()
            self._starts = even_starts(sizes, self._count)
        everywhere = set(range(len(self._blocks)))
        self.parts = [
            frozenset(t for t, blocks in enumerate(read) if (blocks or everywhere) & set(range(start, end)))
            for start, end in zip(self._starts, self._ends(), strict=True)
        ]

    def stage_of(self, block: int) -> int:
        """The stage that a block is in."""
        return max(stage for stage, start in enumerate(self._starts) if start <= block)

    def block_of(self, network: nn.Module) -> list[int | None]:
        """For each parameter of a network the block that it is in; None for those in none."""
        within = {id(p): i for i, block in enumerate(self._blocks) for p in block.parameters()}
        return [within.get(id(p)) for p in network.parameters()]

    # Running a stage

    def run(self, stage: int, evaluate: Callable[[], Any], arrived: Any) -> Any:
        """Runs one stage of a forward pass.

        Args:
            stage: Which.
            evaluate: Runs the whole forward pass.
            arrived: What the stage before has left.

        Returns:
            What the last block gave; of the last stage what ``evaluate`` gives.
        """
        first, end = self._starts[stage], self._ends()[stage]
        replaced: dict[int, Callable[..., Any]] = dict.fromkeys(range(first), lambda *args, **kwargs: arrived)
        final = end == len(self._blocks)
        if not final:
            replaced[end - 1] = _leaving(self._blocks[end - 1].forward)
        with self._replaced(replaced):
            try:
                output = evaluate()
            except _Left as left:
                return left.output
        if not final:
            raise RuntimeError(f"the forward pass ended before block {end - 1} of {self._name}")
        return output

    @contextmanager
    def _replaced(self, forwards: dict[int, Callable[..., Any]]) -> Iterator[None]:
        """Blocks run other code inside the block."""
        own = {i: self._blocks[i].__dict__.get("forward") for i in forwards}
        try:
            for i, forward in forwards.items():
                self._blocks[i].forward = forward  # type: ignore[method-assign]
            yield
        finally:
            for i, before in own.items():
                if before is None:
                    self._blocks[i].__dict__.pop("forward", None)
                else:
                    self._blocks[i].forward = before  # type: ignore[method-assign]


def _leaving(block: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise _Left(block(*args, **kwargs))

    return forward
