"""Yogi's rule, on the round's direction."""

from __future__ import annotations

import torch
from torch import Tensor

from hiso_pl.zeroth_order.update_rule.adam import Adam
from hiso_pl.zeroth_order.update_rule.numbers import fp32


class Yogi(Adam):
    r"""Yogi: Adam whose running square goes towards the round's square by steps of its size, and not of their distance.

    .. math:: v' = v - (1 - \beta_2)\, \mathrm{sign}(v - \Delta^2)\, \Delta^2

    with :math:`\Delta = \sum_k D_k` and the rest as :class:`Adam`: so a small :math:`\Delta` lets v fall slowly, and
    steps do not jump.

    Source: FedYogi of Reddi et al., arXiv 2003.00295, algorithm 2, whose values are the defaults, from v = 0; Zaheer et
    al., NeurIPS 2018.

    Args:
        beta1: Share of the running mean that is kept, in [0, 1).
        beta2: One less the size of the running square's steps, in [0, 1).
        eps: Added to the root, outside of it.
        bias_correction: Whether mean and square are divided by the weight of the rounds that are in them.
    """

    def __init__(
        self, beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-3, bias_correction: bool = False
    ) -> None:
        super().__init__(beta1, beta2, eps, bias_correction)

    def advance_square(self, square: Tensor, fresh: Tensor) -> None:
        """See :meth:`Adam.advance_square`."""
        sign = torch.sign(square - fresh)
        square.sub_(sign.mul_(fresh.mul_(fp32(1.0 - self.beta2))))
