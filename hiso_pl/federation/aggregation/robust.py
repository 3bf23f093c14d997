"""What robust rules have in common: how many slots may be hostile, and arithmetic that is the same on every machine.

Sums run in slot order in float64, one after the other: ``np.add.accumulate`` has every partial sum to tell, where
``np.sum`` adds in an order of its own. Ties go to the lower slot. Scalars are those of fp32, whose squares and their
sums float64 holds, however large, so that nothing in between is infinite.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.aggregation import Aggregation
from hiso_pl.zeroth_order.transform import Transform

Rows = NDArray[np.float64]
"""The slots present in slot order, or what is made of them, shape ``[n, tau P]``."""


class Robust(Aggregation):
    """A rule that holds although some slots of a round send what they please.

    Slots that were dropped are no members: of those present more than half must be honest, so with fewer than
    2 f + 1 a round is empty. Examples of clients are not asked for, as a hostile client may tell any number.

    Args:
        f: How many slots of a round may be hostile.

    Raises:
        ValueError: If that is no number of slots.
    """

    def __init__(self, f: int = 1) -> None:
        if isinstance(f, bool) or not isinstance(f, int) or f < 0:
            raise ValueError(f"f={f!r} must be an integer of at least 0, the slots of a round that may be hostile")
        self.f = f

    def least_present(self, cohort: int) -> int:
        """More than twice as many as may be hostile."""
        return 2 * self.f + 1

    def check_transform(self, transform: Transform | None) -> None:
        """See :class:`~hiso_pl.zeroth_order.aggregation.Aggregation`.

        Raises:
            ValueError: If it keeps a state, which records advance as if they had the mean of the slots.
        """
        if transform is not None and transform.initial():
            raise ValueError(
                f"transform={transform!r} learns the size of scalars from means, which aggregation={self!r} does not "
                "make: it must keep no state, as Quantize(scale='client')"
            )

    def _members(self, scalars: NDArray[np.float32], present: NDArray[np.bool_]) -> Rows:
        """The slots present."""
        rows, least = scalars[present].astype(np.float64), self.least_present(len(present))
        if len(rows) < least:
            raise ValueError(f"aggregation={self!r} needs {least} slots, {len(rows)} are present")
        return rows.reshape(len(rows), -1)


class Comparing(Robust):
    r"""A rule that compares slots, which must share their directions, alone or after nearest-neighbour mixing.

    Mixing puts in place of each slot the mean of the n - f slots nearest to it, of the n present and itself included,

    .. math:: y_i = \frac{1}{n - f} \sum_{j \in N_i} g_j

    so that honest slots whose data differ come closer to each other.

    Source: Allouah et al. 2023, Fixing by Mixing (arXiv 2302.01772).

    Args:
        f: How many slots of a round may be hostile.
        mixing: Whether slots are mixed with their nearest neighbours before.

    Raises:
        ValueError: If f is no number of slots.
    """

    def __init__(self, f: int = 1, mixing: bool = False) -> None:
        super().__init__(f)
        self.mixing = mixing

    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.aggregation.Aggregation`.

        Raises:
            ValueError: If fewer slots are present than the rule needs.
        """
        rows = self._members(scalars, present)
        found = self.of(mixed(rows, self.f) if self.mixing else rows)
        return found.reshape(scalars.shape[1:]).astype(np.float32) + np.float32(0.0)

    @abstractmethod
    def of(self, rows: Rows) -> Rows:
        """What the slots present come to, shape ``[tau P]``; rows are finite, and enough of them."""


def in_order(rows: Rows) -> Rows:
    """The sum over the first axis, in its order."""
    return np.asarray(np.add.accumulate(rows, axis=0)[-1])


def squares(rows: Rows) -> Rows:
    """The square of each row's norm, shape ``[n]``."""
    return np.asarray(np.add.accumulate(rows * rows, axis=1)[:, -1])


def middle(rows: Rows) -> Rows:
    """The median over the first axis, element by element; of an even number the mean of the two in the middle."""
    ordered = np.sort(rows, axis=0)
    return np.asarray((ordered[(len(rows) - 1) // 2] + ordered[len(rows) // 2]) / 2.0)


def cuts(rows: Rows, bound: float, relative: bool) -> Rows:
    """What each row is multiplied by to have at most a norm, which may be a multiple of the median norm."""
    norms = np.sqrt(squares(rows))
    most = bound * middle(norms) if relative else np.float64(bound)
    return np.where(norms > most, most / np.where(norms > most, norms, 1.0), 1.0)


def mixed(rows: Rows, f: int) -> Rows:
    """Each row as the mean of the n - f nearest, of which it is the first; a tie goes to the lower slot."""
    nearest = (np.argsort(squares(rows - row), kind="stable")[: len(rows) - f] for row in rows)
    return np.stack([in_order(rows[np.sort(chosen)]) / len(chosen) for chosen in nearest])


def check_positive(name: str, value: float) -> None:
    """Refuses what is no positive number.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < np.inf:
        raise ValueError(f"{name}={value!r} must be finite and positive")


def check_iterations(value: int) -> None:
    """Refuses what is no number of iterations.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise ValueError(f"iterations={value!r} must be an integer in [1, 1000]")
