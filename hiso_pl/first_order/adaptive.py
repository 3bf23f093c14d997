"""What the adaptive methods of Reddi et al. share: a step divided by the root of a second moment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hiso_pl.first_order.fed_avg import FedAvg


@dataclass(frozen=True)
class Adaptive(FedAvg):
    r"""FedAvg whose mean difference is taken for a gradient, by an adaptive optimizer.

    .. math::
        m_r &= \beta_1 m_{r-1} + (1 - \beta_1) \Delta_r \\
        v_r &= \mathrm{second}(v_{r-1}, \Delta_r^2) \\
        x_{r+1} &= x_r + \eta \frac{m_r}{\sqrt{v_r + \epsilon} + \tau}

    with m = 0 and v = tau^2 at the start, and no correction of bias. All of it is evaluated in float64 and rounded to
    fp32 where it is kept.

    Source: Reddi et al. 2021, "Adaptive federated optimization", arXiv 2003.00295, algorithm 2.

    Args:
        beta_1: Share of the old first moment.
        tau: Added to the root: how adaptive the step is. Its square is the second moment at the start.
        epsilon: Added under the root.

    Raises:
        ValueError: If an option cannot be.
    """

    beta_1: float = 0.9
    tau: float = 1e-3
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        for name in ("beta_1", "beta_2"):
            if not getattr(self, name, 0.0) < 1.0:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if not self.tau + self.epsilon > 0.0:
            raise ValueError(f"tau={self.tau} must be above 0 with epsilon={self.epsilon}: steps are divided by it")

    @abstractmethod
    def second(self, v: Tensor, square: Tensor) -> Tensor:
        """The new second moment, from the old one and the square of the mean difference; float64."""

    def initial(self, parameter: Tensor) -> dict[str, Tensor]:
        """See :class:`~hiso_pl.first_order.method.DifferenceMethod`."""
        shape, device = parameter.shape, parameter.device
        return {
            "first_moment": torch.zeros(shape, device=device),
            "second_moment": torch.full(shape, self.tau * self.tau, device=device),
        }

    def serve(self, x: Tensor, delta: Tensor, state: Mapping[str, Tensor], server_lr: float) -> None:
        """See :class:`~hiso_pl.first_order.method.DifferenceMethod`."""
        m = state["first_moment"].double() * self.beta_1 + delta * (1.0 - self.beta_1)
        v = self.second(state["second_moment"].double(), delta * delta)
        x.copy_(x.double() + m * server_lr / ((v + self.epsilon).sqrt() + self.tau))
        state["first_moment"].copy_(m)
        state["second_moment"].copy_(v)
