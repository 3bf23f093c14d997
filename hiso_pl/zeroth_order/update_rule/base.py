"""Update rules: what is done with the round's direction. Nothing hidden: no decay, no clipping."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

from torch import Tensor

from hiso_pl.zeroth_order.part import Part
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.update_rule.numbers import fp32


class UpdateRule(Part, ABC):
    """How x moves, given the direction sum_k D_k.

    Attributes:
        fused: Whether the rule is the plain step that the update kernel takes in its one pass, at the round's
            :meth:`rate`.
        plain_rate: Whether lr is the rate of a plain step along D, so that clients' local moves can take it as well;
            if not, several local steps need a ``local_lr``.
        differences: The differences that its scalars may be of; None for all.
    """

    fused: ClassVar[bool] = False
    plain_rate: ClassVar[bool] = True
    differences: ClassVar[Collection[str] | None] = None

    @property
    def least_directions(self) -> int:
        """The fewest directions that a round's record must have for the rule: P, or m P of clients' own."""
        return 1

    def initial(self, parameter: Tensor, target: Target) -> dict[str, Tensor]:
        """State kept for a tensor, by name: fp32 tensors. It is in checkpoint and digest, and checked like H.

        Args:
            parameter: The tensor.
            target: What else is known of it.
        """
        return {}

    def rate(self, record: RoundRecord, state: dict[str, Tensor], target: Target) -> float:
        """The rate that :meth:`move`, or the kernel in its place, is given for every tensor of a round: lr as it is.

        Called once a round, before any tensor moves. A rule that goes by numbers of the whole model keeps them in the
        state of the first tensor and advances them here, in place.

        Args:
            record: What the round decided: lr, mu, and the scalars ghat, shape ``[tau, P]``.
            state: The first tensor's state.
            target: The first tensor, the round, and how many rounds have moved the state before.
        """
        return record.lr

    def rate_of(self, record: RoundRecord, state: dict[str, Tensor], target: Target) -> float:
        """What :meth:`rate` gives, which can change neither the record nor which tensors are kept.

        Raises:
            ValueError: If it is no rate, or the state would be lost.
        """
        before = dict(state)
        given: Any = self.rate(replace(record, scalars=record.scalars.copy()), state, target)
        if not isinstance(given, Real) or not 0.0 <= fp32(float(given)) < math.inf:
            raise ValueError(
                f"update_rule={self!r}: rate() gave {str(given)[:80]} in round {record.round} with lr={record.lr:g}, "
                "must give a number that is finite in fp32 and not negative"
            )
        if state.keys() != before.keys() or any(state[key] is not before[key] for key in before):
            raise ValueError(f"update_rule={self!r} must move its state in place: what rate() puts there is lost")
        return float(given)

    @abstractmethod
    def move(self, x: Tensor, direction: Tensor, lr: float, state: dict[str, Tensor], target: Target) -> None:
        """Moves ``x`` and ``state`` in place.

        Args:
            x: The parameters.
            direction: sum_k D_k, fp32 of the same shape.
            lr: Learning rate eta, or what :meth:`rate` has made of it; round it to fp32 where it is used.
            state: The tensor's state.
            target: The tensor, the round, and how many rounds have moved the state before.
        """
