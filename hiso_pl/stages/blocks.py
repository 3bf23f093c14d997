"""The blocks of a network: where it can be cut, and into which pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from torch import nn


class Blocks(NamedTuple):
    """The modules that a network's forward pass goes through one after another.

    Attributes:
        name: What the list of them is called in the network.
        modules: They, in order.
    """

    name: str
    modules: Sequence[nn.Module]


def blocks_of(network: nn.Module, name: str | None = None) -> Blocks:
    """The blocks of a network: of its lists of modules of one class the one with most parameters, or a named one.

    Args:
        network: The network.
        name: Its list's name, or the end of it; None for the largest.

    Raises:
        ValueError: If there is no such list, or several go by the name.
    """
    lists = [
        (where, module)
        for where, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    ]
    kind = type(network).__name__
    if not lists:
        raise ValueError(f"stages cannot be had of {kind}, which has no blocks: no ModuleList of modules of one class")
    known = ", ".join(where for where, _ in lists[:4]) + (", ..." if len(lists) > 4 else "")
    if name is None:
        where, found = max(lists, key=lambda one: _elements(one[1].parameters()))
        return Blocks(where, list(found))
    chosen = [one for one in lists if one[0] == name] or [one for one in lists if f".{one[0]}".endswith(f".{name}")]
    if len(chosen) != 1:
        what = "must name one of its lists of blocks" if chosen else "must be a list of blocks of the network"
        raise ValueError(f"blocks={name!r} {what}: {known}")
    return Blocks(chosen[0][0], list(chosen[0][1]))


def _elements(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def even_starts(sizes: Sequence[int], count: int) -> list[int]:
    """The first block of each stage, so that the largest is as small as can be, and the others then as even.

    Args:
        sizes: Bytes of each block; the first one's with what comes before it, the last one's with what comes after.
        count: Number of stages, at most that of blocks.

    Returns:
        Positions, the first of them 0.
    """
    largest = _best(sizes, count, lambda before, stage: max(before, stage))[0]
    even = _best(sizes, count, lambda before, stage: before + stage * stage if stage <= largest else math.inf)
    return even[1]


def _best(sizes: Sequence[int], count: int, cost: Callable[[float, float], float]) -> tuple[float, list[int]]:
    """The least cost of a cut, which grows stage by stage, and where each stage of it begins."""
    # of the first n blocks in so many stages
    best = {n: (cost(0.0, sum(sizes[:n])), [0]) for n in range(1, len(sizes) + 1)}
    for stages in range(2, count + 1):
        best = {
            n: min(
                (cost(best[start][0], sum(sizes[start:n])), [*best[start][1], start]) for start in range(stages - 1, n)
            )
            for n in range(stages, len(sizes) + 1)
        }
    return best[len(sizes)]


def check_starts(starts: Sequence[int], blocks: int) -> None:
    """Refuses first blocks of stages that cannot be.

    Raises:
        ValueError: If they do not begin at 0 or do not rise below the number of blocks.
    """
    rising = all(a < b for a, b in zip(starts, [*starts[1:], blocks], strict=True))
    if not starts or starts[0] != 0 or not rising:
        raise ValueError(
            f"starts={list(starts)} must be the first block of each stage, from 0 and rising below {blocks}"
        )
