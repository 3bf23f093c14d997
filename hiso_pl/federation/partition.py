"""Partitions: which client owns which training examples.

A partition is a pure function of the labels, the number of clients and the seed, and the same on every machine:
its randomness is the package's own integers, and its few logarithms are taken one number at a time by ``math``,
whose results do not depend on the width of a processor's vector units.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.philox import Draws, Purpose

Indices = NDArray[np.int64]

# The third index of a partition's streams: one stream for each thing that is drawn.
_SHUFFLE, _SHARES, _MOVES, _SHARDS = range(4)


class Partition(ABC):
    """A way to divide the training examples among the clients.

    Args:
        minimum: Fewest examples a client may own. Where the draw gives a client fewer, examples are moved to it,
            one at a time, from the client that owns the most.
    """

    def __init__(self, minimum: int = 1) -> None:
        if minimum < 0:
            raise ValueError(f"minimum={minimum} must be at least 0")
        self.minimum = minimum

    def __call__(self, labels: Indices, clients: int, seed: int) -> list[Indices]:
        """Divides the examples.

        Args:
            labels: Label of each example, shape ``[N]``.
            clients: Number of clients M.
            seed: The run's seed.

        Returns:
            For each client the indices of its examples, ascending. They are disjoint, and together complete.

        Raises:
            ValueError: If there are too few examples for so many clients.
        """
        labels = np.asarray(labels, dtype=np.int64)
        if labels.ndim != 1:
            raise ValueError(f"labels of shape {list(labels.shape)} must have one dimension")
        if clients < 1:
            raise ValueError(f"clients={clients} must be at least 1")
        if clients * self.minimum > len(labels):
            raise ValueError(
                f"minimum={self.minimum} examples for each of clients={clients} needs {clients * self.minimum} "
                f"training examples, but there are only {len(labels)}"
            )
        parts = [np.sort(part) for part in self.deal(labels, clients, seed)]
        return self._meet_minimum(parts, seed)

    @abstractmethod
    def deal(self, labels: Indices, clients: int, seed: int) -> list[Indices]:
        """Divides the examples with no regard to the minimum, in any order within a client."""

    def _meet_minimum(self, parts: list[Indices], seed: int) -> list[Indices]:
        """Moves drawn examples from the richest client, the lowest number among equals, to the poor ones."""
        poor = [client for client, part in enumerate(parts) if len(part) < self.minimum]
        if not poor:
            return parts
        draws = Draws(seed, Purpose.PARTITION, k=_MOVES)
        held = [part.tolist() for part in parts]
        for client in poor:
            while len(held[client]) < self.minimum:
                # Somebody owns less than the average, so the richest owns more than it, and that is above the minimum.
                richest = max(held, key=len)
                position = int(draws.uint64(1)[0]) * len(richest) >> 64
                held[client].append(richest.pop(position))
        return [np.sort(np.array(part, dtype=np.int64)) for part in held]


class IID(Partition):
    """Every client owns a random sample of all examples; sizes differ by at most one.

    Args:
        minimum: Fewest examples a client may own.
    """

    def __init__(self, minimum: int = 1) -> None:
        super().__init__(minimum)

    def deal(self, labels: Indices, clients: int, seed: int) -> list[Indices]:
        """See :class:`Partition`."""
        order = Draws(seed, Purpose.PARTITION, k=_SHUFFLE).permutation(len(labels))
        return np.array_split(order, clients)


class Dirichlet(Partition):
    r"""Each label's examples are divided by shares drawn from a symmetric Dirichlet distribution.

    .. math:: (q_{c,1}, \dots, q_{c,M}) \sim \mathrm{Dir}(\alpha, \dots, \alpha) \quad \text{for every label } c

    Source: Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for federated visual
    classification", arXiv 1909.06335.

    Args:
        alpha: Concentration. A small one gives each label to few clients, a large one makes the clients alike.
        minimum: Fewest examples a client may own.
    """

    def __init__(self, alpha: float = 1.0, minimum: int = 1) -> None:
        super().__init__(minimum)
        if not 1e-6 <= alpha <= 1e6:
            raise ValueError(f"alpha={alpha} must be positive, in [1e-6, 1e6]")
        self.alpha = alpha

    def deal(self, labels: Indices, clients: int, seed: int) -> list[Indices]:
        """See :class:`Partition`."""
        pieces: list[list[Indices]] = [[] for _ in range(clients)]
        for number, label in enumerate(np.unique(labels)):
            members = np.flatnonzero(labels == label)
            order = Draws(seed, Purpose.PARTITION, owner=number, k=_SHUFFLE).permutation(len(members))
            uniforms = _uniforms(Draws(seed, Purpose.PARTITION, owner=number, k=_SHARES))
            counts = _largest_remainder(_shares(self.alpha, clients, uniforms), len(members))
            for client, piece in enumerate(np.split(members[order], np.cumsum(counts)[:-1])):
                pieces[client].append(piece)
        return [np.concatenate(own) if own else np.empty(0, dtype=np.int64) for own in pieces]


class LabelShards(Partition):
    """The examples, sorted by label, are cut into equal shards, and each client is dealt a few of them at random.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
    arXiv 1602.05629.

    Args:
        shards: Shards a client owns, so about the number of labels it sees.
        minimum: Fewest examples a client may own.
    """

    def __init__(self, shards: int = 2, minimum: int = 1) -> None:
        super().__init__(minimum)
        if shards < 1:
            raise ValueError(f"shards={shards} must be at least 1")
        self.shards = shards

    def deal(self, labels: Indices, clients: int, seed: int) -> list[Indices]:
        """See :class:`Partition`."""
        total = clients * self.shards
        if total > len(labels):
            raise ValueError(
                f"shards={self.shards} for each of clients={clients} needs {total} training examples, "
                f"but there are only {len(labels)}"
            )
        order = Draws(seed, Purpose.PARTITION, k=_SHUFFLE).permutation(len(labels))
        by_label = order[np.argsort(labels[order], kind="stable")]
        shards = np.array_split(by_label, total)
        dealt = Draws(seed, Purpose.PARTITION, k=_SHARDS).permutation(total).reshape(clients, self.shards)
        return [np.concatenate([shards[shard] for shard in own]) for own in dealt]


def partition_fingerprint(parts: list[Indices]) -> str:
    """SHA-256 over the number of clients, each client's number of examples, and its indices, as ``<i8``."""
    digest = hashlib.sha256(np.array([len(parts), *(len(part) for part in parts)], dtype="<i8").tobytes())
    for part in parts:
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()


def label_counts(parts: list[Indices], labels: Indices, classes: int) -> Indices:
    """How many examples of each label each client owns, shape ``[M, C]``."""
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts]).astype(np.int64)


def _uniforms(draws: Draws) -> Iterator[float]:
    """The draws as single numbers; fetched by the block, as a call costs more than its numbers."""
    while True:
        yield from draws.uniform(256).tolist()


def _shares(alpha: float, clients: int, uniforms: Iterator[float]) -> list[float]:
    """One draw of the symmetric Dirichlet distribution: gamma variates over their sum.

    It works with logarithms, as for a small ``alpha`` every variate may be below the smallest float.
    """
    logs = [_log_gamma_variate(alpha, uniforms) for _ in range(clients)]
    top = max(logs)
    variates = [math.exp(log - top) for log in logs]
    total = math.fsum(variates)
    return [variate / total for variate in variates]


def _log_gamma_variate(alpha: float, uniforms: Iterator[float]) -> float:
    """Logarithm of a gamma variate of shape ``alpha`` and scale 1.

    Source: Marsaglia, Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000); below
    ``alpha = 1`` by their identity Gamma(alpha) = Gamma(alpha + 1) * U^(1 / alpha).
    """
    boost = 0.0
    if alpha < 1.0:
        boost = math.log(next(uniforms)) / alpha
        alpha += 1.0
    d = alpha - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        radius = math.sqrt(-2.0 * math.log(next(uniforms)))
        normal = radius * math.cos(2.0 * math.pi * next(uniforms))
        root = 1.0 + c * normal
        if root <= 0.0:
            continue
        v = root * root * root
        if math.log(next(uniforms)) < 0.5 * normal * normal + d * (1.0 - v + math.log(v)):
            return math.log(d) + math.log(v) + boost


def _largest_remainder(shares: list[float], total: int) -> list[int]:
    """Whole numbers in proportion to ``shares`` that add up to ``total``; ties go to the lower client."""
    quotas = [share * total for share in shares]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda client: counts[client] - quotas[client])
    for client in by_remainder[: total - sum(counts)]:
        counts[client] += 1
    return counts
