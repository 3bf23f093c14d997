"""The seams of a round: what an optimizer asks of its surroundings, and what these may ask of it.

The mathematics knows no federation; module, callbacks and ledger know no mathematics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import singledispatch
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hiso_pl.zeroth_order.digest import StateTensor
from hiso_pl.zeroth_order.losses import Loss
from hiso_pl.zeroth_order.record import Bits, RoundRecord, RoundReport

T = TypeVar("T")


class Slots(NamedTuple):
    """Which rows of a round's exchange this process fills.

    Attributes:
        size: Number of slots m of the cohort.
        own: Slots evaluated here, in the order of the losses given to ``step``.
        clients: The client in each of the m slots.
        weights: Examples held by the client of each of the m slots; None where nobody has told them.
        shares: Where processes share a slot's probes: for each own slot this process's place among those that share
            it, and their number. Empty where every slot is evaluated by one process.
        population: Number of clients M that the cohort was sampled from; 0 where none was.
        steps: Local steps of each of the m slots where they differ; empty where all take the method's.
        absent: Slots whose client does not answer, as it is not there or too slow: nobody evaluates them.
        expected: Examples that a minibatch of each of the m slots is expected to have, where each is private.
    """

    size: int
    own: tuple[int, ...]
    clients: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    shares: tuple[tuple[int, int], ...] = ()
    population: int = 0
    steps: tuple[int, ...] = ()
    absent: tuple[int, ...] = ()
    expected: tuple[float, ...] = ()


class Exchange(ABC):
    """The one collective of a round: own rows in, every row of the cohort out.

    Attributes:
        alone: Whether there is no other process, so that all slots that are evaluated are evaluated here.
    """

    alone: bool = False

    @abstractmethod
    def slots(self, local: int) -> Slots:
        """The slots of a round nobody sampled a cohort for: every process with ``local`` losses of its own."""

    @abstractmethod
    def __call__(self, rows: Tensor, slots: Slots) -> Tensor:
        """Places rows in their slots and returns the rows of all slots.

        Args:
            rows: This process's rows, fp32 on the CPU, shape ``[len(slots.own), width]``.
            slots: Where they belong.

        Returns:
            All rows, bit-equal on every process, shape ``[slots.size, width]``.
        """


class LocalExchange(Exchange):
    """The exchange of a single process: the identity."""

    alone = True

    def slots(self, local: int) -> Slots:
        """All slots are local."""
        return Slots(local, tuple(range(local)), tuple(range(local)))

    def __call__(self, rows: Tensor, slots: Slots) -> Tensor:
        """Returns the rows in slot order, shape ``[slots.size, width]``."""
        out = rows.new_zeros((slots.size, rows.shape[1]))
        out[list(slots.own)] = rows
        return out + 0.0  # as a sum with zeros would: -0.0 becomes 0.0


class RoundOptimizer(Protocol):
    """The optimizer of a run as module and callbacks know it: it makes rounds, and tells of them.

    Attributes:
        report: What the last round looked like; None before the first.
        record: What the last round decided; None before the first, and always for a method that is not scalar-only.
    """

    report: RoundReport | None
    record: RoundRecord | None

    @property
    def round(self) -> int:
        """The round that comes next."""

    def step(self, closure: Any = None, *, losses: Sequence[Loss] | None = None, slots: Slots | None = None) -> Tensor:
        """Runs one round; returns the cohort's mean loss at its start."""

    def tensors(self) -> list[StateTensor]:
        """All of the state, in the order of the digest."""

    def complete(self) -> None:
        """Does what an update has left to be done, before somebody reads the network's weights."""

    def at_base(self, evaluate: Callable[[], T]) -> T:
        """Evaluates something of the network at x as a round's base loss is evaluated."""


class MethodBase(ABC):
    """A description of what a run's rounds do, from which :func:`new_optimizer` makes their optimizer.

    Attributes:
        lr: Learning rate at the start.
        local_steps: Local steps tau of a client in a round.
        local_epochs: Passes over its own examples that a client makes in a round, in place of local steps; 0 for none.
        scalar_only: Whether a round's record is all that its update needs, so that a run can be kept as a ledger.
        undivided: Whether a client's work in a round is one process's, so that ranks cannot share it.
    """

    # without annotations: jsonargparse reads those of a dataclass's bases by the names of the dataclass's own module
    scalar_only = False
    undivided = False
    lr: float
    local_steps: int
    local_epochs: int = 0

    def check_network(self, network: nn.Module) -> None:  # noqa: B027
        """Refuses a network with which the method's options cannot be had.

        Raises:
            ValueError: If it is one.
        """

    def check_rounds(self, cohort: int, rounds: range) -> None:  # noqa: B027
        """Refuses rounds of which one could not be had.

        Args:
            cohort: Slots m of each.
            rounds: Which rounds.

        Raises:
            ValueError: If there is one; it is named.
        """

    def passes_at(self, round: int) -> int:
        """Forward passes of a client's local step in a round, a backward pass counted as two.

        Raises:
            ValueError: If nobody has said.
        """
        raise ValueError(f"method={type(self).__name__} must have passes_at() and bits_at() for clients to take time")

    def bits_at(self, round: int, cohort: int, parameters: int) -> Bits:
        """What a round costs a client of a cohort of so many, of a model of so many trainable parameters.

        Raises:
            ValueError: If nobody has said.
        """
        raise ValueError(f"method={type(self).__name__} must have bits_at() for what clients miss to be counted")

    def over(self, rounds: int) -> MethodBase:
        """The same for a run of so many rounds, where schedules leave their length open."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """What forward passes compute in."""
        return torch.float32

    @property
    def lean(self) -> bool:
        """Whether no whole copy of the weights is to be made."""
        return False

    @property
    def withholds_losses(self) -> bool:
        """Whether clients' losses stay with them."""
        return False

    @property
    def private(self) -> bool:
        """Whether nothing of clients' training data is to leave them but by noised scalars, which no run repeats."""
        return False

    @property
    def per_example(self) -> bool:
        """Whether each example of a client is private: minibatches are drawn in secret, losses are their examples'."""
        return False


@singledispatch
def new_optimizer(
    method: MethodBase,
    params: Iterable[Any],
    *,
    seed: int,
    exchange: Exchange | None = None,
    network: nn.Module | None = None,
    **options: Any,
) -> Any:
    """The optimizer of a method, a :class:`RoundOptimizer` at round 0. Each kind of method registers its own.

    Args:
        method: The method.
        params: (name, parameter) pairs in the order that fixes their streams.
        seed: The run's seed.
        exchange: The one collective of a round; none in a single process.
        network: The module the parameters belong to.
        options: What else such a method's optimizer takes.

    Raises:
        ValueError: If nobody makes rounds of such a method.
    """
    raise ValueError(f"method={method!r} must be a method such as hiso_pl.zeroth_order.Method")
