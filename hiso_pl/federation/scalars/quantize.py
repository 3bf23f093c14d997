"""Scalars of a few bits."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.scalars.scale import SCALE_BITS, rounded_up
from hiso_pl.zeroth_order.philox import Purpose, uniforms
from hiso_pl.zeroth_order.record import BITS_PER_SCALAR, RoundRecord
from hiso_pl.zeroth_order.transform import Departure, State, Transform

LARGEST = float(np.finfo(np.float32).max)


class Quantize(Transform):
    r"""Sends each scalar as one of 2^bits numbers, the nearer of its two neighbours more likely.

    .. math::

        q_j = s \, \frac{2 j - L}{L}, \quad L = 2^{bits} - 1, \quad
        j = \lfloor t \rfloor + [v < t - \lfloor t \rfloor], \quad t = \tfrac{L}{2} \big(\tfrac{g}{s} + 1\big)
        \text{ cut to } [0, L]

    with v uniform in (0, 1) by (seed, round, client, k, p), from a purpose of its own. So E[q] = g for every |g| <= s.
    All numbers are used, none of them is zero; scalars that are all zero are sent as zeros, of scale zero.

    The scale s is the largest |g| of the client's round, rounded up to bfloat16, so that nothing is cut; it costs 16
    bits more. Or it is shared by all, and costs none: then it is the running size of the scalars, by the records alone,

    .. math::

        v = \Big(\frac{s}{c}\Big)^2, \qquad
        v' = (1 - \nu) v + \nu \Big(n \cdot \overline{\hat g^2} - \big(\tfrac{s}{L}\big)^2\Big), \qquad
        s' = \max(c \sqrt{\max(v', 0)}, \mathrm{floor})

    where n clients were averaged, so that n times the mean square is at least that of one client, and (s / L)^2 is the
    most that rounding adds to it: with scalars of zero s falls to its floor. Larger scalars than s are cut until it has
    grown: a start too small means small steps for a few rounds, one too large means noise.

    Source: own, of the kind of QSGD (arXiv 1610.02132). A level at zero would leave 2 bits with three levels, and a
    scale of three times the root mean square would make their noise larger than the scalars' own square.

    Args:
        bits: Bits of a scalar, 2 to 16.
        scale: ``client`` sends the scale of its round along, ``shared`` is known to all from the records before.
        start: The shared scale before the first round.
        nu: Weight of a round in the shared scale.
        cut: c, the shared scale in units of the scalars' root mean square; at 0 it is max(2, (bits + 1) / 2).
        floor: The smallest shared scale.
    """

    withholds_losses = False
    is_format = True

    def __init__(
        self,
        bits: int = 8,
        scale: Literal["client", "shared"] = "client",
        start: float = 0.1,
        nu: float = 0.1,
        cut: float = 0.0,
        floor: float = 1e-6,
    ) -> None:
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
            raise ValueError(f"bits={bits!r} must be an integer in [2, 16]; one bit is transform=Sign")
        if scale not in ("client", "shared"):
            raise ValueError(f"scale={scale!r} must be 'client' or 'shared'")
        for name, value in (("start", start), ("floor", floor)):
            if not 0.0 < value <= LARGEST:
                raise ValueError(f"{name}={value} must be finite and positive")
        if not 0.0 <= nu <= 1.0:
            raise ValueError(f"nu={nu} must be in [0, 1]")
        if not (cut == 0.0 or 1.0 <= cut <= LARGEST):
            raise ValueError(f"cut={cut} must be at least 1, or 0 to go by the bits")
        if scale == "client" and (start, nu, cut, floor) != (0.1, 0.1, 0.0, 1e-6):
            raise ValueError("start, nu, cut and floor are of a shared scale: scale='client' must be 'shared'")
        self.bits = bits
        self.scale = scale
        self.start = start
        self.nu = nu
        self.cut = cut
        self.floor = floor

    def __call__(self, scalars: NDArray[np.float32], departure: Departure) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.transform.Transform`."""
        shared = self.scale == "shared"
        scale = float(departure.state["scale"][0]) if shared else rounded_up(float(np.abs(scalars).max()))
        if scale == 0.0:
            return np.zeros_like(scalars)
        levels = 2**self.bits - 1
        place = np.clip((scalars.astype(np.float64) / scale + 1.0) * (levels / 2), 0.0, levels)
        below = np.floor(place)
        v = uniforms(departure.seed, Purpose.ROUNDING, departure.client, departure.round, scalars.shape)
        chosen = below + (v < place - below)
        return (scale * ((2.0 * chosen - levels) / levels)).astype(np.float32)

    def initial(self) -> State:
        """The shared scale."""
        return {"scale": np.full(1, max(self.start, self.floor), np.float32)} if self.scale == "shared" else {}

    def advance(self, state: State, record: RoundRecord, averaged: int) -> None:
        """See the equation above; in float64, with a sum that is rounded once, and the new scale to fp32."""
        scale, cut = float(state["scale"][0]), self.cut or max(2.0, (self.bits + 1) / 2)
        values = record.scalars.astype(np.float64).ravel().tolist()
        mean = math.fsum(g * g for g in values) / len(values)
        rounding = scale / (2**self.bits - 1)
        size = scale / cut
        square = (1.0 - self.nu) * (size * size) + self.nu * (averaged * mean - rounding * rounding)
        state["scale"][0] = min(max(cut * math.sqrt(max(square, 0.0)), self.floor), LARGEST)

    def sent_bits(self, count: int) -> int:
        """Those of the scalars, and of a scale that is the client's own."""
        return self.bits * count + (SCALE_BITS if self.scale == "client" else 0)

    def summed_bits(self, cohort: int) -> int:
        """On a shared scale those of an integer, else those of a number."""
        return self.bits + math.ceil(math.log2(cohort)) if self.scale == "shared" else BITS_PER_SCALAR
