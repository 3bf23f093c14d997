"""The data module of a federated run: it divides the training examples, and loads rounds and evaluation batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from hiso_pl.data.examples import Batch, ExampleSet, Splits
from hiso_pl.data.rounds import DealtSampler, EvaluationBatches, Round, Rounds, RoundSampler
from hiso_pl.federation.cohort import resolve_hosting
from hiso_pl.federation.partition import IID, Indices, Partition, partition_fingerprint
from hiso_pl.zeroth_order.philox import check_seed

__all__ = ["FederatedDataModule", "Round"]


class FederatedDataModule(LightningDataModule, ABC):
    """Divides a task's training examples among clients, and loads rounds and evaluation batches.

    A task derives from it and says what its examples are, in :meth:`load`. What one process must do before the others
    read, such as a download, goes into ``prepare_data``; where that fails, every rank raises the error.

    Args:
        clients: Number of clients, each the owner of one part of the training examples.
        cohort: Clients sampled for a round.
        batch_size: Examples in a minibatch; a client that owns fewer uses all of them.
        eval_batch_size: Examples in a batch of validation, test and prediction.
        partition: How the training examples are divided.
        hosting: How clients live on ranks. fixed: each rank is one client, and opens no other's examples. dealt: the
            slots of a round are dealt over the ranks anew each round. auto: fixed with as many ranks as clients.
        spare_ranks: What ranks do that a dealt cohort leaves without a slot. help: they take a share of the slots'
            probes; then losses travel instead of scalars, and every further local step takes an exchange of its own.
            idle: they wait. auto: help with one local step, idle with more. The result is the same to the bit.
        seed: Seed of the partition, the cohorts and the minibatches; the run's seed.
        num_workers: Processes that load data beside each rank; 0 loads in the rank itself.
    """

    splits: Splits
    parts: list[Indices]
    client_sizes: tuple[int, ...]

    def __init__(
        self,
        clients: int = 8,
        cohort: int = 4,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        partition: Partition = IID(),  # noqa: B008 - it holds nothing that changes, and the CLI can show its options
        hosting: Literal["auto", "fixed", "dealt"] = "auto",
        spare_ranks: Literal["auto", "idle", "help"] = "auto",
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        at_least = {"clients": (clients, 1), "batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1)}
        for name, (value, least) in {**at_least, "num_workers": (num_workers, 0)}.items():
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if not 1 <= cohort <= clients:
            raise ValueError(f"cohort={cohort} must be in [1, clients={clients}]")
        if hosting not in ("auto", "fixed", "dealt"):
            raise ValueError(f"hosting={hosting!r} must be one of auto, fixed, dealt")
        if spare_ranks not in ("auto", "idle", "help"):
            raise ValueError(f"spare_ranks={spare_ranks!r} must be one of auto, idle, help")
        self.clients = clients
        self.cohort = cohort
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.partition = partition
        self.hosting = hosting
        self.spare_ranks = spare_ranks
        self.seed = check_seed(seed)
        self.num_workers = num_workers
        self._failure: Exception | None = None
        self._prepares = type(self).prepare_data is not LightningDataModule.prepare_data
        if self._prepares:
            # Lightning calls it on one rank of a machine; should it fail there, the others would wait for that rank
            self.prepare_data = partial(self._prepare, self.prepare_data)  # type: ignore[method-assign]

    @abstractmethod
    def load(self) -> Splits:
        """Reads the task's examples; the same ones, in the same order, on every rank."""

    def setup(self, stage: str | None = None) -> None:
        """Loads and partitions once, and checks all that the rounds will rely on.

        Raises:
            ValueError: If ranks, clients and examples do not fit each other, or ``prepare_data`` failed elsewhere.
        """
        self._raise_failure()
        if stage in (None, "fit"):
            resolve_hosting(self.hosting, self.clients, self._place()[1])
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if getattr(connector, "use_distributed_sampler", False) and getattr(connector, "is_distributed", False):
            raise ValueError("trainer.use_distributed_sampler=True must be false, as rounds are already dealt to ranks")
        if hasattr(self, "splits"):
            return
        splits = self.load()
        _check("training", splits.train)
        _check("validation", splits.val)
        values = splits.train.attribute(self.partition.attribute)
        parts = self.partition(values, self.clients, self.seed)
        sizes = tuple(len(part) for part in parts)
        if not all(sizes):
            raise ValueError(
                f"client {sizes.index(0)} owns no training example: partition's minimum={self.partition.minimum} "
                "must be at least 1"
            )
        self.parts, self.client_sizes, self.splits = parts, sizes, splits

    def train_dataloader(self) -> DataLoader[Round]:
        """The rounds from the trainer's on, without an end."""
        rank, world = self._place()
        hosting = resolve_hosting(self.hosting, self.clients, world)
        local_steps = getattr(
            getattr(getattr(self.trainer, "lightning_module", None), "method", None), "local_steps", 1
        )
        rounds = Rounds(
            self.splits.train,
            sizes=self.client_sizes,
            hosted={rank: self.parts[rank]} if hosting == "fixed" else dict(enumerate(self.parts)),
            hosting=hosting,
            rank=rank,
            world=world,
            seed=self.seed,
            cohort=self.cohort,
            batch_size=self.batch_size,
            local_steps=local_steps,
            sharing=self.spare_ranks == "help" or (self.spare_ranks == "auto" and local_steps == 1),
        )
        # global_step is restored before this is called, so a resumed run begins at its next round.
        return self._loader(rounds, RoundSampler(getattr(self.trainer, "global_step", 0)))

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
        """This rank's batches of the split to predict."""
        return self._evaluation(self.predicted)

    @property
    def predicted(self) -> ExampleSet:
        """The split to predict: the test split, or the validation split if there is no other."""
        return self.splits.val if self.splits.test is None else self.splits.test

    def fingerprints(self) -> dict[str, str]:
        """Hashes by which ranks make sure, before round 0, that they hold the same data."""
        prints = {
            "partition": partition_fingerprint(self.parts),
            "train data": self.splits.train.fingerprint(),
            "validation data": self.splits.val.fingerprint(),
        }
        if self.splits.test is not None:
            prints["test data"] = self.splits.test.fingerprint()
        return prints

    def _prepare(self, prepare_data: Callable[[], None]) -> None:
        """Prepares the data, and keeps an error for the moment when all ranks can hear of it."""
        try:
            prepare_data()
        except Exception as error:
            if self._place()[1] == 1:
                raise
            self._failure = error

    def _raise_failure(self) -> None:
        """Raises what ``prepare_data`` raised here, and the same in words where it was raised on another rank."""
        failure, self._failure = self._failure, None
        said: list[str | None] = []
        if self._prepares and dist.is_available() and dist.is_initialized():
            said = [None] * dist.get_world_size()
            dist.all_gather_object(said, None if failure is None else str(failure) or type(failure).__name__)
        if failure is not None:
            raise failure
        if any(said):
            raise ValueError(next(message for message in said if message))

    def _place(self) -> tuple[int, int]:
        """This process's rank and the number of ranks; one rank where no trainer is attached."""
        return getattr(self.trainer, "global_rank", 0), getattr(self.trainer, "world_size", 1)

    def _evaluation(self, examples: ExampleSet) -> DataLoader[Batch]:
        batches = EvaluationBatches(examples, self.eval_batch_size)
        return self._loader(batches, DealtSampler(len(batches), *self._place()))

    def _loader(self, dataset: Dataset[Any], sampler: Sampler[int]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_as_is,
            # A loader draws a number each time it starts; from its own generator, not from the model's.
            generator=torch.Generator(),
        )


def _as_is(item: Any) -> Any:
    """The loader's own conversion would turn the tuples of a round into lists."""
    return item


def _check(name: str, examples: ExampleSet) -> None:
    """Refuses a split that is empty or whose labels are not positions in its classes."""
    if len(examples) == 0:
        raise ValueError(f"the {name} split has 0 examples, at least 1 is needed")
    low, high = int(examples.labels.min()), int(examples.labels.max())
    classes = max(1, len(examples.classes))  # without classes every label is 0
    if low < 0 or high >= classes:
        raise ValueError(f"{name} labels in [{low}, {high}] must be in [0, {classes})")
