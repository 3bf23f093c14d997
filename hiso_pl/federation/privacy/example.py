"""Privacy of each of a client's examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiso_pl.federation.privacy.base import GaussianPrivacy
from hiso_pl.federation.privacy.noise import as_sent, clipped, gaussian


class ExamplePrivacy(GaussianPrivacy):
    r"""Hides each example of a client: every example's scalars are bounded, summed over the minibatch and noised.

    .. math::
        g_{j,p} = \frac{\ell_j(x + \mu z_p) - \ell_j(x)}{\mu}, \qquad
        \tilde g_p = \frac{1}{q n} \Big(\sum_{j \in B} g_{j,p} \min(1, C / \|g_j\|_2) + \mathcal N(0, (C \sigma)^2)\Big)

    (with central differences theirs), :math:`q = \min(1, batch\_size / n)` for the client's n examples. Adjacent are
    data sets that differ in one example, which is there or counts as nothing; n itself counts as public. Each example
    enters a minibatch with probability q, independently of all others, by the system's entropy and not by the run's
    seed: that is what lets the account be amplified by q. A minibatch has q n examples on average and as many as it may
    happen, memory being the only bound; an empty one sends noise alone, and no forward pass is made. An example whose
    scalars are not finite counts as zero.

    The bound holds as far as an example's loss depends on no other of its minibatch: not so where experts of limited
    capacity are shared out over a batch. One local step only, as later ones would start from where the raw scalars of
    earlier ones led. How long a client takes is not hidden.

    Source: DP-SGD, Abadi et al. 2016 (arXiv 1607.00133), with scalars along known directions in place of gradients;
    all P of an example as one vector, DP-AggZO (USENIX Security 2025).

    Args:
        clip: C, the largest L2 norm of an example's P scalars.
        noise_multiplier: sigma, the noise's standard deviation in units of the sensitivity C of the sum. Give this or
            ``target_epsilon``.
        target_epsilon: The epsilon that no client is to exceed in the whole run; the noise is found for it, and the run
            stops before it would be. A loop of your own gives ``noise_multiplier`` and keeps the account itself
            (``hiso_pl.federation.privacy.epsilon``).
        delta: The delta that goes with epsilon: far below 1 / examples of a client.
        accountant: Who counts: ``pld`` by privacy loss distributions, which is tight, or ``rdp`` by Renyi's divergence.
    """

    level = "example"
    adjacency = "add_or_remove_one"

    def released(self, scalars: NDArray[np.float32], expected: float) -> NDArray[np.float32]:
        """See :class:`~hiso_pl.zeroth_order.privacy.Privacy`; the sum is in the examples' order."""
        total = np.zeros((1, scalars.shape[1]))
        for example in scalars:
            total += clipped(example, self.clip)
        return as_sent((total + gaussian(total.shape, self.deviation)) / expected)
