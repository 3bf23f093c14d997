"""Partitions: which client owns which training examples.

A partition is a pure function of a number for each example (its label, its length or its owner), the number of clients
and the seed, and the same on every machine: its randomness is the package's own integers, and its few logarithms are
taken one number at a time by ``math``, whose results do not depend on the width of a processor's vector units.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.philox import Draws, Purpose

Indices = NDArray[np.int64]

# The third index of a partition's streams: one stream for each thing that is drawn.
_SHUFFLE, _SHARES, _MOVES, _SHARDS, _OWNERS = range(5)


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

    @property
    def attribute(self) -> str:
        """What it divides by: "label", "length", or "column:NAME" for a column of the data."""
        return "label"

    def __call__(self, values: Indices, clients: int, seed: int) -> list[Indices]:
        """Divides the examples.

        Args:
            values: The :attr:`attribute` of each example, shape ``[N]``.
            clients: Number of clients M.
            seed: The run's seed.

        Returns:
            For each client the indices of its examples, ascending. They are disjoint, and together complete.

        Raises:
            ValueError: If there are too few examples for so many clients.
        """
        values = np.asarray(values, dtype=np.int64)
        if values.ndim != 1:
            raise ValueError(f"values of shape {list(values.shape)} must have one dimension")
        if clients < 1:
            raise ValueError(f"clients={clients} must be at least 1")
        if clients * self.minimum > len(values):
            raise ValueError(
                f"minimum={self.minimum} examples for each of clients={clients} needs {clients * self.minimum} "
                f"training examples, but there are only {len(values)}"
            )
        parts = [np.sort(part) for part in self.deal(values, clients, seed)]
        return self.meet_minimum(parts, seed)

    @abstractmethod
    def deal(self, values: Indices, clients: int, seed: int) -> list[Indices]:
        """Divides the examples with no regard to the minimum, in any order within a client."""

    def meet_minimum(self, parts: list[Indices], seed: int) -> list[Indices]:
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

    def deal(self, values: Indices, clients: int, seed: int) -> list[Indices]:
        """See :class:`Partition`."""
        order = Draws(seed, Purpose.PARTITION, k=_SHUFFLE).permutation(len(values))
        return np.array_split(order, clients)


class Dirichlet(Partition):
    r"""Each group's examples are divided by shares drawn from a symmetric Dirichlet distribution.

    .. math:: (q_{c,1}, \dots, q_{c,M}) \sim \mathrm{Dir}(\alpha, \dots, \alpha) \quad \text{for every group } c

    A group is the examples of a label or, for tasks that have no labels, those of like length.

    Source: Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for federated visual
    classification", arXiv 1909.06335.

    Args:
        alpha: Concentration. A small one gives each group to few clients, a large one makes the clients alike.
        minimum: Fewest examples a client may own.
        by: What the groups are made of. label: the examples of a label are a group. length: the examples are cut by
            their number of tokens into groups of about equal size.
        bins: Number of groups by length; fewer where many examples have the same length.
    """

    def __init__(
        self, alpha: float = 1.0, minimum: int = 1, by: Literal["label", "length"] = "label", bins: int = 10
    ) -> None:
        super().__init__(minimum)
        if not 1e-6 <= alpha <= 1e6:
            raise ValueError(f"alpha={alpha} must be positive, in [1e-6, 1e6]")
        if by not in ("label", "length"):
            raise ValueError(f"by={by!r} must be one of label, length")
        if bins < 1:
            raise ValueError(f"bins={bins} must be at least 1")
        self.alpha = alpha
        self.by = by
        self.bins = bins

    @property
    def attribute(self) -> str:
        """See :class:`Partition`."""
        return self.by

    def deal(self, values: Indices, clients: int, seed: int) -> list[Indices]:
        """See :class:`Partition`."""
        groups = quantile_bins(values, self.bins) if self.by == "length" else values
        pieces: list[list[Indices]] = [[] for _ in range(clients)]
        for number, group in enumerate(np.unique(groups)):
            members = np.flatnonzero(groups == group)
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

    def deal(self, values: Indices, clients: int, seed: int) -> list[Indices]:
        """See :class:`Partition`."""
        total = clients * self.shards
        if total > len(values):
            raise ValueError(
                f"shards={self.shards} for each of clients={clients} needs {total} training examples, "
                f"but there are only {len(values)}"
            )
        order = Draws(seed, Purpose.PARTITION, k=_SHUFFLE).permutation(len(values))
        by_label = order[np.argsort(values[order], kind="stable")]
        shards = np.array_split(by_label, total)
        dealt = Draws(seed, Purpose.PARTITION, k=_SHARDS).permutation(total).reshape(clients, self.shards)
        return [np.concatenate([shards[shard] for shard in own]) for own in dealt]


class ByColumn(Partition):
    """Natural clients: the examples that share a value of a column have one owner.

    With as many values as clients, client i owns the i-th value in sorted order. With more, whole values are dealt, the
    one with most examples first, each to the client that owns the fewest so far; equals come in an order that is drawn.

    Args:
        column: The column whose values are the owners, such as an author, a device or a site.
        minimum: Fewest examples a client may own. Examples never leave their natural client, so too few are an error.
    """

    def __init__(self, column: str, minimum: int = 1) -> None:
        super().__init__(minimum)
        if not column:
            raise ValueError(f"column={column!r} must be the name of a column")
        self.column = column

    @property
    def attribute(self) -> str:
        """See :class:`Partition`."""
        return f"column:{self.column}"

    def deal(self, values: Indices, clients: int, seed: int) -> list[Indices]:
        """See :class:`Partition`.

        Raises:
            ValueError: If there are fewer values than clients.
        """
        distinct, sizes = np.unique(values, return_counts=True)
        if len(distinct) < clients:
            raise ValueError(
                f"clients={clients} must be at most {len(distinct)}, "
                f"the number of values of column={self.column!r} among the training examples"
            )
        owner = np.arange(clients) if len(distinct) == clients else _deal_whole(sizes, clients, seed)
        owners = owner[np.searchsorted(distinct, values)]  # [N]
        return [np.flatnonzero(owners == client) for client in range(clients)]

    def meet_minimum(self, parts: list[Indices], seed: int) -> list[Indices]:
        """Moves nothing.

        Raises:
            ValueError: If a client owns too few examples.
        """
        poorest = min(range(len(parts)), key=lambda client: len(parts[client]))
        if len(parts[poorest]) < self.minimum:
            raise ValueError(
                f"minimum={self.minimum} must be at most {len(parts[poorest])}, the examples of client {poorest}: "
                f"none are moved between the owners of column={self.column!r}, but fewer clients own more each"
            )
        return parts


def quantile_bins(values: Indices, bins: int) -> Indices:
    r"""The quantile bin of each number, by whole numbers alone; equal numbers share a bin.

    .. math:: \mathrm{bin}(v) = \left\lfloor \frac{\text{bins} \cdot |\{i : v_i < v\}|}{N} \right\rfloor

    Args:
        values: Numbers, shape ``[N]``.
        bins: Number of bins; one that would begin inside a run of equal numbers stays empty.

    Returns:
        Bins in ``range(bins)``, shape ``[N]``.
    """
    return np.searchsorted(np.sort(values), values, side="left").astype(np.int64) * bins // max(1, len(values))


def partition_fingerprint(parts: list[Indices]) -> str:
    """SHA-256 over the number of clients, each client's number of examples, and its indices, as ``<i8``."""
    digest = hashlib.sha256(np.array([len(parts), *(len(part) for part in parts)], dtype="<i8").tobytes())
    for part in parts:
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()


def label_counts(parts: list[Indices], labels: Indices, classes: int) -> Indices:
    """How many examples of each label each client owns, shape ``[M, C]``."""
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts]).astype(np.int64)


def _deal_whole(sizes: Indices, clients: int, seed: int) -> Indices:
    """The client that each value goes to, shape ``[V]``: largest value to emptiest client, ties by draw."""
    order = Draws(seed, Purpose.PARTITION, k=_OWNERS).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    drawn = Draws(seed, Purpose.PARTITION, owner=1, k=_OWNERS).permutation(clients)
    heap = [(0, place, client) for place, client in enumerate(drawn.tolist())]  # ascending, so it is a heap
    owner = np.empty(len(sizes), dtype=np.int64)
    for value in order.tolist():
        held, place, client = heap[0]
        owner[value] = client
        heapq.heapreplace(heap, (held + int(sizes[value]), place, client))
    return owner


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
