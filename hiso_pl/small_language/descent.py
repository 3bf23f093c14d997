"""A few first-order steps that stop once something has been learned."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def descend(model: nn.Module, losses: Iterator[Tensor], lr: float, until: float, last: int) -> list[float]:
    """Takes a step of AdamW for each loss, until the mean of the ``last`` ones is below ``until``.

    Each loss is computed when its turn comes. The model is changed in place and left in evaluation mode.

    Returns:
        The loss of each step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    told: list[float] = []
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
        if len(told) >= last and sum(told[-last:]) < last * until:
            break
    model.eval()
    return told
