"""Privacy of a client's data as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.privacy.base import GaussianPrivacy
from hiso_pl.federation.privacy.noise import as_sent, clipped, gaussian


class ClientPrivacy(GaussianPrivacy):
    r"""Hides all of a client's data: its scalars of a round are one vector, which is bounded and noised.

    .. math::
        \tilde g = g \min(1, C / \|g\|_2) + \mathcal N(0, (2 C \sigma)^2 I), \qquad g \in \mathbb R^{\tau P}

    Adjacent are data sets in which one client's data are replaced by any others: two vectors of norm C are 2 C apart.
    A client's local moves are made with its own raw scalars, which never leave it. A vector that is not finite counts
    as zero, so that whether it was is not told, and a slot is always present. The noise is the system's entropy, drawn
    by each client in each round; cohorts and minibatches are public, so nothing is amplified by them, and as every
    rank sees every noised slot there is no factor :math:`1/\sqrt m`. All directions of a round are one release.

    Args:
        clip: C, the largest L2 norm of a client's scalars of a round.
        noise_multiplier: sigma, the noise's standard deviation in units of the sensitivity 2 C. Give this or
            ``target_epsilon``.
        target_epsilon: The epsilon that no client is to exceed in the whole run; the noise is found for it, and the run
            stops before it would be. A loop of your own gives ``noise_multiplier`` and keeps the account itself
            (``hiso_pl.federation.privacy.epsilon``).
        delta: The delta that goes with epsilon: far below 1 / clients.
        accountant: Who counts: ``pld`` by privacy loss distributions, which is tight, or ``rdp`` by Renyi's divergence.
    """

    level = "client"
    adjacency = "replace_one"

    @property
    def sensitivity(self) -> float:
        """2 C: from one vector of norm C to its opposite."""
        return 2.0 * self.clip

    def released(self, scalars: NDArray[np.float32], expected: float) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.privacy.Privacy`."""
        return as_sent(clipped(scalars, self.clip) + gaussian(scalars.shape, self.deviation))
