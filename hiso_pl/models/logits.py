"""Logits of a causal language model at few positions, without those of the others."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiso_pl.models.adapters import trial, virtual_tokens
from hiso_pl.models.loading import unwrapped


def why_full_logits(model: nn.Module) -> str | None:
    """Finds out whether a model's logits are its last hidden state times the rows of its head, and nothing more.

    A short forward pass is watched at the head. Its output is enlarged on the way, since soft-capping does not show
    on the small logits of an arbitrary input.

    Args:
        model: A causal language model, or PEFT's wrapper around one.

    Returns:
        None if the logits are that product, else the reason why not.

    Raises:
        ValueError: If the model does not run with the virtual tokens that an adapter puts in front.
    """
    head = output_head(model)
    ids = torch.arange(1, 5, device=head.weight.device).remainder(head.weight.shape[0]).unsqueeze(0)
    mask = torch.ones_like(ids)
    if virtual_tokens(model):
        with trial(model):
            model(input_ids=ids, attention_mask=mask, use_cache=False)
        return "the adapter changes the input"
    if type(head) is not nn.Linear:
        return f"its output head is a {type(head).__name__}"
    seen: dict[str, Tensor] = {}

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["hidden"], seen["plain"] = inputs[0], output
        seen["enlarged"] = output * (1000.0 / output.abs().max().clamp(min=1e-6))
        return seen["enlarged"]

    with torch.no_grad():
        handle = head.register_forward_hook(watch)
        try:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        finally:
            handle.remove()
        if "enlarged" not in seen:
            return "its output head is not called"
        if logits.shape != seen["enlarged"].shape or not torch.allclose(logits, seen["enlarged"], rtol=1e-5):
            return "it changes the logits after the output head"
        hidden = hidden_states(model, ids, mask)
        if hidden.shape != seen["hidden"].shape:
            return "its output head takes something else than the last hidden state"
        difference = (project(hidden, head.weight, head.bias) - seen["plain"]).abs().max()
        if not difference <= 1e-4 * seen["plain"].abs().max():
            return "it changes the last hidden state before the output head"
    return None


def hidden_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The last hidden states, shape ``[R, T, D]``; adapters other than prompt learning live inside the decoder."""
    decoder = unwrapped(model).base_model
    return decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state


def output_head(model: nn.Module) -> nn.Linear:
    """The output head; that it is linear has been seen to before its weight is used."""
    return cast(nn.Linear, unwrapped(model).get_output_embeddings())


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits in fp32 from operands in fp32, whatever the forward pass computed in."""
    return F.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
