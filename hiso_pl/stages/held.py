"""Parameters of which a rank has the values of its own stage alone: the others are let go of as they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from hiso_pl.stages.blocks import Blocks, blocks_of, check_starts, even_starts
from hiso_pl.stages.offload import one_by_one
from hiso_pl.zeroth_order.points import absent, converted, is_absent

_STARTS = "_hiso_pl_starts"
"""Where a list of blocks has it written how it was cut while it was loaded; what comes round it later tells no more."""


def starts_of(network: nn.Module, count: int, name: str | None, given: Sequence[int] | None) -> list[int]:
    """The first block of each stage, before any forward pass: by bytes, and what follows the blocks is the last one's.

    Args:
        network: The network, or what of it is loaded.
        count: Number of stages.
        name: Name of the list of blocks; None for the largest.
        given: What the user says.

    Raises:
        ValueError: If there are no such blocks, or too few.
    """
    blocks = blocks_of(network, name)
    if count > len(blocks.modules):
        raise ValueError(f"count={count} must be at most {len(blocks.modules)}, the number of blocks in {blocks.name}")
    if given is not None:
        check_starts(given, len(blocks.modules))
        return list(given)
    listed = network.get_submodule(blocks.name)
    found: list[int] | None = getattr(listed, _STARTS, None)
    if found is not None and len(found) == count:
        return found
    return even_starts(sizes_by(network, blocks), count)


def _bytes(p: Tensor) -> int:
    return p.numel() * p.element_size()


def sizes_by(network: nn.Module, blocks: Blocks, size: Callable[[Tensor], int] = _bytes) -> list[int]:
    """The size of each block; with the first what is registered before the blocks, with the last what is after them.

    Args:
        network: The network.
        blocks: Its blocks.
        size: The size of a parameter.
    """
    sizes, place = [0] * len(blocks.modules), 0
    for name, p in network.named_parameters():
        within = name.removeprefix(f"{blocks.name}.")
        place = int(within.partition(".")[0]) if within != name else (len(sizes) - 1 if place else 0)
        sizes[place] += size(p)
    return sizes


def vacate(parameters: Sequence[Tensor], names: Sequence[str], own: Collection[int]) -> None:
    """Lets go of the values of all parameters but a rank's own.

    Raises:
        ValueError: If one of these was let go of already.
    """
    for t, (p, name) in enumerate(zip(parameters, names, strict=True)):
        gone = is_absent(p)
        if t in own and gone:
            raise ValueError(
                f"stages on ranks cannot be had: {name!r} is read in another stage than that of the block that has it"
            )
        if t not in own and p.numel() > 1:  # a single number is no matter
            p.data = absent(p, p.dtype)


def move_absent(network: nn.Module, device: torch.device) -> None:
    """Moves to a device what another rank holds of a network, which takes no memory there either."""
    for p in network.parameters():
        if is_absent(p):
            p.data = converted(p.data, device)


@contextmanager
def loading(stage: int, count: int, name: str | None, starts: Sequence[int] | None) -> Iterator[None]:
    """While a network is loaded inside the block, blocks of other stages are let go of as soon as they have values.

    What is in no block stays, until a forward pass has shown who reads it. So does what is made with its values, and
    not first as a description of them.

    Args:
        stage: This rank's.
        count: Number of stages.
        name: Name of the list of blocks; None for the largest.
        starts: First block of each stage; None cuts by bytes.
    """
    above: dict[int, tuple[nn.Module, str, nn.Module]] = {}  # the part as well, as a number may be given again

    def registered(module: nn.Module, name_in_it: str, part: nn.Module | None) -> None:
        if part is not None:
            above[id(part)] = (module, name_in_it, part)

    def put(module: nn.Module, name_in_it: str, p: Tensor | None) -> None:
        if p is None or p.is_meta or p.numel() < 2:
            return
        path, root = [name_in_it], module
        while id(root) in above:
            root, word, _ = above[id(root)]
            path.append(word)
        if len(path) < 3 or not any(q.is_meta for q in root.parameters()):
            return
        block = _block(root, ".".join(reversed(path)), count, name, starts)
        if block is not None and block != stage:
            # a number of its own, not NaN: models are tried out as they are built
            p.data = p.data[(slice(1),) * p.dim()].clone().expand(p.shape)

    hooks = [register_module_module_registration_hook(registered), register_module_parameter_registration_hook(put)]
    try:
        with one_by_one():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _block(root: nn.Module, path: str, count: int, name: str | None, starts: Sequence[int] | None) -> int | None:
    """The stage of the block that a parameter is in; None if it is in none."""
    try:
        blocks = blocks_of(root, name)
        cut = starts_of(root, count, name, starts)
    except ValueError:
        return None  # the network proper is asked once it is there
    root.get_submodule(blocks.name).__dict__.setdefault(_STARTS, cut)
    within = path.removeprefix(f"{blocks.name}.")
    if within == path:
        return None
    index = int(within.partition(".")[0])
    return max(i for i, start in enumerate(cut) if start <= index)
