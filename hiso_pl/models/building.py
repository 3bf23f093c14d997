"""Stops the making of a model that asks for far more than its weight files hold.

A number in a configuration is innocent in itself; what is made of it is counted while it is made, whatever the family
calls it. Models are made without memory for their tensors at first, so that nothing large has been allocated by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from hiso_pl.bounds import (
    MODEL_ELEMENTS_BESIDE,
    MODEL_ELEMENTS_TIMES,
    MODEL_TENSORS_BESIDE,
    MODEL_TENSORS_TIMES,
)
from hiso_pl.models.folder import Held


@contextmanager
def no_more_than(held: Held) -> Iterator[None]:
    """Refuses, inside the block, modules with more tensors than go with weight files.

    Args:
        held: What the weight files hold.

    Raises:
        ValueError: If there are more.
    """
    tensors = MODEL_TENSORS_TIMES * held.tensors + MODEL_TENSORS_BESIDE
    elements = MODEL_ELEMENTS_TIMES * held.elements + MODEL_ELEMENTS_BESIDE
    seen: dict[tuple[int, str], int] = {}
    made = 0

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal made
        if tensor is None:
            return
        # the same place is filled again when weights are read
        made += tensor.numel() - seen.get((id(module), name), 0)
        seen[id(module), name] = tensor.numel()
        if len(seen) > tensors:
            raise ValueError(f"config.json asks for over {tensors} tensors, its weight files hold {held.tensors}")
        if made > elements:
            raise ValueError(f"config.json asks for over {elements} numbers, its weight files hold {held.elements}")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
