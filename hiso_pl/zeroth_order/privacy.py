"""What a privacy is: how a client's scalars are bounded and noised before anything leaves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part


class Privacy(Part, ABC):
    """How a client's scalars are bounded and noised before anything leaves it, a transform included.

    The noise is the client's own: a seed that others know would let them subtract it. So a repeated run differs, and
    the ledger has what was aggregated of the noised scalars. No raw loss leaves a client, and ranks cannot share a
    slot's probes.

    Attributes:
        level: Whose data one release hides: a ``client``'s all, or one ``example``.
    """

    level: ClassVar[Literal["client", "example"]]

    @abstractmethod
    def released(self, scalars: NDArray[np.float32], expected: float) -> NDArray[np.float32]:
        """What leaves the client, finite.

        Args:
            scalars: The client's scalars g, shape ``[tau, P]`` at the level of clients; of each example of its
                minibatch, shape ``[examples, P]``, at the level of examples. They need not be finite.
            expected: Examples that a minibatch is expected to have; of no matter at the level of clients.

        Returns:
            Shape ``[tau, P]``, or ``[1, P]`` at the level of examples.
        """
