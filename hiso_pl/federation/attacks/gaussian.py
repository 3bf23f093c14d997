"""Noise in place of scalars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.attacks.honest import check_finite
from hiso_pl.zeroth_order.attack import FRACTION, Attack, Scene
from hiso_pl.zeroth_order.philox import Purpose, words
from hiso_pl.zeroth_order.streams import box_muller


class Gaussian(Attack):
    r"""Sends noise that has nothing to do with what it has found.

    .. math:: g_{i,k,p} \to scale \cdot n_{i,k,p}, \qquad n \sim N(0, 1)

    The noise is a function of (seed, client, round, k, p), from a purpose of its own: the first normal element of the
    Philox call with counter ``(0, client, round, 9 << 28 | k << 14 | p)``, see :mod:`hiso_pl.zeroth_order.streams`.

    Args:
        fraction: Share of all clients that are hostile; 0.25 of 8 are 2.
        clients: Which clients are, in place of a share.
        start: The first round in which they are.
        scale: Standard deviation, in the units of scalars: ``scalar/mean_abs`` of an honest run shows their size.
    """

    def __init__(
        self, fraction: float = FRACTION, clients: list[int] | None = None, start: int = 0, scale: float = 10.0
    ) -> None:
        super().__init__(fraction, clients, start)
        check_finite("scale", scale)
        if scale < 0.0:
            raise ValueError(f"attack.scale={scale} must not be negative")
        self.scale = scale

    def __call__(
        self, scalars: NDArray[np.float32], hostile: NDArray[np.bool_], present: NDArray[np.bool_], scene: Scene
    ) -> NDArray[np.float64]:
        """See :class:`~hiso_pl.zeroth_order.attack.Attack`."""
        noise = []
        for slot in np.flatnonzero(hostile):
            drawn = words(scene.seed, Purpose.ATTACK, scene.clients[slot], scene.round, scalars.shape[1:])
            noise.append(box_muller(drawn[..., 0], drawn[..., 1])[0].astype(np.float64))
        return self.scale * np.stack(noise)
