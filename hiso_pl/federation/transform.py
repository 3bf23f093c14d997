"""Transforms: what a client does to its scalars before they leave it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.interfaces import Transform


class Identity(Transform):
    """The scalars leave as they are."""

    def __call__(self, scalars: NDArray[np.float32], *, round: int, client: int) -> NDArray[np.float32]:
        """Returns ``scalars`` unchanged, shape ``[tau, P]``."""
        return scalars
