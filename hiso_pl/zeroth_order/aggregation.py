"""What an aggregation is: how the cohort's scalars become one set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part, checked_scalars, moderate


class Aggregation(Part, ABC):
    """How the cohort's scalars become one set: the mean, a weighted mean, a robust rule."""

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


class Mean(Aggregation):
    r"""The plain mean over the slots present.

    .. math:: \hat g_{k,p} = \mathrm{fp32}\Big(\tfrac{1}{|present|} \sum_{slot} g_{slot,k,p}\Big)

    The sum runs in slot order in float64.
    """

    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`Aggregation`."""
        total = np.zeros(scalars.shape[1:], dtype=np.float64)
        for slot in np.flatnonzero(present):
            total = total + scalars[slot].astype(np.float64)
        return (total / float(present.sum())).astype(np.float32)
