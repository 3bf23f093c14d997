"""Which training examples are whose: divided by a partition, or lying apart by client from the start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hiso_pl.federation.partition import Indices, Partition, Parts, partition_fingerprint


class Owner(NamedTuple):
    """What is told to all ranks of a client whose training examples lie apart; never an example.

    Attributes:
        source: Where they lie.
        examples: Their number.
        fingerprint: SHA-256 over them.
        alike: What must be the same of all clients, by name: columns, classes, tokenizer.
    """

    source: str
    examples: int
    fingerprint: str
    alike: Mapping[str, str]


class Hosted(Mapping[int, Indices]):
    """The examples of each client whose examples are here, by client.

    Args:
        clients: These clients.
        parts: The examples of each, in that order.
    """

    def __init__(self, clients: Sequence[int], parts: Parts) -> None:
        self.clients = clients
        self.parts = parts

    def __len__(self) -> int:
        return len(self.clients)

    def __iter__(self) -> Iterator[int]:
        return iter(self.clients)

    def __getitem__(self, client: int) -> Indices:
        if client not in self.clients:
            raise KeyError(client)
        return self.parts[self.clients.index(client)]


class Ownership(NamedTuple):
    """Which training examples are whose, as a rank knows it.

    Attributes:
        sizes: Training examples of each client, shape ``[M]``.
        hosted: The examples of each client whose examples are here, as positions among those that are.
        owners: What was told of each client, where their examples lie apart.
    """

    sizes: Indices
    hosted: Hosted
    owners: tuple[Owner, ...] = ()

    def fingerprints(self, train: Callable[[], str]) -> dict[str, str]:
        """Hashes of who owns how much and of the examples; of those that lie apart, by what was told of them.

        Args:
            train: The fingerprint of the training examples that are here.
        """
        if not self.owners:
            return {"partition": partition_fingerprint(self.hosted.parts), "train data": train()}
        prints = "\n".join(owner.fingerprint for owner in self.owners)
        return {
            "partition": partition_fingerprint(consecutive(self.sizes)),
            "train data": hashlib.sha256(prints.encode()).hexdigest(),
        }


def divided(values: Indices, partition: Partition, clients: int, seed: int) -> Ownership:
    """Divides the training examples by the attribute of each that the partition asks for.

    Raises:
        ValueError: If they cannot be divided so, or a client would own none.
    """
    parts = partition(values, clients, seed)
    if not parts.sizes.all():
        raise ValueError(
            f"client {parts.sizes.argmin()} owns no training example: partition's minimum={partition.minimum} "
            "must be at least 1"
        )
    return all_here(parts)


def all_here(parts: Parts) -> Ownership:
    """The ownership of clients whose examples are all here."""
    return Ownership(parts.sizes, Hosted(range(len(parts)), parts))


def apart(own: Mapping[int, Owner], told: Sequence[Mapping[int, Owner] | None], clients: int) -> Ownership:
    """Puts together what the ranks tell of clients whose examples lie apart, and compares what can be without them.

    Args:
        own: The clients whose examples are here, in the order in which they lie.
        told: The same of each rank; together they are all clients.
        clients: Number of clients M.

    Raises:
        ValueError: If a client is missing, two ranks hold other examples of one, or the clients are not alike; the
            same on all ranks.
    """
    found: dict[int, Owner] = {}
    for rank, owners in enumerate(told):
        if owners is None:
            raise ValueError(
                f"rank {rank} is to divide all examples, on other ranks they lie apart by client: must agree"
            )
        for client, owner in owners.items():
            if found.setdefault(client, owner) != owner:
                raise ValueError(
                    f"client {client}: rank {rank} finds other examples in {owner.source} than a lower rank"
                )
    if sorted(found) != list(range(clients)):
        raise ValueError(f"examples of clients {sorted(found)} are here, must be those of all clients={clients}")
    for client, owner in sorted(found.items()):
        for name, value in owner.alike.items():
            if value != found[0].alike[name]:
                raise ValueError(
                    f"client {client} ({owner.source}) has {name} {value}, but client 0 ({found[0].source}) has "
                    f"{found[0].alike[name]}: must be the same of all clients"
                )
    everybody = tuple(found[client] for client in sorted(found))
    sizes = np.array([owner.examples for owner in everybody], dtype=np.int64)
    return Ownership(sizes, Hosted(tuple(own), consecutive([owner.examples for owner in own.values()])), everybody)


def consecutive(sizes: Sequence[int] | Indices) -> Parts:
    """Parts of some sizes that lie end to end."""
    return Parts(range(int(np.sum(sizes))), np.asarray(sizes, dtype=np.int64))
