"""FedAvg: the mean of the clients' models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hiso_pl.first_order.method import DifferenceMethod
from hiso_pl.first_order.work import GradientSteps, Work
from hiso_pl.zeroth_order.watching import is_compiled


@dataclass(frozen=True)
class FedAvg(DifferenceMethod):
    r"""Clients take local steps of SGD, and x becomes the mean of their models.

    .. math:: x_{r+1} = x_r + \eta \Delta

    With ``server_lr`` 1 it is FedAvg (McMahan et al. 2017, arXiv 1602.05629; ``weighted`` there), and with one local
    step, all clients and minibatches of one size it is SGD on their union. The steps are those of
    :class:`~hiso_pl.first_order.work.GradientSteps`.

    Args:
        momentum: Momentum of the clients' steps, which begins anew in every round.
        weight_decay: Weight decay of the clients' steps, added to the gradient.

    Raises:
        ValueError: If an option cannot be.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if not self.momentum < 1.0:
            raise ValueError(f"momentum={self.momentum} must be in [0, 1)")

    def check_network(self, network: nn.Module) -> None:
        """See :class:`~hiso_pl.zeroth_order.interfaces.MethodBase`."""
        if is_compiled(network):
            raise ValueError(f"compile=True must be false with {type(self).__name__}: gradients are not taken compiled")

    def work(self, parameters: Sequence[Tensor], seed: int, network: nn.Module | None) -> Work:
        """See :class:`DifferenceMethod`."""
        return GradientSteps(parameters, self.momentum, self.weight_decay)
