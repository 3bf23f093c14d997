"""A client's work in a round: local steps from the round's x."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hiso_pl.zeroth_order.losses import Loss, checked


class Task(NamedTuple):
    """What a client is to do in a round.

    Attributes:
        loss: Its loss, a callable of the local step.
        steps: Local steps.
        lr: Learning rate eta_l of the round.
        values: Its own copy of the trainable parameters, in tensor order, which the network stands at.
        round: The round r.
        slot: Its slot.
    """

    loss: Loss
    steps: int
    lr: float
    values: Sequence[Tensor]
    round: int
    slot: int


class Work(ABC):
    """How a client goes from the round's x to a model of its own.

    Attributes:
        forwards: Forward passes of one local step.
        backwards: Backward passes of one local step.
    """

    forwards: int = 1
    backwards: int = 0

    @abstractmethod
    def __call__(self, task: Task) -> float:
        """Moves the client's values, in place. They must be a function of the task.

        Returns:
            Its loss at the start of the round.
        """


class GradientSteps(Work):
    r"""Local steps of stochastic gradient descent, by backpropagation.

    With minibatch k of the client, and zeros for what is carried when a round begins:

    .. math::
        g &= \nabla f_k(x) + \lambda x \\
        b &\leftarrow \beta b + g \\
        x &\leftarrow x - \eta_l b

    The gradient is that of the very f that a scalar-only method probes: the network in evaluation mode, without
    dropout, its buffers at rest. A parameter that the loss does not reach has a gradient of zero.

    Args:
        parameters: The trainable parameters, in tensor order.
        momentum: beta; b is g where it is 0.
        weight_decay: lambda.
    """

    backwards = 1

    def __init__(self, parameters: Sequence[Tensor], momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self._parameters = parameters
        self._momentum, self._weight_decay = momentum, weight_decay

    def __call__(self, task: Task) -> float:
        """See :class:`Work`.

        Raises:
            ValueError: If a loss is not one fp32 number, or depends on no parameter by a gradient.
        """
        carried: list[Tensor | None] = [None] * len(task.values)
        first = None
        for k in range(task.steps):
            with torch.enable_grad():
                loss = task.loss(k)
                if first is None:
                    first = checked(loss)
                gradients = self._gradients(loss)
            for t, (x, g) in enumerate(zip(task.values, gradients, strict=True)):
                # own products and sums, none of them fused: the same bits in every part of a tensor
                step = torch.zeros_like(x) if g is None else g
                if self._weight_decay:
                    step = step + x * self._weight_decay
                if self._momentum:
                    before = carried[t]
                    step = carried[t] = step if before is None else before * self._momentum + step
                x.sub_(step * task.lr)
        assert first is not None
        return float(first)

    def _gradients(self, loss: Tensor) -> Sequence[Tensor | None]:
        checked(loss)
        if not loss.requires_grad:
            raise ValueError("a loss has no gradient: it must be computed from the trained parameters, outside no_grad")
        return torch.autograd.grad(loss.reshape(()), list(self._parameters), allow_unused=True)
