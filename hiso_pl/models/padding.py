"""Where padding is: networks compute with it on the right, wherever a batch has it.

Positions, the place a head reads from and virtual tokens in front are then the same as for the example alone, whatever
the family of the model knows of padding. Generation alone needs it on the left, where all prompts end together.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_POSITIONS = ("answer_position", "answer_positions")


def padded_right(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Moves padding from the left of each row to its right; a batch that has none there keeps its values.

    The batch has an ``attention_mask`` and other int64 tensors of shape ``[R, T]``, and positions in these rows, which
    move along.
    """
    mask = batch["attention_mask"]
    left = mask.argmax(dim=1)  # [R]: the place of the first token
    length = mask.shape[1]
    order = (torch.arange(length, device=mask.device) + left[:, None]) % length
    moved = {name: batch[name].gather(1, order) for name in _TOKENS if name in batch}
    for name in _POSITIONS:
        if name in batch:
            positions = batch[name]  # [R] or [R, L]
            moved[name] = positions - left.view(-1, *[1] * (positions.dim() - 1))
    return {**batch, **moved}


def left_padded(input_ids: Tensor, lengths: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """The beginnings of right-padded rows ``[B, T]``, of ``lengths`` ``[B]``, padded on the left by a token id.

    Returns token ids and attention mask; all are int64, these of shape ``[B, max(lengths)]``.
    """
    width = int(lengths.max())
    places = torch.arange(width, device=lengths.device) - (width - lengths)[:, None]
    mask = places >= 0
    ids = input_ids.gather(1, places.clamp(min=0))
    return ids.masked_fill(~mask, padding), mask.long()
