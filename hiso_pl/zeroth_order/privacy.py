"""What a privacy is: how a client's scalars are bounded and noised before anything leaves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.part import Part, checked_scalars


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
            scalars: The client's scalars g, shape ``[tau, P]``; of each example of its minibatch, shape
                ``[examples, P]``, at the level of examples. They need not be finite.
            expected: Examples that a minibatch is expected to have; of no matter at the level of clients.

        Returns:
            Shape ``[tau, P]``, or ``[1, P]`` at the level of examples.
        """

    def leaving(self, scalars: NDArray[np.float32], expected: float = 1.0) -> NDArray[np.float32]:
        """What leaves, by the privacy's own words.

        Raises:
            ValueError: If it is not what can be sent in place of the scalars.
        """
        shape = (1, scalars.shape[1]) if self.level == "example" else scalars.shape
        return checked_scalars(self.released(scalars, expected), shape, True, f"privacy={self!r}")

    def check_ready(self) -> None:
        """Refuses rounds before it is known how much noise there is to be.

        Raises:
            ValueError: If it is not.
        """

    def doubts(self, sizes: Sequence[int]) -> list[str]:
        """What is to be said of the options in front of a federation, in a line each.

        Args:
            sizes: Examples of each client.
        """
        return []
