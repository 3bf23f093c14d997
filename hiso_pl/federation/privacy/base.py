"""What the two levels of privacy have in common: a bound, Gaussian noise, and how much of it there is."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np
from typing_extensions import Self

from hiso_pl.federation.privacy.account import Accountant
from hiso_pl.zeroth_order.privacy import Privacy


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not 0.0 < value < math.inf:
        raise ValueError(f"{name}={value} must be finite and positive")


class GaussianPrivacy(Privacy):
    r"""Bounded scalars with Gaussian noise of standard deviation ``noise_multiplier`` times their sensitivity.

    Args:
        clip: C, the largest L2 norm of what is bounded.
        noise_multiplier: Standard deviation of the noise in units of the sensitivity.
        target_epsilon: The epsilon of a whole run that the noise is to be found for, in its place.
        delta: The delta that goes with epsilon.
        accountant: Who counts.

    Attributes:
        adjacency: Which data sets a release hides from one another.

    Raises:
        ValueError: If an option cannot be, or not exactly one of ``noise_multiplier`` and ``target_epsilon`` is given.
    """

    adjacency: ClassVar[Literal["replace_one", "add_or_remove_one"]]

    def __init__(
        self,
        clip: float = 1.0,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        delta: float = 1e-5,
        accountant: Accountant = "pld",
    ) -> None:
        if (noise_multiplier is None) == (target_epsilon is None):
            raise ValueError(
                f"privacy.noise_multiplier={noise_multiplier} and privacy.target_epsilon={target_epsilon}: exactly one "
                "of them must be given, such as noise_multiplier=1.0"
            )
        _check_positive("privacy.clip", clip)
        _check_positive("privacy.noise_multiplier", noise_multiplier)
        _check_positive("privacy.target_epsilon", target_epsilon)
        if not 0.0 < delta < 1.0:
            raise ValueError(f"privacy.delta={delta} must be in (0, 1)")
        if accountant not in get_args(Accountant):
            raise ValueError(f"privacy.accountant={accountant!r} must be one of {', '.join(get_args(Accountant))}")
        self.clip = clip
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.delta = delta
        self.accountant: Accountant = accountant

    @property
    def sensitivity(self) -> float:
        """How far one record can move what the noise is added to, in L2 norm."""
        return self.clip

    @property
    def noise(self) -> float:
        """The noise multiplier.

        Raises:
            ValueError: If it has yet to be found for ``target_epsilon``.
        """
        if self.noise_multiplier is None:
            raise ValueError(
                f"privacy.target_epsilon={self.target_epsilon} is for runs of the program, which find the noise for "
                "it: give noise_multiplier; the account is then yours, see hiso_pl.federation.privacy.epsilon"
            )
        return self.noise_multiplier

    def with_noise(self, noise_multiplier: float) -> Self:
        """The same with the noise multiplier that was found, beside the target that it was found for."""
        _check_positive("privacy.noise_multiplier", noise_multiplier)
        found = copy.copy(self)
        found.noise_multiplier = noise_multiplier
        return found

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        return self.noise * self.sensitivity

    def check_ready(self) -> None:
        """See :class:`~hiso_pl.zeroth_order.privacy.Privacy`."""
        _ = self.noise

    def records(self, sizes: Sequence[int]) -> int:
        """The records among which one hides: clients, or the examples of the client that has most."""
        return len(sizes) if self.level == "client" else int(np.max(sizes))

    def doubts(self, sizes: Sequence[int]) -> list[str]:
        """See :class:`~hiso_pl.zeroth_order.privacy.Privacy`."""
        if not len(sizes) or self.delta * (records := self.records(sizes)) < 1.0:
            return []
        what = "clients" if self.level == "client" else "examples of a client"
        return [
            f"privacy.delta={self.delta:g} is not below 1/{records}, one part in the {records} {what}: a release that "
            "gives one of them away whole would be within it; give less"
        ]
