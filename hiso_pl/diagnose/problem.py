r"""What a diagnosis is asked of: trainable tensors, clients' minibatch losses, and what a round makes of them.

The whole loss is the clients' mean, and a client's loss the mean of its minibatches':

.. math:: F(x) = \sum_i \omega_i F_i(x), \qquad F_i(x) = \frac1{n_i} \sum_b f_{i,b}(x), \qquad \sum_i \omega_i = 1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hiso_pl.diagnose.estimate import HessianEstimate
from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer
from hiso_pl.zeroth_order.plan import Difference, Directions
from hiso_pl.zeroth_order.streams import Distribution

DOUBLE = 1 << 20
"""Up to so many elements vectors are float64."""


class Outputs(NamedTuple):
    r"""What a network says of a minibatch, for the Gauss-Newton matrix of the loss that is made of it.

    Attributes:
        values: Shape ``[n, C]``: logits, or residuals where the loss is of squares.
        weights: The weight of each row in the minibatch's loss, shape ``[n]``; without them 1 / n.
        kind: ``softmax``: the loss is :math:`\sum_n w_n \mathrm{CE}(\mathrm{logits}_n)`; ``squares``: it is
            :math:`\frac12 \sum_n w_n |r_n|^2`.
    """

    values: Tensor
    weights: Tensor | None = None
    kind: Literal["softmax", "squares"] = "softmax"


@dataclass(frozen=True)
class Minibatch:
    """One minibatch of a client.

    Attributes:
        loss: Its mean loss at the tensors as they are, differentiable in them, a scalar.
        examples: Its number of examples.
        outputs: What the loss is made of; without it there is no Gauss-Newton matrix.
    """

    loss: Callable[[], Tensor]
    examples: int = 1
    outputs: Callable[[], Outputs] | None = None


@dataclass(frozen=True)
class Client:
    """One client's minibatches.

    Attributes:
        minibatches: Draws of its rounds' streams, or all of its examples, cut.
        weight: Its weight in the whole loss, such as its number of examples; clients count alike by default.
    """

    minibatches: Sequence[Minibatch]
    weight: float = 1.0


@dataclass(frozen=True)
class Facts:
    """What a round of the method does.

    Attributes:
        cohort: Clients m of a round's cohort.
        population: Clients M that it is sampled from.
        num_directions: P of a client; 0 for a method that takes gradients.
        local_steps: tau.
        mu: Size of the displacements.
        directions: Whether the cohort shares its directions or each client has its own.
        difference: Forward or central.
        distribution: Of a direction's elements.
        rank: Of a direction of low rank.

    Raises:
        ValueError: If the cohort is larger than the population, or a number is not positive.
    """

    cohort: int = 1
    population: int = 1
    num_directions: int = 1
    local_steps: int = 1
    mu: float = 1e-3
    directions: Directions = "shared"
    difference: Difference = "forward"
    distribution: Distribution = "normal"
    rank: int = 1

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("cohort", "population", "num_directions", "local_steps", "rank"):
            least = 0 if name == "num_directions" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.cohort > self.population:
            raise ValueError(f"cohort={self.cohort} must be at most population={self.population}")
        if not (self.mu > 0.0 and math.isfinite(self.mu)):
            raise ValueError(f"mu={self.mu} must be finite and positive")


@dataclass(frozen=True)
class Problem:
    """Where a diagnosis is made, and of what.

    Attributes:
        tensors: The trainable tensors by name, in the optimizer's order, at the point in question.
        clients: Whose losses make the whole.
        facts: What a round of the method does.
        estimate: H and the number c of the round; none without H.
        direction: D of a round at this point, by tensor, if there is one (:func:`.direction.direction_of`).
        exhaustive: Whether each client's minibatches are all of its examples, cut, and not draws: then their mean is
            known and not estimated.
        curved: Of how many minibatches of each client, the first ones, curvature is measured, which costs many times
            what a gradient does; of all if None.

    Raises:
        ValueError: If there is nothing to measure, a client has too few minibatches to tell their noise, or shapes do
            not fit.
    """

    tensors: Mapping[str, Tensor]
    clients: Sequence[Client]
    facts: Facts = field(default_factory=Facts)
    estimate: HessianEstimate | None = None
    direction: Sequence[Tensor] | None = None
    exhaustive: bool = False
    curved: int | None = None

    def __post_init__(self) -> None:
        """Checks what is given."""
        if not self.elements or not self.clients:
            raise ValueError(f"{self.elements} trainable elements and {len(self.clients)} clients: there must be some")
        if len({tensor.device for tensor in self.tensors.values()}) > 1:
            raise ValueError("tensors must all be on one device")
        frozen = [name for name, tensor in self.tensors.items() if not tensor.requires_grad]
        if frozen:
            raise ValueError(f"tensor {frozen[0]!r} must require a gradient")
        least = 1 if self.exhaustive else 2
        for i, client in enumerate(self.clients):
            if len(client.minibatches) < least:
                what = f"client {i} has {len(client.minibatches)} minibatches"
                raise ValueError(f"{what}, must have {least} at least: the noise is what sets them apart")
            if not (client.weight > 0.0 and math.isfinite(client.weight)):
                raise ValueError(f"client {i} has weight {client.weight}, must be finite and positive")
        if self.curved is not None and self.curved < 1:
            raise ValueError(f"curved={self.curved} must be at least 1, or None for all minibatches")
        if len(self.clients) < min(2, self.facts.population):
            raise ValueError("1 client given, must be 2 at least: how clients differ is what sets them apart")
        if len(self.clients) > self.facts.population:
            raise ValueError(f"{len(self.clients)} clients given, of a population of {self.facts.population}")
        shapes = [tuple(tensor.shape) for tensor in self.tensors.values()]
        if self.direction is not None and [tuple(d.shape) for d in self.direction] != shapes:
            raise ValueError("direction must have the tensors' shapes")
        if self.estimate is not None and self.estimate.elements != self.elements:
            raise ValueError(f"estimate is of {self.estimate.elements} elements, the tensors have {self.elements}")

    @classmethod
    def of(cls, optimizer: Any, clients: Sequence[Client], *, cohort: int, population: int, **options: Any) -> Problem:
        """The problem of an optimizer's next round.

        Args:
            optimizer: A :class:`~hiso_pl.zeroth_order.ZerothOrderOptimizer`, or one of gradients, which has neither H
                nor directions.
            clients: Whose losses make the whole.
            cohort: Clients m of a round's cohort.
            population: Clients M that it is sampled from.
            options: Other fields.

        Raises:
            ValueError: As of :class:`Problem`, or if the preconditioner is structured and not known here.
        """
        tensors = dict(zip(optimizer.names, optimizer.parameters, strict=True))
        steps = max(1, optimizer.method.local_steps)
        if not isinstance(optimizer, ZerothOrderOptimizer):
            return cls(tensors, clients, Facts(cohort, population, 0, steps), **options)
        method, round = optimizer.method, optimizer.round
        facts = Facts(
            cohort,
            population,
            method.num_directions_at(round),
            steps,
            method.mu_at(round),
            method.directions,
            method.difference,
            method.distribution,
            method.rank,
        )
        return cls(tensors, clients, facts, HessianEstimate.of(optimizer), **options)

    @property
    def elements(self) -> int:
        """Trainable elements d."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def parameters(self) -> list[Tensor]:
        """The tensors, in order."""
        return list(self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """What vectors are kept in; sums over them are always float64."""
        return torch.float64 if self.elements <= DOUBLE else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.parameters[0].device

    @property
    def weights(self) -> list[float]:
        r"""The clients' :math:`\omega`."""
        total = math.fsum(client.weight for client in self.clients)
        return [client.weight / total for client in self.clients]

    def each(self) -> Iterator[tuple[float, Minibatch]]:
        """The minibatches that curvature is measured of, with their weights in the whole loss."""
        for weight, client in zip(self.weights, self.clients, strict=True):
            some = client.minibatches[: self.curved]
            for minibatch in some:
                yield weight / len(some), minibatch

    def flat(self, values: Sequence[Tensor | None]) -> Tensor:
        """Values by tensor as one vector, zeros where there are none, shape ``[d]``."""
        rows = zip(self.parameters, values, strict=True)
        return torch.cat(
            [(torch.zeros_like(p) if v is None else v).detach().reshape(-1).to(self.dtype) for p, v in rows]
        )

    def by_tensor(self, values: Tensor) -> Tensor:
        """Sums over each tensor's elements of values of shape ``[..., d]``, float64 ``[..., tensors]``."""
        sizes = [tensor.numel() for tensor in self.parameters]
        return torch.stack([part.sum(-1, dtype=torch.float64) for part in values.split(sizes, -1)], -1)
