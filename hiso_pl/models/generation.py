"""Greedy generation from a batch of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

from hiso_pl.models.adapters import adapted_call, virtual_tokens
from hiso_pl.models.compiled import eagerly
from hiso_pl.models.loading import unwrapped
from hiso_pl.models.padding import left_padded

FILL = -1
"""Stands behind the end of a generation."""


def plain_generation(model: transformers.PreTrainedModel) -> None:
    """Makes a model generate greedily, without the sampling settings and penalties that its files may hold."""
    own = model.generation_config
    if own is None:
        return
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = transformers.GenerationConfig(do_sample=False, **tokens)


def generate(
    model: nn.Module, input_ids: Tensor, lengths: Tensor, stop_tokens: list[int], max_new_tokens: int
) -> Tensor:
    """Continues prompts greedily, each as it would be alone.

    Prompts are padded on the left. Virtual tokens of an adapter would stand in front of that padding and be farther
    from the text than in training, so with such an adapter only prompts of equal length are generated from together.

    Args:
        model: A causal language model, or PEFT's wrapper around one.
        input_ids: Rows that begin with the prompts, int64 ``[B, T]``, right padded.
        lengths: Length of each prompt, int64 ``[B]``.
        stop_tokens: Token ids that end a generation.
        max_new_tokens: G, the most tokens generated.

    Returns:
        The tokens, up to the one that ended the generation, then -1; int64, shape ``[B, G]``.
    """
    out = torch.full((len(lengths), max_new_tokens), FILL, dtype=torch.int64, device=input_ids.device)
    with eagerly(unwrapped(model).base_model):
        if not virtual_tokens(model):
            found = _continued(unwrapped(model), input_ids, lengths, stop_tokens, max_new_tokens)
            out[:, : found.shape[1]] = found
            return out
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().squeeze(1)
            found = _behind_virtual_tokens(model, input_ids[rows, :length], stop_tokens, max_new_tokens)
            out[rows, : found.shape[1]] = found
    return out


def _continued(
    model: transformers.PreTrainedModel, input_ids: Tensor, lengths: Tensor, stop_tokens: list[int], max_new_tokens: int
) -> Tensor:
    padding = stop_tokens[0] if stop_tokens else 0
    prompts, mask = left_padded(input_ids, lengths, padding)
    options = transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_tokens or None,
        pad_token_id=padding,
        disable_compile=True,
    )
    # adapters inside the layers act on the model itself
    with _ending_only_at(stop_tokens, model):
        tokens = cast(Any, model).generate(input_ids=prompts, attention_mask=mask, generation_config=options)
    new = tokens[:, prompts.shape[1] :]
    stops = torch.isin(new, torch.tensor(stop_tokens, dtype=torch.int64, device=new.device)).long()
    return new.masked_fill(stops.cumsum(dim=1) - stops > 0, FILL)


@contextmanager
def _ending_only_at(stop_tokens: list[int], model: transformers.PreTrainedModel) -> Iterator[None]:
    """Hides the ends that a model's own files name: transformers takes those where it is given none."""
    own = model.generation_config
    if not stop_tokens and own is not None:
        model.generation_config = transformers.GenerationConfig(do_sample=False)
    try:
        yield
    finally:
        model.generation_config = own


def _behind_virtual_tokens(model: nn.Module, prompts: Tensor, stop_tokens: list[int], max_new_tokens: int) -> Tensor:
    """Continues prompts of one length, of which PEFT is asked for the first token only.

    The virtual tokens are in the cache from then on, and further tokens need the model alone. (PEFT's own ``generate``
    depends on how transformers keeps its books on the way.)
    """
    stops = torch.tensor(stop_tokens, dtype=torch.int64, device=prompts.device)
    found = adapted_call(model, prompts, torch.ones_like(prompts), use_cache=True)
    cache = "cache" if "cache" in found else "past_key_values"
    new: list[Tensor] = []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    while True:
        token = found.logits[:, -1].argmax(dim=-1)
        new.append(token.masked_fill(ended, FILL))
        ended |= torch.isin(token, stops)
        if len(new) == max_new_tokens or bool(ended.all()):
            return torch.stack(new, dim=1)
        length = virtual_tokens(model) + prompts.shape[1] + len(new)
        mask = prompts.new_ones(len(prompts), length)
        found = unwrapped(model)(input_ids=token[:, None], attention_mask=mask, use_cache=True, **{cache: found[cache]})
