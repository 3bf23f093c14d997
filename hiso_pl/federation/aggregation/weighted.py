"""The mean weighted by examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.aggregation import Weighing


class WeightedMean(Weighing):
    r"""The mean over the slots present, each weighted by the examples its client owns.

    .. math:: \hat g_{k,p} = \mathrm{fp32}\Big(\sum_{slot} n_{slot}\, g_{slot,k,p} \Big/ \sum_{slot} n_{slot}\Big)
    """

    by_examples = True

    def weights_of(self, slots: int, weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """The examples.

        Raises:
            ValueError: If nobody has told them.
        """
        if weights is None:
            raise ValueError(
                "aggregation=WeightedMean needs the examples of each client: step(slots=...) with weights, or take Mean"
            )
        return weights
