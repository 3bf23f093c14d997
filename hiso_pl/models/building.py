"""Stops the making of a model that asks for far more than its weight files hold.

A number in a configuration is innocent in itself; what is made of it is counted while it is made, whatever the family
calls it. Models are made without memory for their tensors at first, so that nothing large has been allocated by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import transformers
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


def of_another_shape(
    model: transformers.PreTrainedModel, mismatched: Mapping[str, Sequence[Any]], num_labels: int | None
) -> str:
    """What is wrong with a model whose weight files hold tensors of other shapes than were made.

    Args:
        model: The model.
        mismatched: Their names, each with the shape in the files and the shape made, where these are known.
        num_labels: The number of classes that was asked for.
    """
    name = max(mismatched)  # a weight before its bias
    shapes = [list(shape) for shape in mismatched[name] if isinstance(shape, Sequence) and not isinstance(shape, str)]
    theirs, ours = shapes if len(shapes) == 2 else (None, None)
    what = "has another shape" if theirs is None else f"has shape {theirs} in its files, must have {ours}"
    if num_labels is None or name.startswith(f"{model.base_model_prefix}."):
        return f"{name} {what} by its config.json"
    return f"{name} {what} by num_labels={num_labels}" + (f": give num_labels={theirs[0]}" if theirs else "")
