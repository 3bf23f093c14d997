"""What a data module does before its first round: it loads a task's examples, and divides them among clients."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Literal

from lightning.pytorch import LightningDataModule

from hiso_pl.data.agreement import compare_resumed, tell, together
from hiso_pl.data.class_order import check_flipping, in_the_models_order
from hiso_pl.data.examples import ExampleSet, Splits, check_splits
from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.ownership import Ownership, all_here, apart, divided
from hiso_pl.federation.cohort import resolve_hosting
from hiso_pl.federation.partition import IID, Partition, Parts
from hiso_pl.federation.presence import Availability, Speeds
from hiso_pl.federation.presence.attendance import Presence
from hiso_pl.lightning_privates import deals_again

logger = logging.getLogger(__name__)

NOTHING_TOLD = ModelFacts()


class PreparedData(LightningDataModule, ABC):
    """Examples that are loaded and divided, the same on every rank; what fails on one fails on all.

    Attributes:
        clients: Number of clients.
        partition: How the training examples are divided.
        hosting: How clients live on ranks.
        spare_ranks: What ranks do that a dealt cohort leaves without a slot.
        seed: The run's seed.
        availability: Which clients are there in a round.
        deadline: Seconds after which a client's answer is not waited for.
        speeds: How fast clients compute and send.
        facts: What was told of the model.
        splits: The examples.
        ownership: Which training examples are whose.
        parts: The positions of each client's training examples; there only where all clients' are here.
    """

    clients: int
    partition: Partition | None
    hosting: Literal["auto", "fixed", "dealt"]
    spare_ranks: Literal["auto", "idle", "help"]
    seed: int
    availability: Availability | None
    deadline: float | None
    speeds: Speeds | None
    splits: Splits
    ownership: Ownership
    parts: Parts
    facts = NOTHING_TOLD

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._failure: Exception | None = None
        # Lightning calls it on one rank of a machine; should it fail there, the others would wait for that rank
        self.prepare_data = partial(self._prepare, self.prepare_data)  # type: ignore[method-assign]

    @abstractmethod
    def load(self) -> Splits:
        """Reads the task's examples; the same ones, in the same order, on every rank.

        Where training examples lie apart by client, those of :attr:`own_clients` are read, one client's after
        another's, and their ``owners`` says which are whose; then no partition is made, nor where none is asked for
        and their ``parts`` says so.
        """

    def take(self, facts: ModelFacts) -> None:
        """Takes what must be known of the model; once, before anything is loaded.

        Raises:
            ValueError: If the data were loaded by other facts, or an option does not go with them.
        """
        if self._begun and facts != self.facts:
            raise ValueError("data were prepared for another model, or for none: take() must come before setup()")
        if facts.undivided and self.spare_ranks == "help":
            raise ValueError(
                f"spare_ranks='help' must be idle or auto: with {facts.undivided} a slot is one rank's work"
            )
        if facts.withholds_losses and self.spare_ranks == "help":
            raise ValueError(
                "spare_ranks='help' must be idle or auto: it sends raw losses, and the method's privacy or transform "
                "is to decide what leaves a client"
            )
        facts.check_hostile(self.clients, self.seed)
        self.facts = facts

    @property
    def own_clients(self) -> Sequence[int]:
        """The clients whose examples this rank may open where they lie apart: its own if hosting is fixed, else all."""
        rank, world = self._place()
        return (rank,) if self.hosting != "dealt" and world == self.clients else range(self.clients)

    def setup(self, stage: str | None = None) -> None:
        """Loads and partitions once, and checks all that the rounds will rely on.

        Raises:
            ValueError: If ranks, clients and examples do not fit each other, or another rank failed at it.
        """
        self._begun, loaded = True, hasattr(self, "splits")
        failure, self._failure = self._failure, None
        with together():
            if failure is not None:
                raise failure
            if stage in (None, "fit"):
                resolve_hosting(self.hosting, self.clients, self._place()[1])
            if self.trainer is not None and deals_again(self.trainer):
                raise ValueError(
                    "trainer.use_distributed_sampler=True must be false: rounds are dealt to ranks already"
                )
        with together():  # what one rank could not prepare the others need not look for
            if not loaded:
                splits = self.load()
                check_splits(splits)
                in_the_models_order(splits, self.facts)
                check_flipping(self.facts, len(splits.train.classes))
                if splits.train.owners is None:
                    self.ownership = self._divided(splits.train)
        if not loaded:
            told = tell(splits.train.owners)
            if any(owners is not None for owners in told):
                self.ownership = apart(splits.train.owners or {}, told, self.clients)
            if len(self.ownership.hosted) == self.clients:
                self.parts = self.ownership.hosted.parts
            self.splits = splits
        if stage in (None, "fit") and (self.availability is not None or self.speeds is not None):
            with together():
                self._check_presence()

    @abstractmethod
    def presence(self) -> Presence:
        """Who answers in the rounds of the run."""

    def _check_presence(self) -> None:
        first, rounds = getattr(self.trainer, "global_step", 0), getattr(self.trainer, "max_steps", 0)
        meet = self.presence().check(range(first, max(rounds, first)))
        if meet is not None and meet < self.clients:
            logger.info(
                "deadline=%g s is met by %d of %d clients in round %d.", self.deadline, meet, self.clients, first
            )

    def fingerprints(self) -> dict[str, str]:
        """Hashes by which ranks see, before round 0, that they hold the same data, and a resumed run that it does."""
        return dict(self._prints)

    @cached_property
    def _prints(self) -> dict[str, str]:
        train, val, test = self.splits
        seen = "" if self.availability is None else self.availability.fingerprint()
        read = {"availability": seen} if seen else {}
        evaluated = {"validation data": val} | ({} if test is None else {"test data": test})
        return self.ownership.fingerprints(train.fingerprint) | {
            **{name: split.fingerprint() for name, split in evaluated.items()},
            **read,
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the data: their fingerprints."""
        return self.fingerprints() if hasattr(self, "splits") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares the data with those of the run that a fit goes on with.

        Raises:
            ValueError: If they are others, and a change of data was not asked for.
        """
        if self.trainer is not None and self.trainer.state.fn == "fit":
            compare_resumed(state_dict, self.fingerprints(), self.facts.data_may_change)

    def _divided(self, examples: ExampleSet) -> Ownership:
        """Which examples are whose, where all of them are here."""
        if self.partition is None and examples.parts is not None:
            return all_here(examples.parts)
        partition = IID() if self.partition is None else self.partition
        return divided(examples.attribute(partition.attribute), partition, self.clients, self.seed)

    def _prepare(self, prepare_data: Callable[[], None]) -> None:
        """Prepares the data, and keeps an error for the moment when all ranks can hear of it."""
        self._begun = True
        try:
            prepare_data()
        except Exception as error:
            if getattr(self.trainer, "world_size", 1) == 1:
                raise
            self._failure = error

    def _place(self) -> tuple[int, int]:
        """This process's rank and the number of ranks; one rank where no trainer is attached.

        Ranks that hold a network together count as one.
        """
        rank, world = getattr(self.trainer, "global_rank", 0), getattr(self.trainer, "world_size", 1)
        return rank // self.facts.ranks, max(1, world // self.facts.ranks)
