"""Scalars of one bit."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.scalars.scale import SCALE_BITS, rounded_up
from hiso_pl.zeroth_order.record import BITS_PER_SCALAR
from hiso_pl.zeroth_order.transform import Departure, Transform


class Sign(Transform):
    r"""Sends the sign of each scalar, and once a round their size: ``q = s sign(g)``, ``s = mean |g|``, sign(0) = +1.

    That s makes the squared error of one bit a scalar the smallest; it is rounded up to bfloat16 and costs 16 bits.

    Signs alone (``scale: none``, s = 1) carry no size, so the learning rate has to: one that moves x as far as scalars
    do is the plain one times their usual size mean \|g\|, which ``scalar/mean_abs`` of a run without the transform
    shows. Steps then do not shrink as the gradient does: let a schedule do it. H learns nothing from them either, so
    they go with Identity.

    Source: signs with a size, Karimireddy et al. 2019 (arXiv 1901.09847), without its feedback of errors, as directions
    are new in every round; signs alone, FeedSign (arXiv 2501.17610).

    Args:
        scale: ``client`` sends the size of its round along, ``none`` signs alone.
    """

    withholds_losses = False

    is_format = True

    def __init__(self, scale: Literal["client", "none"] = "client") -> None:
        if scale not in ("client", "none"):
            raise ValueError(f"scale={scale!r} must be 'client' or 'none'")
        self.scale = scale

    def __call__(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.transform.Transform`."""
        sizes = np.abs(scalars).ravel().tolist()
        size = 1.0 if self.signs_alone else rounded_up(math.fsum(sizes) / len(sizes))
        return np.where(scalars >= 0, np.float32(size), np.float32(-size))

    def sent_bits(self, count: int) -> int:
        """One for each, and those of their size."""
        return count + (0 if self.signs_alone else SCALE_BITS)

    def summed_bits(self, cohort: int) -> int:
        """Of signs alone those of an integer, else those of a number."""
        return 1 + math.ceil(math.log2(cohort)) if self.signs_alone else BITS_PER_SCALAR

    @property
    def signs_alone(self) -> bool:
        """Without their size."""
        return self.scale == "none"
