"""What a method is whose clients send differences of models."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from hiso_pl.first_order.work import Work
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.options import check_count
from hiso_pl.zeroth_order.philox import MAX_LOCAL_STEPS
from hiso_pl.zeroth_order.record import BITS_PER_SCALAR, Bits


@dataclass(frozen=True)
class DifferenceMethod(MethodBase):
    r"""Clients take local steps from x, their differences :math:`\Delta_i = x_i - x` are averaged, and x moves by it.

    .. math::
        \Delta = \frac{\sum_i n_i \Delta_i}{\sum_i n_i} \qquad x_{r+1} = \mathrm{serve}(x_r, \Delta)

    Both rates are those of Reddi et al. 2021 (arXiv 2003.00295, algorithm 1). A class of one's own says what its
    clients do, by :meth:`work`, and where need be what the mean difference does, by :meth:`serve`; it is found by its
    ``class_path``.

    Args:
        lr: Learning rate eta_l of the clients' steps. A torch scheduler may move it.
        server_lr: Learning rate eta of the step along the mean difference; that of the clients, as it is in the round,
            if null.
        local_steps: Local steps tau of a client in a round, each on a minibatch of its own.
        local_epochs: Passes over all of its own examples that a client makes in a round, in place of local steps.
        weighted: Whether clients count by the number of their examples, or all alike.

    Raises:
        ValueError: If an option cannot be.
    """

    scalar_only = False
    undivided = True
    lr: float = 0.1
    server_lr: float | None = 1.0
    local_steps: int = 1
    local_epochs: int = 0
    weighted: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(field.default, float) or value is None:
                continue
            object.__setattr__(self, field.name, value := float(value))  # of YAML's 0 or 1 as well
            if not (value >= 0.0 and math.isfinite(value)):
                raise ValueError(f"{field.name}={value} must be finite and not negative")
        check_count("local_steps", self.local_steps, MAX_LOCAL_STEPS)
        if isinstance(self.local_epochs, bool) or not 0 <= self.local_epochs < MAX_LOCAL_STEPS:
            raise ValueError(f"local_epochs={self.local_epochs} must be an integer in [0, {MAX_LOCAL_STEPS})")
        if self.local_epochs and self.local_steps != 1:
            raise ValueError(f"local_steps={self.local_steps} must be 1 with local_epochs={self.local_epochs}")

    @property
    def figures(self) -> Mapping[str, Any]:
        """What reports say of the method beside its rate: ``mu`` and ``num_directions``, where it has them."""
        return {}

    @property
    def passes(self) -> int:
        """Forward passes of a local step, a backward pass counted as two: those of a step along a gradient."""
        return 3

    def passes_at(self, round: int) -> int:
        """See :class:`~hiso_pl.zeroth_order.interfaces.MethodBase`."""
        return self.passes

    def bits_at(self, round: int, cohort: int, parameters: int) -> Bits:
        """See :class:`~hiso_pl.zeroth_order.interfaces.MethodBase`: the model travels, to the cohort and back."""
        size = BITS_PER_SCALAR * parameters
        return Bits(size, size, missed=False)

    @abstractmethod
    def work(self, parameters: Sequence[Tensor], seed: int, network: nn.Module | None) -> Work:
        """What a client does in a round.

        Args:
            parameters: The trainable parameters, in tensor order.
            seed: The run's seed.
            network: The module they belong to, if known.
        """

    def initial(self, parameter: Tensor) -> dict[str, Tensor]:
        """What is kept beside a parameter from round to round, by name: fp32, of its shape."""
        return {}

    def serve(self, x: Tensor, delta: Tensor, state: Mapping[str, Tensor], server_lr: float) -> None:
        r"""Moves part of a parameter by the mean difference, and what is kept beside it, in place.

        .. math:: x_{r+1} = x_r + \eta \Delta

        evaluated in float64 and rounded to fp32 once, unless a class says otherwise. Every rank does it for itself,
        element by element: it must be a function of its arguments to the bit, and know nothing of where a part begins.

        Args:
            x: Elements of the parameter, fp32, shape ``[n]``.
            delta: Their mean difference, float64, shape ``[n]``.
            state: What is kept beside them, each fp32, shape ``[n]``.
            server_lr: Learning rate eta of the round.
        """
        x.copy_(x.double() + delta * server_lr)
