"""What an aggregation is: how the cohort's scalars become one set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part, checked_scalars, moderate
from hiso_pl.zeroth_order.record import BITS_PER_SCALAR
from hiso_pl.zeroth_order.transform import Transform


class Aggregation(Part, ABC):
    """How the cohort's scalars become one set: the mean, a weighted mean, a robust rule.

    Attributes:
        by_examples: Whether it goes by the examples of each client, which private clients do not tell.
    """

    by_examples: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """Combines the slots.

        Every rank computes this for itself, so it must be a function of its arguments to the bit.

        Args:
            scalars: All slots, shape ``[m, tau, P]``; rows not present hold anything, NaN included.
            present: Which slots count, shape ``[m]``; at least one does.
            weights: Examples of each slot's client, shape ``[m]``; None where nobody has told them.

        Returns:
            The aggregated scalars ghat, fp32, shape ``[tau, P]``.
        """

    @property
    def compares_slots(self) -> bool:
        """Whether slots must share their directions, as they must unless what combines them knows own ones as well.

        So it goes by the class that says how slots are combined: that one has to say it for either, as who combines
        them otherwise has said nothing of :meth:`side_by_side`.
        """
        shared, own = (next(c for c in type(self).__mro__ if n in vars(c)) for n in ("__call__", "side_by_side"))
        return own is Aggregation or not issubclass(own, shared)

    def combined(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """What the slots come to, by the rule's own words.

        Raises:
            ValueError: If it is no set of scalars.
        """
        found = self(scalars.copy(), present.copy(), weights)  # what it does to them is not to change who was there
        likely = moderate(scalars[present])
        return checked_scalars(found, scalars.shape[1:], likely, f"aggregation={self!r}")

    def check_transform(self, transform: Transform | None) -> None:
        """Refuses a transform whose scalars this cannot combine.

        Raises:
            ValueError: If it is one.
        """

    def least_present(self, cohort: int) -> int:
        """Slots of a cohort of so many that must be present; with fewer a round is empty."""
        return 1

    def received_bits(self, transform: Transform | None, cohort: int) -> int:
        """Bits of one aggregated scalar of a cohort of so many, made of what the transform sends."""
        return BITS_PER_SCALAR

    def side_by_side(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """What slots come to that have directions of their own, shape ``[tau, m P]``: see :class:`Weighing`.

        Raises:
            ValueError: If this one compares slots.
        """
        raise ValueError(f"aggregation={self!r} compares slots, which needs directions that they share")


class Weighing(Aggregation):
    r"""The mean over the slots present, each by a weight :math:`n_i` that does not depend on scalars.

    .. math::
        \hat g_{k,p} = \mathrm{fp32}\Big(\sum_i n_i\, g_{i,k,p} \Big/ \sum_i n_i\Big)
        \qquad
        \hat g_{k,iP+p} = \mathrm{fp32}\Big(g_{i,k,p}\, (m\, n_i) \Big/ \sum_j n_j\Big)

    along shared directions and along each slot's own, where the mean over all m P of them is the same weighted mean of
    the slots' estimates, and a slot that is not present has zeros. Sums run over the slots present, in slot order, and
    all is float64 in the order written: the weights are renormalised by the division.
    """

    @abstractmethod
    def weights_of(self, slots: int, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """The weights n of so many slots, shape ``[m]``.

        Args:
            slots: Number of slots m.
            weights: Examples of each slot's client, shape ``[m]``; None where nobody has told them.
        """

    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`Aggregation`.

        Raises:
            ValueError: If a weight is negative or not finite, or none of those present is positive.
        """
        n, mass = self._weighed(present, weights)
        total = np.zeros(scalars.shape[1:], dtype=np.float64)
        for slot in np.flatnonzero(present):
            total = total + n[slot] * scalars[slot].astype(np.float64)
        return (total / mass).astype(np.float32)

    def side_by_side(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`Aggregation`.

        Raises:
            ValueError: As :meth:`__call__`.
        """
        n, mass = self._weighed(present, weights)
        slots, steps, count = scalars.shape
        found = np.zeros((steps, slots, count), dtype=np.float32)
        for slot in np.flatnonzero(present):
            found[:, slot] = (scalars[slot].astype(np.float64) * (slots * n[slot]) / mass).astype(np.float32)
        return found.reshape(steps, slots * count)

    def _weighed(
        self, present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], float]:
        """The weights of all slots, and the sum of those present."""
        n, mass = np.asarray(self.weights_of(len(present), weights), dtype=np.float64), 0.0
        if n.shape != present.shape:
            raise ValueError(f"aggregation={self!r} gave weights of shape {n.shape}, must give {present.shape}")
        for slot in np.flatnonzero(present):
            if not 0.0 <= n[slot] < float("inf"):
                raise ValueError(f"weights[{slot}]={n[slot]} must be finite and not negative")
            mass += float(n[slot])
        if mass == 0.0:
            raise ValueError("weights of the slots present are all 0.0, at least one must be positive")
        return n, mass


class Mean(Weighing):
    r"""The plain mean over the slots present.

    .. math:: \hat g_{k,p} = \mathrm{fp32}\Big(\tfrac{1}{|present|} \sum_{slot} g_{slot,k,p}\Big)

    The sum runs in slot order in float64.
    """

    def weights_of(self, slots: int, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Every slot counts as one."""
        return np.ones(slots)

    def received_bits(self, transform: Transform | None, cohort: int) -> int:
        """Those of the sum."""
        return BITS_PER_SCALAR if transform is None else transform.summed_bits(cohort)
