"""Scores and losses of answers of several tokens, from logits at their positions and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor


def candidate_scores(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    r"""Log-likelihood of each candidate of each example; with ``candidate_lengths`` in the batch, per token.

    .. math:: score_{b,c} = \sum_l m_{b,c,l} \log p(token_{b,c,l} \mid row_{b,c}, l)

    Args:
        logits: Logits of the rows' answer positions, fp32, shape ``[R, L, V]``.
        batch: ``candidate_rows`` ``[B, C]``, ``candidate_tokens`` and ``candidate_mask`` ``[B, C, L]``, int64;
            ``candidate_lengths`` ``[B, C]``, the tokens of each, where scores are to be means.

    Returns:
        fp32, shape ``[B, C]``.
    """
    tokens = batch["candidate_tokens"]
    places = torch.arange(tokens.shape[-1], device=tokens.device)
    found = logits.log_softmax(dim=-1)[batch["candidate_rows"][:, :, None], places, tokens]  # [B, C, L]
    total = _masked_sum(found, batch["candidate_mask"])
    return total / batch["candidate_lengths"] if "candidate_lengths" in batch else total


def answer_losses(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    r"""Mean negative log-likelihood of the tokens of each example's answer.

    .. math:: loss_b = -\frac{\sum_l m_{b,l} \log p(token_{b,l} \mid l)}{\sum_l m_{b,l}}

    Args:
        logits: Logits of the answer positions, fp32, shape ``[B, L, V]``.
        batch: ``answer_tokens`` and ``answer_mask``, int64 ``[B, L]``.

    Returns:
        fp32, shape ``[B]``.
    """
    tokens, mask = batch["answer_tokens"], batch["answer_mask"]
    found = logits.log_softmax(dim=-1).gather(-1, tokens[..., None]).squeeze(-1)
    return -_masked_sum(found, mask) / mask.sum(dim=-1)


def answer_rows(logits: Tensor, mask: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of each token of the examples' answers, and its weight in the examples' mean loss.

    Args:
        logits: Shape ``[B, L, V]``.
        mask: Which places are of the answer, int64 ``[B, L]``.
        lengths: What each example's sum is divided by, shape ``[B]``.

    Returns:
        fp32, shapes ``[n, V]`` and ``[n]``.
    """
    weights = (1.0 / (lengths.to(logits.dtype) * len(mask)))[:, None].expand(mask.shape)
    return logits[mask > 0], weights[mask > 0]


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    # where, not a product: what the mask hides may be infinite
    return torch.where(mask > 0, values, 0.0).sum(dim=-1)
