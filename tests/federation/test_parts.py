"""Parts: who owns what without an object a client, the same to the bit as lists of arrays would have it."""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from hiso_pl.federation.partition import (
    IID,
    ByColumn,
    Dirichlet,
    LabelShards,
    Partition,
    Parts,
    label_counts,
    partition_fingerprint,
)
from hiso_pl.federation.partition.base import SHARDS, SHARES, SHUFFLE
from hiso_pl.federation.partition.dirichlet import _largest_remainder, _shares, _uniforms
from hiso_pl.zeroth_order.philox import Draws, Purpose

SEED = 20261120
Lists = list[np.ndarray]


def plain_iid(values: np.ndarray, clients: int) -> Lists:
    return np.array_split(Draws(SEED, Purpose.PARTITION, k=SHUFFLE).permutation(len(values)), clients)


def plain_shards(values: np.ndarray, clients: int) -> Lists:
    order = Draws(SEED, Purpose.PARTITION, k=SHUFFLE).permutation(len(values))
    shards = np.array_split(order[np.argsort(values[order], kind="stable")], 2 * clients)
    dealt = Draws(SEED, Purpose.PARTITION, k=SHARDS).permutation(2 * clients).reshape(clients, 2)
    return [np.concatenate([shards[shard] for shard in own]) for own in dealt]


def plain_dirichlet(values: np.ndarray, clients: int) -> Lists:
    pieces: list[Lists] = [[] for _ in range(clients)]
    for number, label in enumerate(np.unique(values)):
        order = Draws(SEED, Purpose.PARTITION, owner=number, k=SHUFFLE).permutation(int((values == label).sum()))
        shares = _shares(0.3, clients, _uniforms(Draws(SEED, Purpose.PARTITION, owner=number, k=SHARES)))
        cuts = np.cumsum(_largest_remainder(shares, len(order)))[:-1]
        for client, piece in enumerate(np.split(np.flatnonzero(values == label)[order], cuts)):
            pieces[client].append(piece)
    return [np.concatenate(own) for own in pieces]


def plain_column(values: np.ndarray, clients: int) -> Lists:
    return [np.flatnonzero(values == value) for value in np.unique(values)]


def plain_fingerprint(parts: Lists) -> str:
    digest = hashlib.sha256(np.array([len(parts), *map(len, parts)], dtype="<i8").tobytes())
    for part in parts:
        digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("partition", "plainly"),
    [
        (IID(0), plain_iid),
        (LabelShards(2, 0), plain_shards),
        (Dirichlet(0.3, 0), plain_dirichlet),
        (ByColumn("owner", 0), plain_column),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
@pytest.mark.parametrize("clients", [1, 7, 40])
def test_a_partition_is_what_it_is_by_a_loop_over_the_clients(
    partition: Partition, plainly: Callable[[np.ndarray, int], Lists], clients: int
) -> None:
    values = np.arange(403) * 7919 % (clients if isinstance(partition, ByColumn) else 5)
    found, expected = partition(values, clients, SEED), [np.sort(part) for part in plainly(values, clients)]
    assert list(map(list, found)) == list(map(list, expected))
    assert found.sizes.tolist() == list(map(len, expected))
    assert partition_fingerprint(found) == partition_fingerprint(list(found)) == plain_fingerprint(expected)
    counts = [np.bincount(values[part], minlength=50) for part in expected]
    assert np.array_equal(label_counts(found, values, 50), np.stack(counts))


def test_parts_are_a_sequence_of_arrays() -> None:
    parts = Parts.of([np.array([4, 2]), np.array([], dtype=np.int64), np.array([0, 1, 3])])
    assert [part.tolist() for part in parts] == [[4, 2], [], [0, 1, 3]]
    assert (len(parts), parts[-1].tolist(), [part.tolist() for part in parts[1:]]) == (3, [0, 1, 3], [[], [0, 1, 3]])
    assert parts.owners().tolist() == [2, 2, 0, 2, 0]
    assert parts[2].dtype == np.int64
    with pytest.raises(IndexError):
        parts[3]
    end_to_end = Parts(range(5), np.array([2, 0, 3]))
    assert [part.tolist() for part in end_to_end] == [[0, 1], [], [2, 3, 4]]
    assert partition_fingerprint(end_to_end) == partition_fingerprint(list(end_to_end))
    with pytest.raises(ValueError, match=r"^sizes that add up to 4 must add up to 5, the number of examples$"):
        Parts(np.arange(5), np.array([2, 2]))


@pytest.mark.parametrize("partition", [IID(), LabelShards(1), ByColumn("owner")], ids=lambda each: type(each).__name__)
def test_a_hundred_thousand_clients_take_a_second_and_megabytes(partition: Partition) -> None:
    clients = 100_000
    values = np.random.default_rng(0).permutation(clients)
    tracemalloc.start()
    start = time.process_time()
    parts = partition(values, clients, SEED)
    print_ = partition_fingerprint(parts)
    seconds = time.process_time() - start
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(print_) == 64
    assert parts.sizes.tolist() == [1] * clients
    assert held < 4e6  # 24 bytes a client; an array of its own takes 130
    assert peak < 12e6
    assert seconds < 3.0  # 0.05 on an idle core
