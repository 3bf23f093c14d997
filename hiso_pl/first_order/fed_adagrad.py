"""FedAdagrad: Adagrad on the mean of the clients' differences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiso_pl.first_order.adaptive import Adaptive


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    r"""FedAvg whose mean difference goes through Adagrad; without a first moment, as the paper ran it.

    .. math:: v_r = v_{r-1} + \Delta_r^2

    The rest is :class:`~hiso_pl.first_order.adaptive.Adaptive` (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).
    """

    beta_1: float = 0.0

    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """See :class:`~hiso_pl.first_order.adaptive.Adaptive`."""
        return v + square
