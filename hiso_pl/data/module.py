"""The data module of a federated run: it divides the training examples, and loads rounds and evaluation batches."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from hiso_pl.data.agreement import compare_resumed, tell, together
from hiso_pl.data.class_order import check_flipping, in_the_models_order
from hiso_pl.data.examples import Batch, ExampleSet, Splits, check_splits
from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.ownership import Ownership, all_here, apart, divided
from hiso_pl.data.rounds import DealtSampler, EvaluationBatches, Round, Rounds, RoundSampler, make_loader
from hiso_pl.federation.cohort import resolve_hosting
from hiso_pl.federation.partition import IID, Partition, Parts
from hiso_pl.federation.presence import Availability, Speeds
from hiso_pl.federation.presence.attendance import Presence, check_presence
from hiso_pl.lightning_privates import deals_again
from hiso_pl.zeroth_order.philox import check_seed

logger = logging.getLogger(__name__)

NOTHING_TOLD = ModelFacts()


class FederatedDataModule(LightningDataModule, ABC):
    """Divides a task's training examples among clients, and loads rounds and evaluation batches.

    A task derives from it and says what its examples are, in :meth:`load`. What one process must do before the others
    read, such as a download, goes into ``prepare_data``. What either raises on one rank, every rank raises.

    What it must know of the model is handed over: the program does so, a script with a trainer of its own by a line::

        data.take(facts_of(module))
        trainer.fit(module, data)

    Args:
        clients: Number of clients, each the owner of one part of the training examples.
        cohort: Clients sampled for a round.
        batch_size: Examples in a minibatch; a client that owns fewer uses all of them. Where each example is private,
            those that it has on average.
        eval_batch_size: Examples in a batch of validation, test and prediction.
        partition: How the training examples are divided; None is at random, hiso_pl.federation.IID, unless they come
            divided already.
        hosting: How clients live on ranks. fixed: each rank is one client and trains on its examples only. It reads
            all examples to divide them; where each client has a file of its own it opens no other's. dealt: the slots
            of a round are dealt over the ranks anew each round, so every rank reads all. auto: fixed with as many
            ranks as clients.
        spare_ranks: What ranks do that a dealt cohort leaves without a slot. help: they take a share of the slots'
            probes; then losses travel instead of scalars, and every further local step takes an exchange of its own.
            idle: they wait. auto: help with one local step, idle with more, and where the method makes scalars private
            or transforms them, since raw losses would pass that by. The result is the same to the bit.
        seed: Seed of the partition, the cohorts and the minibatches; the run's seed.
        availability: Which clients are there in a round: Fraction, DayAndNight or Trace; all if null. A cohort is
            sampled among those.
        dropout: Probability that a client of a cohort does not answer in a round, below 1.
        deadline: Seconds of the simulated clock after which a client's answer is not waited for; null waits for all.
        speeds: How fast clients compute and send: LogNormal; null for no simulated clock.
        num_workers: Processes that load data beside each rank; 0 loads in the rank itself.

    Attributes:
        facts: What was told of the model.
        ownership: Which training examples are whose.
        parts: The positions of each client's training examples; there only where all clients' are here.
    """

    splits: Splits
    ownership: Ownership
    parts: Parts
    facts = NOTHING_TOLD

    def __init__(
        self,
        clients: int = 8,
        cohort: int = 4,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        partition: Partition | None = None,
        hosting: Literal["auto", "fixed", "dealt"] = "auto",
        spare_ranks: Literal["auto", "idle", "help"] = "auto",
        seed: int = 0,
        num_workers: int = 0,
        availability: Availability | None = None,
        dropout: float = 0.0,
        deadline: float | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        super().__init__()
        at_least = {"clients": (clients, 1), "batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1)}
        for name, (value, least) in {**at_least, "num_workers": (num_workers, 0)}.items():
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if not 1 <= cohort <= clients:
            raise ValueError(f"cohort={cohort} must be in [1, clients={clients}]")
        words = {"hosting": (hosting, "auto, fixed, dealt"), "spare_ranks": (spare_ranks, "auto, idle, help")}
        for name, (word, known) in words.items():
            if word not in known.split(", "):
                raise ValueError(f"{name}={word!r} must be one of {known}")
        self.clients = clients
        self.cohort = cohort
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.partition = partition
        self.hosting = hosting
        self.spare_ranks = spare_ranks
        self.seed = check_seed(seed)
        self.num_workers = num_workers
        check_presence(dropout, deadline, speeds)
        self.availability = availability
        self.dropout = dropout
        self.deadline = deadline
        self.speeds = speeds
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

    def train_dataloader(self) -> DataLoader[Round]:
        """The rounds from the trainer's on, without an end."""
        rank, world = self._place()
        hosting = resolve_hosting(self.hosting, self.clients, world)
        facts, hosted = self.facts, self.ownership.hosted
        rounds = Rounds(
            self.splits.train,
            sizes=self.ownership.sizes,
            hosted={rank: hosted[rank]} if hosting == "fixed" else hosted,
            hosting=hosting,
            rank=rank,
            world=world,
            seed=self.seed,
            presence=self.presence(),
            batch_size=self.batch_size,
            local_steps=facts.local_steps,
            local_epochs=facts.local_epochs,
            in_secret=facts.per_example,
            sharing=self.spare_ranks == "help" or (self.spare_ranks == "auto" and facts.divisible),
            attack=facts.flipping,
        )
        # global_step is restored before this is called, so a resumed run begins at its next round.
        return make_loader(rounds, RoundSampler(getattr(self.trainer, "global_step", 0)), self.num_workers)

    def presence(self) -> Presence:
        """Who answers in the rounds of the run; to be asked for once the examples are divided.

        Raises:
            ValueError: If clients are to take time, and nobody has told of the model.
        """
        facts, rounds = self.facts, getattr(self.trainer, "max_steps", 0)
        method = facts.method.over(rounds) if facts.method is not None and rounds > 0 else facts.method
        return Presence(
            self.seed,
            np.asarray(self.ownership.sizes),
            self.cohort,
            self.batch_size,
            self.availability,
            self.dropout,
            self.deadline,
            self.speeds,
            method,
            facts.trained,
        )

    def _check_presence(self) -> None:
        first, rounds = getattr(self.trainer, "global_step", 0), getattr(self.trainer, "max_steps", 0)
        meet = self.presence().check(range(first, max(rounds, first)))
        if meet is not None and meet < self.clients:
            logger.info(
                "deadline=%g s is met by %d of %d clients in round %d.", self.deadline, meet, self.clients, first
            )

    def val_dataloader(self) -> DataLoader[Batch]:
        """This rank's batches of the validation split."""
        return self._evaluation(self.splits.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """This rank's batches of the test split.

        Raises:
            ValueError: If the task has none.
        """
        if self.splits.test is None:
            raise ValueError("there is no test split: run validate, or give the data module test examples")
        return self._evaluation(self.splits.test)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """This rank's batches of the test split, or of the validation split if there is no other."""
        return self._evaluation(self.splits.val if self.splits.test is None else self.splits.test)

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

    def _evaluation(self, examples: ExampleSet) -> DataLoader[Batch]:
        batches = EvaluationBatches(examples, self.eval_batch_size)
        return make_loader(batches, DealtSampler(len(batches), *self._place()), self.num_workers)
