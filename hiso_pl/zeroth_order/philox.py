"""Philox4x32-10, the counter-based generator behind every random choice of a run.

One call maps a key (the 64-bit seed) and a counter of four 32-bit words to four 32-bit words. Nothing is
carried from call to call, so any number can be recomputed by any rank at any time from where it stands.

Counter words, for every stream of the package (``stream: 1``)::

    (index, owner, round, purpose << 28 | k << 14 | p)

where ``owner`` is a tensor's position for directions and elsewhere a client's number, or an example's.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray

STREAM = 1
"""Number of the stream format. Any change to the numbers drawn for a given counter is a new number."""

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

MAX_ELEMENTS = 1 << 34
MAX_LOCAL_STEPS = 1 << 14
MAX_DIRECTIONS = 1 << 14

_MASK32 = 0xFFFFFFFF
_PIECE = 1 << 14


@unique
class Purpose(IntEnum):
    """What a stream is drawn for: the top four bits of the last counter word."""

    DIRECTIONS = 0
    COHORT = 1
    BATCHES = 2
    PARTITION = 3
    NOISE = 4
    SPLIT = 5
    ROWS = 6
    COLUMNS = 7
    ROUNDING = 8
    ATTACK = 9
    PRESENCE = 10
    SPEED = 11
    EXAMPLES = 12


def check_seed(seed: int) -> int:
    """Returns ``seed`` if it is an unsigned 64-bit integer.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise ValueError(f"seed={seed!r} must be an integer in [0, 2**64)")
    return int(seed)


def last_word(purpose: int, k: int = 0, p: int = 0) -> int:
    """Packs purpose, local step and direction into the fourth counter word.

    Raises:
        ValueError: If ``k`` or ``p`` do not fit their 14 bits.
    """
    if not 0 <= k < MAX_LOCAL_STEPS:
        raise ValueError(f"local step k={k} must be in [0, {MAX_LOCAL_STEPS})")
    if not 0 <= p < MAX_DIRECTIONS:
        raise ValueError(f"direction p={p} must be in [0, {MAX_DIRECTIONS})")
    return int(purpose) << 28 | k << 14 | p


def philox4x32(counter: NDArray[np.uint32], seed: int) -> NDArray[np.uint32]:
    """Philox4x32-10 over many counters at once, as the paper writes it.

    Args:
        counter: Counters, shape ``[..., 4]``.
        seed: The 64-bit key; its low word is key word 0.

    Returns:
        Random words, shape ``[..., 4]``.
    """
    c0, c1, c2, c3 = (np.asarray(counter[..., i], dtype=np.uint64) for i in range(4))
    k0, k1 = seed & _MASK32, seed >> 32
    mask, shift = np.uint64(_MASK32), np.uint64(32)
    for _ in range(ROUNDS):
        product0 = c0 * np.uint64(MULTIPLIERS[0])
        product1 = c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ np.uint64(k0),
            product1 & mask,
            (product0 >> shift) ^ c3 ^ np.uint64(k1),
            product0 & mask,
        )
        k0 = (k0 + KEY_INCREMENTS[0]) & _MASK32
        k1 = (k1 + KEY_INCREMENTS[1]) & _MASK32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniforms(seed: int, purpose: Purpose, owner: int, round: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A number strictly between 0 and 1 for each local step k and direction p, the first of its own :class:`Draws`.

    Args:
        seed: The run's seed.
        purpose: What is drawn.
        owner: The client.
        round: The round.
        shape: Local steps and directions.

    Returns:
        ``Draws(seed, purpose, owner=owner, round=round, k=k, p=p).uniform(1)`` at ``[k, p]``.

    Raises:
        ValueError: If there are more steps or directions than counters have.
    """
    return _unit(_wide(words(seed, purpose, owner, round, shape))[..., 0])


def words(seed: int, purpose: Purpose, owner: int, round: int, shape: tuple[int, int]) -> NDArray[np.uint32]:
    """The first random words for each local step k and direction p, shape ``[tau, P, 4]``; else :func:`uniforms`."""
    last_word(purpose, shape[0] - 1, shape[1] - 1)
    counter = np.zeros((*shape, 4), dtype=np.uint32)
    counter[..., 1:3] = owner, round
    k, p = np.indices(shape, dtype=np.uint32)
    counter[..., 3] = np.uint32(last_word(purpose)) | k << np.uint32(14) | p
    return philox4x32(counter, check_seed(seed))


def uniform_each(
    seed: int, purpose: Purpose, owners: NDArray[np.int64], round: int = 0, k: int = 0, p: int = 0
) -> NDArray[np.float64]:
    """A number strictly between 0 and 1 for each owner, the first of its own :class:`Draws`, in the owners' order."""
    counter = np.zeros((len(owners), 4), dtype=np.uint32)
    counter[:, 1] = owners
    counter[:, 2:] = round, last_word(purpose, k, p)
    return _unit(_wide(philox4x32(counter, check_seed(seed)))[:, 0])


def _wide(words: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Integers of 64 bits, each of two words, the lower one first."""
    wide = words.astype(np.uint64)
    return wide[..., 0::2] | wide[..., 1::2] << np.uint64(32)


def _unit(draws: NDArray[np.uint64]) -> NDArray[np.float64]:
    return ((draws >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


class Draws:
    """A sequence of integers for one purpose at one place of a run.

    Block ``i`` of the sequence is the Philox call with counter ``(i, owner, round, purpose << 28 | k << 14 | p)``;
    its words (0, 1) make draw ``2 i`` (word 0 low) and its words (2, 3) draw ``2 i + 1``, each of 64 bits.

    Example::

        Draws(seed, Purpose.COHORT, round=7).sample(population=8, size=4)   # the clients of round 7

    Args:
        seed: The run's seed.
        purpose: What is drawn.
        owner: The client, or 0.
        round: The round, or 0.
        k: The local step, or 0.
        p: A further index, for purposes that need one.
    """

    def __init__(self, seed: int, purpose: Purpose, *, owner: int = 0, round: int = 0, k: int = 0, p: int = 0) -> None:
        self._seed = check_seed(seed)
        self._words = (owner, round, last_word(purpose, k, p))
        self._next = 0

    def uint64(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` draws, shape ``[count]``."""
        first, last = self._next // 2, (self._next + count + 1) // 2
        draws = np.empty((last - first, 2), dtype=np.uint64)
        for start in range(first, last, _PIECE):  # all at once, ten million would take a gigabyte while they are made
            index = np.arange(start, min(start + _PIECE, last), dtype=np.uint32)
            counter = np.empty((len(index), 4), dtype=np.uint32)
            counter[:, 0] = index
            counter[:, 1:] = np.array(self._words, dtype=np.uint32)
            draws[start - first : start - first + len(index)] = _wide(philox4x32(counter, self._seed))
        offset = self._next - 2 * first
        self._next += count
        return draws.reshape(-1)[offset : offset + count]

    def uniform(self, count: int) -> NDArray[np.float64]:
        """The next ``count`` draws as numbers strictly between 0 and 1, shape ``[count]``."""
        return _unit(self.uint64(count))

    def sample(self, population: int, size: int) -> NDArray[np.int64]:
        """``size`` distinct integers of ``range(population)``, every subset equally likely, ascending.

        Floyd's method: the cost grows with ``size``, not with ``population``.

        Raises:
            ValueError: If ``size`` is negative or larger than ``population``.
        """
        if not 0 <= size <= population:
            raise ValueError(f"size={size} must be in [0, population={population}]")
        chosen: set[int] = set()
        tops = range(population - size, population)
        for top, draw in zip(tops, self.uint64(size).tolist(), strict=True):
            candidate = draw * (top + 1) >> 64
            chosen.add(top if candidate in chosen else candidate)
        return np.array(sorted(chosen), dtype=np.int64)

    def permutation(self, size: int) -> NDArray[np.int64]:
        """A random order of ``range(size)``: the order of as many 64-bit keys, ties by index."""
        return np.argsort(self.uint64(size), kind="stable").astype(np.int64)
