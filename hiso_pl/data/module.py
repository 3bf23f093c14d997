"""The data module of a federated run: it divides the training examples, and loads rounds and evaluation batches."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch.utils.data import DataLoader

from hiso_pl.data.examples import Batch, ExampleSet
from hiso_pl.data.prepared import PreparedData
from hiso_pl.data.rounds import DealtSampler, EvaluationBatches, Round, Rounds, RoundSampler, make_loader
from hiso_pl.federation.cohort import resolve_hosting
from hiso_pl.federation.partition import Partition
from hiso_pl.federation.presence import Availability, Speeds
from hiso_pl.federation.presence.attendance import Presence, check_presence
from hiso_pl.zeroth_order.philox import check_seed


class FederatedDataModule(PreparedData):
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
    """

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

    def _evaluation(self, examples: ExampleSet) -> DataLoader[Batch]:
        batches = EvaluationBatches(examples, self.eval_batch_size)
        return make_loader(batches, DealtSampler(len(batches), *self._place()), self.num_workers)
