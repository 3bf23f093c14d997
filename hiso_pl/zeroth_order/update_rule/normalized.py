"""The plain step, by the running size of the scalars."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels.base import tree_sum
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.numbers import check_eps, check_share
from hiso_pl.zeroth_order.update_rule.sgd import Sgd


class Normalized(Sgd):
    r"""The plain step over the running size of the scalars: one number for the whole model, known from records alone.

    .. math::

        c' = \beta c + (1 - \beta)\, q, \qquad w' = \beta w + (1 - \beta), \qquad
        x' = x - \frac{\eta}{\sqrt{c' / w'} + \epsilon} \sum_k D_k

    from c = w = 0, so that :math:`c / w` is the weighted mean over the rounds counted (the correction of Adam's bias).
    q of a round, over its tau times P scalars:

    - ``size: square``: the mean of :math:`\hat g_{k,p}^2`. MEAZO takes the square of their mean, which for P = 1 is the
      same, and otherwise P times less on average and far noisier.
    - ``size: spread``: :math:`\mu^2` times the variance over p (divisor P - 1) in each local step, averaged over k: the
      variance of the probed losses of FZOO, which has ``beta: 0``. It needs P of at least 2, and lr is smaller by mu.

    With directions of clients' own P is m P here as well: the scalars of a record are one set, in which those of a slot
    that was dropped are zeros.

    A round with q = 0 (scalars that are all zero, or for ``spread`` all equal) tells no size: the running one stays as
    it is, and where there is none yet x does, too. All is computed in float64, its sums by a fixed tree; kept are
    sqrt(c) and w, rounded to fp32 once a round, with the first tensor. The rate is rounded to fp32 where the step is
    taken, by the kernel in its one pass. Steps do not grow with the scalars, so lr is not that of the plain step.

    Source: MEAZO, arXiv 2605.03869; FZOO, arXiv 2506.09034.

    Args:
        size: Whose root divides a step: ``square``, the mean square of the scalars, or ``spread``, the variance of the
            losses at displaced points.
        beta: Share of the running size that is kept, in [0, 1); 0 takes each round's own.
        eps: Added to the root, outside of it.
    """

    plain_rate = False

    def __init__(self, size: Literal["square", "spread"] = "square", beta: float = 0.95, eps: float = 1e-8) -> None:
        if size not in ("square", "spread"):
            raise ValueError(f"size={size!r} must be 'square' or 'spread'")
        check_share("beta", beta)
        check_eps(eps)
        self.size = size
        self.beta = beta
        self.eps = eps

    @property
    def least_directions(self) -> int:
        """Two, where their spread is asked for."""
        return 2 if self.size == "spread" else 1

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """With the first tensor sqrt(c) and w, zeros."""
        return {} if target.position else {"size": torch.zeros(2, dtype=torch.float32, device=parameter.device)}

    def rate(self, record: RoundRecord, state: dict[str, Tensor], target: Target) -> float:
        """Advances the running size by the round, and gives lr by it."""
        root, weight = state["size"].tolist()
        fresh = self._square(record)
        if fresh > 0.0:
            root = math.sqrt(self.beta * (root * root) + (1.0 - self.beta) * fresh)
            state["size"].copy_(torch.tensor([root, self.beta * weight + (1.0 - self.beta)], dtype=torch.float32))
            root, weight = state["size"].tolist()
        return record.lr / (root / math.sqrt(weight) + self.eps) if root > 0.0 else 0.0

    def _square(self, record: RoundRecord) -> float:
        values = record.scalars.astype(np.float64)
        if self.size == "square":
            return tree_sum((values * values).reshape(-1)) / values.size
        tau, directions = values.shape
        if directions < 2:
            return 0.0
        off = values - np.array([[tree_sum(row) / directions] for row in values])
        return record.mu * record.mu * (tree_sum((off * off).reshape(-1)) / (tau * (directions - 1)))
