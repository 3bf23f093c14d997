"""The rows of a text task's splits: which files or data sets they come from, and which of them are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hiso_pl.data.limits import ReadLimits
from hiso_pl.data.sources import FileTable, Table, open_dataset
from hiso_pl.data.tasks import ClassificationTask, TextTask
from hiso_pl.data.text.reading import Rows
from hiso_pl.data.unfolded import UnfoldedTable
from hiso_pl.zeroth_order.philox import Draws, Purpose, check_seed

CLIENT = "{client}"
_NAMES = ("train", "validation", "test")
_HELD_OUT = 3  # the owner of the draw that divides training examples; 0, 1 and 2 draw from the splits


@dataclass
class TextRows:
    """The rows of the training, validation and test split, numbered 0, 1 and 2; the options are those of ``TextData``.

    Args:
        task: The task, which knows where the hub has its data.
        files: A file for each split, or None; the first may hold ``{client}`` for a file of each client.
        dataset: Folder or name of a data set, and name of its configuration.
        splits: What the data set calls each split; None is the task's name, and no test.
        sizes: How many rows of each split to draw; None takes all.
        fraction: Part of the training rows to hold out for validation, where there is no split for it.
        seed: Seed of these draws.
        limits: What a file or data set may ask for.

    Raises:
        ValueError: If they do not go together.
    """

    task: TextTask
    files: tuple[str | None, str | None, str | None]
    dataset: tuple[str | None, str | None]
    splits: tuple[str | None, str | None, str | None]
    sizes: tuple[int | None, int | None, int | None]
    fraction: float | None
    seed: int
    limits: ReadLimits = field(default_factory=ReadLimits)
    _tables: dict[int, Table] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Checks them."""
        check_seed(self.seed)
        for name, size in zip(_NAMES, self.sizes, strict=True):
            if size is not None and size < 1:
                raise ValueError(f"{name}_examples={size} must be at least 1")
        if self.fraction is not None and not 0.0 < self.fraction < 1.0:
            raise ValueError(f"validation_fraction={self.fraction} must be between 0 and 1")
        self._check_sources()
        self._check_clients()

    @property
    def by_client(self) -> bool:
        """Whether each client has a file of its own."""
        return CLIENT in (self.files[0] or "")

    @property
    def present(self) -> list[int]:
        """The splits there are."""
        return [0, 1] if self.files[2] is None and self.splits[2] is None else [0, 1, 2]

    def file(self, split: int, client: int | None = None) -> str | None:
        """The file that a split's rows are in, or a client's rows of it, if they are in one."""
        file = self.files[self._source(split)]
        return file if file is None or client is None else file.replace(CLIENT, str(client))

    def table(self, split: int, client: int | None = None) -> Table:
        """The rows that a split is drawn from.

        Raises:
            ValueError: If there are none, or they cannot be read.
        """
        source, file = self._source(split), self.file(split, client)
        if client is not None:
            assert file is not None
            return self._unfolded(FileTable(file, self.limits))
        if source not in self._tables:
            self._tables[source] = self._unfolded(self._open(source) if file is None else FileTable(file, self.limits))
        return self._tables[source]

    def _unfolded(self, table: Table) -> Table:
        return table if self.task.unfold is None else UnfoldedTable(table, self.task.unfold, self.limits)

    def forget(self) -> None:
        """Lets go of what was read."""
        self._tables = {}

    def drawn(self, split: int, table: Table) -> Rows:
        """The rows of a split, drawn by the seed: those held out for validation first, then the number asked for.

        Raises:
            ValueError: If they are not what the task takes, or too few.
        """
        for place, row in table.rows(range(min(1, len(table)))):
            self.task.check_form(row, place)
        chosen = np.arange(len(table))
        if split < 2 and self.fraction is not None:
            count = round(self.fraction * len(table))
            if not 1 <= count < len(table):
                raise ValueError(
                    f"validation_fraction={self.fraction} of {len(table)} training examples is {count}, "
                    f"must be 1 to {len(table) - 1}"
                )
            held_out = Draws(self.seed, Purpose.SPLIT, owner=_HELD_OUT).sample(len(table), count)
            chosen = held_out if split == 1 else np.setdiff1d(chosen, held_out)
        size = self.sizes[split]
        if size is not None:
            if size > len(chosen):
                raise ValueError(
                    f"{_NAMES[split]}_examples={size} must be at most {len(chosen)}, the examples there are"
                )
            chosen = chosen[Draws(self.seed, Purpose.SPLIT, owner=split).sample(len(chosen), size)]
        rows = list(table.rows(chosen.tolist()))
        found = self.label_places(table)
        if found is None:
            return rows
        assert isinstance(self.task, ClassificationTask)
        named = {str(i): self.task.classes[c] for i, c in enumerate(found)}
        column = self.task.label_column
        return [
            (place, {**row, column: named[row[column]]} if row.get(column) in named else row) for place, row in rows
        ]

    def label_places(self, table: Table) -> tuple[int, ...] | None:
        """Which classes of the task a table's labels are, where it has names for them in another order.

        Raises:
            ValueError: If it has names for other classes.
        """
        if not isinstance(self.task, ClassificationTask):
            return None
        names = table.class_names(self.task.label_column)
        return None if names is None else self.task.label_places(names, f"column {self.task.label_column!r}")

    def draw(self, split: int) -> dict[str, Any]:
        """All that tells which rows of a table are drawn."""
        size = self.sizes[split]
        return {
            "split": split,
            "size": size,
            "held out": self.fraction if split < 2 else None,
            "seed": None if size is None and self.fraction is None else self.seed,
        }

    def _source(self, split: int) -> int:
        """The split that a split is drawn from."""
        return 0 if split == 1 and self.fraction is not None else split

    def _open(self, source: int) -> Table:
        hub, usual = self.task.hub, _NAMES[source]
        path, name = self.dataset
        if path is None:
            assert hub is not None
            path, name = hub.path, hub.name
        if hub is not None and source < 2:
            usual = (hub.train, hub.validation)[source]
        named = self.splits[source]
        return open_dataset(path, name, usual if named is None else named, f"{_NAMES[source]}_split", self.limits)

    def _check_sources(self) -> None:
        train_file, validation_file, test_file = self.files
        dataset, dataset_name = self.dataset
        if self.fraction is not None:
            for name, value in (("validation_file", validation_file), ("validation_split", self.splits[1])):
                if value is not None:
                    raise ValueError(f"{name}={value!r} and validation_fraction exclude each other: set one to null")
        if train_file is None and validation_file is None:
            if dataset is None and self.task.hub is None:
                raise ValueError(
                    f"task={self.task.name!r} is not on the hub: train_file and validation_file, or dataset, must be "
                    "given"
                )
        elif dataset is not None:
            raise ValueError(f"dataset={dataset!r} and train_file or validation_file exclude each other")
        elif train_file is None:
            raise ValueError("train_file=None must be a file as well: training and validation go together")
        elif validation_file is None and self.fraction is None:
            raise ValueError(
                "validation_file=None must be a file as well, as training and validation go together; "
                "or give validation_fraction"
            )
        options = {"dataset_name": dataset_name} if dataset is None else {}
        if train_file is not None:
            options |= {f"{name}_split": split for name, split in zip(_NAMES, self.splits, strict=True)}
        for name, value in options.items():
            if value is not None:
                raise ValueError(f"{name}={value!r} must be left out, as there is no dataset that it belongs to")
        if test_file is not None and self.splits[2] is not None:
            raise ValueError(f"test_split={self.splits[2]!r} and test_file exclude each other: leave one out")
        if self.sizes[2] is not None and 2 not in self.present:
            raise ValueError(f"test_examples={self.sizes[2]} needs test_file or test_split")

    def _check_clients(self) -> None:
        """Refuses what is drawn from all training examples where nobody has all."""
        for name, file in zip(_NAMES[1:], self.files[1:], strict=True):
            if CLIENT in (file or ""):
                raise ValueError(f"{name}_file={file!r} must be one file for all: only train_file may hold {CLIENT}")
        for name, value in (("train_examples", self.sizes[0]), ("validation_fraction", self.fraction)):
            if self.by_client and value is not None:
                raise ValueError(
                    f"{name}={value} must be left out: train_file={self.files[0]!r} is a file of each client, "
                    "and nobody draws from all of them"
                )
