"""The plain step at a rate that follows the curvature which the scalars show."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hiso_pl.zeroth_order.kernels.base import tree_sum
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.numbers import check_eps, check_not_negative, check_share
from hiso_pl.zeroth_order.update_rule.sgd import Sgd


class Greedy(Sgd):
    r"""The plain step at the rate that lowers a quadratic most, by the trace that forward differences show for nothing.

    A scalar of a forward difference is :math:`\nabla f \cdot z + \frac\mu2 z^T A z` up to higher orders. The first part
    has the mean 0, the second :math:`\frac\mu2 t`, t being the trace of A, the Hessian as directions z see it. So the
    mean of scalars over many directions tells t, and their mean square how well:

    .. math::

        c' &= \beta c + (1 - \beta)\, \tfrac2\mu \overline{\hat g}, \qquad
        q' = \beta q + (1 - \beta)\, \tfrac4{\mu^2} \overline{\hat g^2}, \qquad
        w' = \beta w + (1 - \beta), \qquad v' = \beta^2 v + (1 - \beta)^2 / \tau P \\
        t &= \max(c' / w', 0) + \kappa \sqrt{q' v' / w'^3}, \qquad
        x' = x - \eta \frac{P}{t + \epsilon} \sum_k D_k

    from c = q = w = v = 0. The second term of t is :math:`\kappa` standard errors of the first: while little is known
    steps are small, and where mu is too small for any curvature to show, they are those of ``Normalized``.

    A step eta' D lowers f by :math:`\eta' G - \frac{\eta'^2}2 (G + V) t / P` on average, G the squared gradient and V
    the noise of one scalar's square beyond it; best is :math:`\eta' = \frac{G}{G + V} \frac Pt`. So lr is the share of
    the gradient in the scalars, a pure number in (0, 1) whatever the scale of loss and parameters and whatever P; twice
    it is where a quadratic gains nothing. With directions of clients' own P is m P here as well.

    A round whose scalars are all zero tells nothing: what is known stays, and where nothing is, x does, too. Transforms
    must leave the mean of scalars alone: ``Quantize`` does, ``Clip`` and ``Sign`` make t smaller than it is. Slots that
    were dropped are zeros among directions of clients' own, which leaves the mean right. Central differences show
    no curvature in this way, and are refused. All is computed in float64, sums by a fixed tree; kept are c, sqrt(q), w
    and v, rounded to fp32 once a round, with the first tensor.

    Source: own; Taylor's expansion of second order.

    Args:
        beta: Share of what is known that is kept, in [0, 1).
        caution: kappa, standard errors added to the trace.
        eps: Added to the trace.
    """

    plain_rate = False
    differences: ClassVar[Collection[str] | None] = ("forward",)

    def __init__(self, beta: float = 0.9, caution: float = 1.0, eps: float = 1e-8) -> None:
        check_share("beta", beta)
        check_eps(eps)
        check_not_negative("caution", caution)
        self.beta = beta
        self.caution = caution
        self.eps = eps

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """With the first tensor c, sqrt(q), w and v, zeros."""
        return {} if target.position else {"curvature": torch.zeros(4, dtype=torch.float32, device=parameter.device)}

    def rate(self, record: RoundRecord, state: dict[str, Tensor], target: Target) -> float:
        """Advances what is known of the curvature by the round, and gives lr by it."""
        values = record.scalars.astype(np.float64).reshape(-1) * (2.0 / record.mu)
        mean, square = tree_sum(values) / values.size, tree_sum(values * values) / values.size
        curvature, root, weight, variance = state["curvature"].tolist()
        if square > 0.0:
            keep, take = self.beta, 1.0 - self.beta
            known = [
                keep * curvature + take * mean,
                math.sqrt(keep * (root * root) + take * square),
                keep * weight + take,
                (keep * keep) * variance + take * take / values.size,
            ]
            state["curvature"].copy_(torch.tensor(known, dtype=torch.float32))
            curvature, root, weight, variance = state["curvature"].tolist()
        if not root > 0.0:
            return 0.0
        error = root * math.sqrt(variance / (weight * weight * weight))
        trace = max(curvature / weight, 0.0) + self.caution * error
        return record.lr * record.scalars.shape[1] / (trace + self.eps)
