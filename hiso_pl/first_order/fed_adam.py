"""FedAdam: Adam on the mean of the clients' differences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiso_pl.first_order.adaptive import Adaptive


@dataclass(frozen=True)
class FedAdam(Adaptive):
    r"""FedAvg whose mean difference goes through Adam.

    .. math:: v_r = \beta_2 v_{r-1} + (1 - \beta_2) \Delta_r^2

    The rest is :class:`~hiso_pl.first_order.adaptive.Adaptive` (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

    Args:
        beta_2: Share of the old second moment.
    """

    beta_2: float = 0.99

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """See :class:`~hiso_pl.first_order.adaptive.Adaptive`."""
        return v * self.beta_2 + square * (1.0 - self.beta_2)
