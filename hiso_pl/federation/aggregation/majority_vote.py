"""The vote of a cohort's signs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.aggregation import Aggregation
from hiso_pl.zeroth_order.transform import Transform


class MajorityVote(Aggregation):
    r"""The sign that most of the slots present have sent, and 0 where as many have sent the other.

    .. math:: \hat g_{k,p} = \mathrm{sign}\Big(\textstyle\sum_{slot} g_{slot,k,p}\Big), \quad g = \pm 1

    Every slot present has one vote, however many examples its client owns. It takes signs alone, see
    :class:`~hiso_pl.federation.scalars.Sign`, also for the learning rate that goes with them. As slots are compared,
    they must share their directions.

    Source: FeedSign, arXiv 2501.17610; the vote itself, signSGD, arXiv 1810.05291.
    """

    def check_transform(self, transform: Transform | None) -> None:
        """See :class:`Aggregation`.

        Raises:
            ValueError: If what clients send are not signs alone.
        """
        if transform is None or not transform.signs_alone:
            said = "null" if transform is None else repr(transform)
            raise ValueError(f"aggregation=MajorityVote needs signs alone: transform={said} must be Sign(scale='none')")

    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`Aggregation`; sums of so few ones are exact in any order."""
        return np.sign(scalars[present].sum(axis=0, dtype=np.float64)).astype(np.float32)

    def received_bits(self, transform: Transform | None, cohort: int) -> int:
        """One, and one more where as many may be for as against."""
        return 1 + (cohort + 1) % 2
