"""The data of rounds and of evaluations, addressed by number: what the loaders of a data module iterate over.

A round's data is a pure function of (seed, round, local step), and an evaluation batch of its number. So resuming,
or changing the number of ranks, needs no loader state. Minibatches that are drawn in secret are the exception: nobody
can draw them again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from hiso_pl.data.examples import Batch, ExampleSet
from hiso_pl.federation.batches import draw_batch, draw_epoch, draw_secret_batch
from hiso_pl.federation.cohort import own_slots, shared_slot
from hiso_pl.federation.presence.attendance import Attendance, Presence
from hiso_pl.zeroth_order.attack import Attack
from hiso_pl.zeroth_order.interfaces import Slots


class Round(NamedTuple):
    """What one rank needs for one round.

    Attributes:
        index: The round r.
        slots: The cohort, and which of its slots are evaluated here.
        batches: The minibatch of each own slot and local step, ``batches[own slot][k]``; empty without own slots. One
            that has no examples is empty.
        local_steps: The local steps tau that there are minibatches for.
        attendance: Who of the cohort answers; None where everybody does.
    """

    index: int  # type: ignore[assignment]  # nobody searches a round as a tuple
    slots: Slots
    batches: list[list[Batch]]
    local_steps: int
    attendance: Attendance | None = None


@dataclass(eq=False)
class Rounds(Dataset[Round]):
    """The rounds of a run as one rank sees them, addressed by number and without an end.

    Args:
        examples: The training examples.
        sizes: Examples each client owns.
        hosted: The examples of the clients this rank may evaluate, by client. Under fixed hosting that is one
            client, and nothing here could reach another's examples.
        hosting: The resolved hosting.
        rank: This rank.
        world: Number of ranks.
        seed: The run's seed.
        presence: Cohorts, and who of them answers.
        batch_size: Examples in a minibatch.
        local_steps: Local steps tau.
        local_epochs: Passes over a client's own examples in place of local steps; 0 for none.
        in_secret: Whether examples enter minibatches each for itself, by no seed.
        sharing: Whether ranks beyond the number of slots help with the slots' probes.
        attack: What hostile clients take their labels for, where they flip them.
    """

    examples: ExampleSet
    sizes: NDArray[np.int64]
    hosted: Mapping[int, NDArray[np.int64]]
    hosting: Literal["fixed", "dealt"]
    rank: int
    world: int
    seed: int
    presence: Presence
    batch_size: int
    local_steps: int
    local_epochs: int
    in_secret: bool
    sharing: bool
    attack: Attack | None = None

    def __getitem__(self, index: int) -> Round:
        """Draws the cohort of round ``index`` and collates the minibatches of this rank's slots."""
        attendance = self.presence.attendance(index)
        clients, absent = attendance.clients, attendance.absent
        present = [slot for slot in range(len(clients)) if slot not in absent]
        shares: tuple[tuple[int, int], ...] = ()
        own: tuple[int, ...]
        if self.sharing and self.hosting == "dealt" and present and self.world > len(present):
            place, share = shared_slot(len(present), index, self.rank, self.world)
            own, shares = (present[place],), (share,)
        else:
            own = own_slots(self.hosting, clients, index, self.rank, self.world, absent)
        weights = tuple(float(self.sizes[client]) for client in clients)
        steps: tuple[int, ...] = ()
        if self.local_epochs:
            steps = tuple(self.local_epochs * -(-int(self.sizes[client]) // self.batch_size) for client in clients)
        expected = tuple(min(weight, float(self.batch_size)) for weight in weights) if self.in_secret else ()
        batches = [[self._collated(part) for part in self._drawn(clients[slot], index)] for slot in own]
        slots = Slots(len(clients), own, clients, weights, shares, len(self.sizes), steps, absent, expected)
        if self.attack is not None:
            hostile = self.attack.among(clients, self.seed, slots.population, index)
            batches = [
                [self._flipped(batch) for batch in minibatches] if hostile[slot] else minibatches
                for slot, minibatches in zip(own, batches, strict=True)
            ]
        return Round(index, slots, batches, self.local_steps, attendance if self.presence.simulated else None)

    def _collated(self, part: NDArray[np.int64]) -> Batch:
        return self.examples.collate(part) if len(part) else {}

    def _drawn(self, client: int, index: int) -> Iterator[NDArray[np.int64]]:
        """The examples of a client's minibatches, in order."""
        part = self.hosted[client]
        if self.in_secret:
            yield part[draw_secret_batch(len(part), self.batch_size)]
            return
        for k in range(self.local_steps if not self.local_epochs else 0):
            yield part[draw_batch(self.seed, client, index, k, len(part), self.batch_size)]
        for epoch in range(self.local_epochs):
            for batch in draw_epoch(self.seed, client, index, epoch, len(part), self.batch_size):
                yield part[batch]

    def _flipped(self, batch: Batch) -> Batch:
        """A minibatch with the labels that a hostile client takes its own for."""
        assert self.attack is not None
        if not batch:
            return batch
        labels = self.attack.labels(batch["label"].numpy(), len(self.examples.classes))
        return {**batch, "label": torch.from_numpy(labels)}


class RoundSampler(Sampler[int]):
    """Counts rounds from ``first`` on, for ever; it has no length, so that Lightning compares none between ranks.

    Args:
        first: The round to begin with.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        """Yields ``first``, ``first + 1``, and so on."""
        return itertools.count(self.first)


class EvaluationBatches(Dataset[Batch]):
    """A split cut into batches of consecutive examples; the cut knows nothing of ranks.

    Args:
        examples: The split.
        batch_size: Examples in a batch; the last may have fewer.
    """

    def __init__(self, examples: ExampleSet, batch_size: int) -> None:
        self.examples = examples
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.examples) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        """Collates batch ``number`` and adds ``index``, the examples' positions in the split."""
        first = number * self.batch_size
        indices = np.arange(first, min(first + self.batch_size, len(self.examples)), dtype=np.int64)
        try:
            batch = self.examples.collate(indices)
        except StopIteration as error:  # which the loader would take for the end of the split
            raise RuntimeError(f"StopIteration was let out by the examples of batch {number}") from error
        return {**batch, "index": torch.from_numpy(indices)}


class DealtSampler(Sampler[int]):
    """Deals whole batches over the ranks: batch b goes to rank ``b % world``.

    Args:
        batches: Batches of the split.
        rank: This rank.
        world: Number of ranks.
    """

    def __init__(self, batches: int, rank: int, world: int) -> None:
        self.turns = range(rank, batches, world)
        self.everybody = batches >= world

    def __iter__(self) -> Iterator[int]:
        """Yields this rank's batches, ascending."""
        return iter(self.turns)

    def __len__(self) -> int:
        """This rank's number of batches.

        Raises:
            TypeError: If some rank has none: Lightning refuses or skips a loader of length 0, and then the ranks'
                collectives no longer match, but it runs a loader without a length to its end, be that at once.
        """
        if not self.everybody:
            raise TypeError("no length, as there are fewer batches than ranks")
        return len(self.turns)


def make_loader(dataset: Dataset[Any], sampler: Sampler[int], workers: int) -> DataLoader[Any]:
    """A loader of items that are batches already.

    Args:
        dataset: The items.
        sampler: Their order.
        workers: Processes that load beside this one; 0 loads in this one.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_as_is,
        # A loader draws a number each time it starts; from its own generator, not from the model's.
        generator=torch.Generator(),
    )


def _as_is(item: Any) -> Any:
    """The loader's own conversion would turn the tuples of a round into lists."""
    return item
