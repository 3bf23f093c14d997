"""The mean weighted by examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.aggregation import Aggregation


class WeightedMean(Aggregation):
    r"""The mean over the slots present, each weighted by the examples its client owns.

    .. math:: \hat g_{k,p} = \mathrm{fp32}\Big(\sum_{slot} n_{slot}\, g_{slot,k,p} \Big/ \sum_{slot} n_{slot}\Big)

    Both sums run over the slots present, in slot order, in float64: the weights are renormalised by the division.
    """

    def __call__(
        self, scalars: NDArray[np.float32], present: NDArray[np.bool_], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """See :class:`Aggregation`.

        Raises:
            ValueError: If there are no weights, one is negative or not finite, or none of those present is positive.
        """
        if weights is None:
            raise ValueError(
                "aggregation=WeightedMean needs the examples of each client: step(slots=...) with weights, or take Mean"
            )
        total = np.zeros(scalars.shape[1:], dtype=np.float64)
        mass = 0.0
        for slot in np.flatnonzero(present):
            weight = float(weights[slot])
            if not 0.0 <= weight < float("inf"):
                raise ValueError(f"weights[{slot}]={weight} must be finite and not negative")
            total = total + weight * scalars[slot].astype(np.float64)
            mass += weight
        if mass == 0.0:
            raise ValueError("weights of the slots present are all 0.0, at least one must be positive")
        return (total / mass).astype(np.float32)
