"""Minibatches: which of its examples a client looks at in a local step."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.philox import Draws, Purpose


def draw_batch(seed: int, client: int, round: int, k: int, examples: int, batch_size: int) -> NDArray[np.int64]:
    """The minibatch B(i, r, k), as positions among the client's own examples, ascending.

    Drawn without replacement and afresh for each (client, round, local step); nothing is carried from one to the
    next. A client with fewer than ``batch_size`` examples uses all of them.

    Args:
        seed: The run's seed.
        client: The client i.
        round: The round r.
        k: The local step k.
        examples: Examples the client owns.
        batch_size: Examples in a minibatch.

    Returns:
        Positions in ``range(examples)``, shape ``[min(examples, batch_size)]``.

    Raises:
        ValueError: If the client owns nothing, or ``batch_size`` is below 1.
    """
    if examples < 1:
        raise ValueError(f"client {client} owns examples={examples}, at least 1 is needed for a minibatch")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    return Draws(seed, Purpose.BATCHES, owner=client, round=round, k=k).sample(examples, min(batch_size, examples))


def draw_epoch(
    seed: int, client: int, round: int, epoch: int, examples: int, batch_size: int
) -> list[NDArray[np.int64]]:
    """The minibatches of a pass over all of a client's examples, each as positions among them, ascending.

    Dealt afresh for each (client, round, epoch): every example is in one of them, and only the last may be smaller.

    Args:
        seed: The run's seed.
        client: The client i.
        round: The round r.
        epoch: The pass, from 0 on.
        examples: Examples the client owns.
        batch_size: Examples in a minibatch.

    Returns:
        Positions in ``range(examples)``, each of shape ``[batch_size]``, the last perhaps of fewer.
    """
    # beside the draws of single minibatches, which have p = 0
    order = Draws(seed, Purpose.BATCHES, owner=client, round=round, k=epoch, p=1).permutation(examples)
    return [np.sort(order[first : first + batch_size]) for first in range(0, examples, batch_size)]


def draw_secret_batch(examples: int, batch_size: int) -> NDArray[np.int64]:
    r"""A minibatch that each example enters with probability :math:`q = \min(1, batch\_size / n)`, all independently.

    By the system's entropy and by no seed, so that nobody else knows who is in it: privacy is amplified by it.

    Args:
        examples: Examples n the client owns.
        batch_size: Examples in a minibatch, on average.

    Returns:
        Positions in ``range(examples)``, ascending; perhaps none.
    """
    drawn = np.frombuffer(os.urandom(8 * examples), dtype=np.uint64)
    return np.flatnonzero((drawn >> np.uint64(11)) * 2.0**-53 < batch_size / examples)
