"""The state in a checkpoint: x, H and a rule's state, by the digest that it carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hiso_pl.run.checkpoint_file import KEY
from hiso_pl.zeroth_order.digest import StateTensor, digest_of_tensors, in_order


def state_tensors(content: Mapping[str, Any], names: list[str]) -> list[StateTensor]:
    """The tensors of the state, in the order that digests have.

    Args:
        content: What a checkpoint holds.
        names: The trainable parameters, in tensor order.
    """
    kept: Mapping[int, Mapping[str, Any]] = {}
    for saved in content.get("optimizer_states", []):
        kept = saved["state"]
    states = [{k: v for k, v in kept.get(i, {}).items() if isinstance(v, Tensor)} for i in range(len(names))]
    return in_order(names, [content["state_dict"][f"network.{name}"] for name in names], states)


def state_digest(content: Mapping[str, Any], names: list[str]) -> str:
    """The digest of the state in a checkpoint; the optimizer's own, as it is what the checkpoint was made of."""
    return digest_of_tensors(tensor.value for tensor in state_tensors(content, names))


def check_state(content: Mapping[str, Any]) -> None:
    """Compares the state with the digest that the checkpoint carries, and refuses values that cannot be.

    Raises:
        ValueError: If a tensor is not what was written, or not finite.
    """
    facts = content[KEY]
    names = list(facts["trainable"])
    for tensor in state_tensors(content, names):
        if tensor.value.is_floating_point() and not torch.isfinite(tensor.value).all():
            what = tensor.name if tensor.kind == "x" else f"{tensor.name} ({tensor.kind})"
            raise ValueError(f"the checkpoint is damaged: {what} holds values that are not finite")
    found = state_digest(content, names)
    if found != facts["digest"]:
        raise ValueError(
            f"the checkpoint is damaged: its state has digest {found}, it was written as {facts['digest']}"
        )
