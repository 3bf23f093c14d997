"""Data modules for text: by prompts, to be answered with a label word or freely, and by sentences."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any, Literal

import numpy as np

from hiso_pl.data.cache import Arrays, Cache, cache_folder, cache_key
from hiso_pl.data.encoding import (
    Rows,
    column_codes,
    encode_prompts,
    encode_sentences,
    examples_of,
    tokenizer_identity,
)
from hiso_pl.data.examples import Splits
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.prompts import Limit, Tokenizer
from hiso_pl.data.sources import FileTable, Table, open_dataset
from hiso_pl.data.statistics import clients_table, counts_line, describe
from hiso_pl.data.tasks import ClassificationOptions, ClassificationTask, GenerationOptions, TextTask, find_task
from hiso_pl.data.tokenized import TokenSequences
from hiso_pl.models.loading import load_tokenizer
from hiso_pl.zeroth_order.philox import Draws, Purpose, check_seed

logger = logging.getLogger(__name__)

_NAMES = ("training", "validation", "test")
_SIZES = ("train_examples", "validation_examples", "test_examples")
_SPLITS = ("train_split", "validation_split", "test_split")
_HELD_OUT = 3  # the owner of the draw that divides training examples; 0, 1 and 2 draw from the splits


class TextData(FederatedDataModule):
    """What prompts and sentences have in common: where rows come from, sub-samples, the tokenizer and the cache.

    Rows are read and tokenised once on a machine, by one process, which keeps the tokens on disk; all processes take
    them from there, and so does the next run with the same data, task, tokenizer and sizes.

    Args:
        task: Name of a task, which says what columns, classes and label words are meant; or a task of your own as a
            mapping: ``template`` with ``label_words`` (classification) or with ``answer`` (generation).
        train_file: Training examples in a .tsv, .csv, .jsonl or .parquet file; None takes ``dataset``.
        validation_file: Validation examples, likewise.
        test_file: Test examples, if there are any, likewise.
        dataset: A folder saved by ``datasets``, or a dataset's name on the hub; None without files takes the task's.
        dataset_name: Name of the dataset's configuration on the hub, where it has several.
        train_split: Name of the dataset's split to train on; None is the task's, or ``train``.
        validation_split: Name of its split for validation; None is the task's, or ``validation``.
        test_split: Name of its split for the test; None makes no test split.
        validation_fraction: Part of the training examples to draw for validation, where there is no split for it.
        template: Another template, with the columns of the text in braces.
        classes: Other classes: their names, in the order of their numbers.
        label_column: Another column for the label.
        tokenizer: Folder or hub name of the tokenizer; None takes the model's.
        max_length: Most tokens of an example, its answer included. The columns that the task allows to be cut lose
            their ends, the longest first, until it fits. The model's positions limit it as well.
        padding_side: Where batches are filled up. The model computes the same either way.
        pad_to_multiple_of: Batches are padded to their longest example (1), or to the next multiple of this, but not
            beyond max_length or the model's positions. Batches then have few lengths, which suits GPU kernels (8).
        train_examples: Number of training examples to draw from all; None takes all.
        validation_examples: Number of validation examples to draw from all; None takes all.
        test_examples: Number of test examples to draw from all; None takes all.
        split_seed: Seed of those draws, apart from the run's seed.
        cache: Whether tokens are kept on disk. Without it every process tokenises for itself.
        cache_dir: Folder for them; None is what HISO_PL_CACHE names, or hiso_pl in the user's cache (~/.cache). It
            holds 10 GB at most: what was not used for longest is dropped.
        base: Clients, cohort, batches, partition, hosting and seed, as in :class:`FederatedDataModule`.

    Raises:
        ValueError: If an option has no meaning, or options do not go together.
    """

    def __init__(
        self,
        task: str | ClassificationOptions | GenerationOptions = "sst2",
        train_file: str | None = None,
        validation_file: str | None = None,
        test_file: str | None = None,
        dataset: str | None = None,
        dataset_name: str | None = None,
        train_split: str | None = None,
        validation_split: str | None = None,
        test_split: str | None = None,
        validation_fraction: float | None = None,
        template: str | None = None,
        classes: list[str] | None = None,
        label_column: str | None = None,
        tokenizer: str | None = None,
        max_length: int = 256,
        padding_side: Literal["right", "left"] = "right",
        pad_to_multiple_of: int = 1,
        train_examples: int | None = None,
        validation_examples: int | None = None,
        test_examples: int | None = None,
        split_seed: int = 0,
        cache: bool = True,
        cache_dir: str | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.sizes = (train_examples, validation_examples, test_examples)
        lengths = {"max_length": max_length, "pad_to_multiple_of": pad_to_multiple_of}
        for name, value in {**lengths, **dict(zip(_SIZES, self.sizes, strict=True))}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if padding_side not in ("right", "left"):
            raise ValueError(f"padding_side={padding_side!r} must be right or left")
        if validation_fraction is not None and not 0.0 < validation_fraction < 1.0:
            raise ValueError(f"validation_fraction={validation_fraction} must be between 0 and 1")
        named = find_task(task) if isinstance(task, str) else task.build()
        self.task = self.change_task(named, template, classes, label_column)
        self.files = (train_file, validation_file, test_file)
        self.dataset = (dataset, dataset_name)
        self.split_names = (train_split, validation_split, test_split)
        self.validation_fraction = validation_fraction
        self._check_sources()
        hub, classified = self.task.hub, isinstance(self.task, ClassificationTask)
        if train_file is None and label_column is None and hub is not None and classified:
            self.task = self.task.changed(label_column=hub.label_column)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.padding_side: Literal["right", "left"] = padding_side
        self.pad_to_multiple_of = pad_to_multiple_of
        self.split_seed = check_seed(split_seed)
        self._cache = Cache(cache_folder(cache_dir)) if cache else None
        self._tables: dict[int, Table] = {}
        self._kept: dict[int, Arrays] = {}

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, rows: Rows, limit: Limit) -> Arrays:
        """Tokenises the rows of a split.

        Args:
            tokenizer: The tokenizer.
            rows: The rows.
            limit: Most tokens of an example.

        Returns:
            Arrays, as :func:`hiso_pl.data.encoding.examples_of` reads them.
        """

    def change_task(
        self, task: TextTask, template: str | None, classes: list[str] | None, label_column: str | None
    ) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        return task.changed(template=template, classes=classes, label_column=label_column)

    def prepare_data(self) -> None:
        """Downloads and tokenises what all processes of the machine then read."""
        if hasattr(self, "splits"):
            return
        if self._cache is None:
            for split in self._present:
                if self._file(split) is None:
                    self._table(split)
        else:
            tokenizer, limit = self._tokenizer()[0], self._limit()
            for split in self._present:
                self._kept[split] = self._arrays(split, tokenizer, limit)
        self._tables = {}

    def setup(self, stage: str | None = None) -> None:
        """See :class:`FederatedDataModule`; says what the splits hold."""
        known = hasattr(self, "splits")
        super().setup(stage)
        if not known and self._place()[0] == 0:
            for name, examples in zip(_NAMES, self.splits, strict=True):
                if examples is not None:
                    logger.info("%s: %s", name, counts_line(describe(examples)))

    def load(self) -> Splits:
        """Reads, draws and tokenises the splits, or reads what was made so before.

        Raises:
            ValueError: If files or rows are not as the task needs them, or the model cannot take the tokens.
        """
        tokenizer, limit = self._tokenizer()[0], self._limit()
        vocabulary = getattr(self._network(), "vocabulary_size", None)
        found: list[TokenSequences | None] = [None, None, None]
        for split in self._present:
            arrays = self._kept.pop(split, None)
            examples = examples_of(
                self._arrays(split, tokenizer, limit) if arrays is None else arrays, self.task, tokenizer
            )
            if vocabulary is not None and len(examples) and examples.largest_token >= vocabulary:
                raise ValueError(
                    f"tokenizer makes token {examples.largest_token}, but the model's vocabulary ends at "
                    f"{vocabulary - 1}: tokenizer must be the model's own"
                )
            examples.padding_side = self.padding_side
            examples.pad_to_multiples(self.pad_to_multiple_of, limit.tokens)
            found[split] = examples
        self._tables = {}
        train, val, test = found
        assert train is not None
        assert val is not None
        return Splits(train, val, test)

    def statistics(self) -> dict[str, Any]:
        """Sizes, lengths, cuts and labels of each split, and of each client's training examples under ``clients``."""
        names = ("train", "validation", "test")
        found: dict[str, Any] = {
            name: describe(examples) for name, examples in zip(names, self.splits, strict=True) if examples is not None
        }
        found["clients"] = [describe(self.splits.train, part) for part in self.parts]
        return found

    def describe_clients(self) -> str:
        """A Markdown table of the clients' training examples: sizes, lengths, cuts and labels."""
        return clients_table(self.statistics()["clients"])

    # Where rows come from

    @property
    def _present(self) -> list[int]:
        """The splits there are, by number."""
        return [0, 1] if self.files[2] is None and self.split_names[2] is None else [0, 1, 2]

    def _check_sources(self) -> None:
        train_file, validation_file, test_file = self.files
        dataset, dataset_name = self.dataset
        if self.validation_fraction is not None:
            for name, value in (("validation_file", validation_file), ("validation_split", self.split_names[1])):
                if value is not None:
                    raise ValueError(f"{name}={value!r} and validation_fraction exclude each other: leave one out")
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
        elif validation_file is None and self.validation_fraction is None:
            raise ValueError(
                "validation_file=None must be a file as well, as training and validation go together; "
                "or give validation_fraction"
            )
        options = {"dataset_name": dataset_name} if dataset is None else {}
        if train_file is not None:
            options |= dict(zip(_SPLITS, self.split_names, strict=True))
        for name, value in options.items():
            if value is not None:
                raise ValueError(f"{name}={value!r} must be left out, as there is no dataset that it belongs to")
        if test_file is not None and self.split_names[2] is not None:
            raise ValueError(f"test_split={self.split_names[2]!r} and test_file exclude each other: leave one out")
        if self.sizes[2] is not None and 2 not in self._present:
            raise ValueError(f"test_examples={self.sizes[2]} needs test_file or test_split")

    def _file(self, split: int) -> str | None:
        """The file that a split's rows are in, if they are in one."""
        return self.files[0 if split == 1 and self.validation_fraction is not None else split]

    def _table(self, split: int) -> Table:
        """The rows that a split is drawn from."""
        source = 0 if split == 1 and self.validation_fraction is not None else split
        if source not in self._tables:
            file = self.files[source]
            if file is not None:
                self._tables[source] = FileTable(file)
            else:
                hub = self.task.hub
                (path, name), usual = self.dataset, ("train", "validation", "test")[source]
                if path is None:
                    assert hub is not None
                    path, name = hub.path, hub.name
                if hub is not None and source < 2:
                    usual = (hub.train, hub.validation)[source]
                named = self.split_names[source]
                self._tables[source] = open_dataset(path, name, usual if named is None else named, _SPLITS[source])
        return self._tables[source]

    def _rows(self, split: int) -> Rows:
        """The rows of a split, drawn by the seed: those held out for validation first, then the number asked for."""
        table = self._table(split)
        chosen = np.arange(len(table))
        if split < 2 and self.validation_fraction is not None:
            count = round(self.validation_fraction * len(table))
            if not 1 <= count < len(table):
                raise ValueError(
                    f"validation_fraction={self.validation_fraction} of {len(table)} training examples is {count}, "
                    f"must be 1 to {len(table) - 1}"
                )
            held_out = Draws(self.split_seed, Purpose.SPLIT, owner=_HELD_OUT).sample(len(table), count)
            chosen = held_out if split == 1 else np.setdiff1d(chosen, held_out)
        size = self.sizes[split]
        if size is not None:
            if size > len(chosen):
                raise ValueError(f"{_SIZES[split]}={size} must be at most {len(chosen)}, the examples there are")
            chosen = chosen[Draws(self.split_seed, Purpose.SPLIT, owner=split).sample(len(chosen), size)]
        return list(table.rows(chosen.tolist()))

    # Tokens, made or kept

    def _arrays(self, split: int, tokenizer: Tokenizer, limit: Limit) -> Arrays:
        """The tokens of a split, from the cache where they are there."""
        key = None if self._cache is None else self._key(split, limit)
        if self._cache is None or key is None:
            return self._make(split, tokenizer, limit)
        found = self._cache.read(key)
        if found is not None:
            return found
        arrays = self._make(split, tokenizer, limit)
        # the first process of a machine writes, in prepare_data; where it could not, each of the others comes here
        if getattr(self.trainer, "local_rank", 0) != 0:
            return arrays
        if not self._cache.write(key, arrays):
            self._cache = None
        return arrays

    def _make(self, split: int, tokenizer: Tokenizer, limit: Limit) -> Arrays:
        rows = self._rows(split)
        arrays = self.encode(tokenizer, rows, limit)
        column = self._column(split)
        if column is not None:
            arrays[f"column:{column}"] = column_codes(rows, column)
        return arrays

    def _key(self, split: int, limit: Limit) -> str | None:
        """What an entry of the cache is known by, or None where that cannot be said."""
        identity = self._tokenizer()[1]
        if identity is None:
            return None
        drawn = self.sizes[split] is not None or self.validation_fraction is not None
        return cache_key(
            {
                "source": self._table(split).identity(),
                "split": split,
                "size": self.sizes[split],
                "held out": self.validation_fraction if split < 2 else None,
                "seed": self.split_seed if drawn else None,
                "examples": type(self).__qualname__,
                "task": self.task.fingerprint(),
                "tokenizer": identity,
                "limit": limit.tokens,
                "column": self._column(split),
            }
        )

    def _column(self, split: int) -> str | None:
        """The column that the partition wants kept."""
        return getattr(self.partition, "column", None) if split == 0 else None

    def _network(self) -> Any:
        return getattr(getattr(self.trainer, "lightning_module", None), "network", None)

    def _limit(self) -> Limit:
        positions = getattr(self._network(), "max_positions", None)
        if positions is not None and positions < self.max_length:
            return Limit(positions, positions=True)
        return Limit(self.max_length)

    def _tokenizer(self) -> tuple[Tokenizer, str | None]:
        """The tokenizer, and what it is known by."""
        if not hasattr(self, "_loaded"):
            if self.tokenizer is not None:
                tokenizer = load_tokenizer(self.tokenizer)
            else:
                network = self._network()
                source = getattr(network, "tokenizer_source", None)
                if source is None:
                    raise ValueError(
                        "tokenizer=None must be a folder or a name on the hub, as the model brings no tokenizer"
                    )
                tokenizer = load_tokenizer(
                    source,
                    getattr(network, "tokenizer_revision", None),
                    getattr(network, "tokenizer_trusted", False),
                )
            # known before it is used: a backend remembers how it was last asked to pad
            self._loaded = (tokenizer, tokenizer_identity(tokenizer))
        return self._loaded


class PromptData(TextData):
    """Examples as prompts, to be continued with a label word or with free text: for ``CausalLM``.

    Args:
        label_words: Other label words, one for each class, with the space in front where there is one.
        options: Task, data, tokenizer and sizes, as in :class:`TextData`.
    """

    def __init__(self, label_words: list[str] | None = None, **options: Any) -> None:
        self._label_words = label_words
        super().__init__(**options)

    def change_task(
        self, task: TextTask, template: str | None, classes: list[str] | None, label_column: str | None
    ) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        return task.changed(template, self._label_words, classes, label_column)

    def encode(self, tokenizer: Tokenizer, rows: Rows, limit: Limit) -> Arrays:
        """See :func:`hiso_pl.data.encoding.encode_prompts`."""
        return encode_prompts(tokenizer, self.task, rows, limit)


class SentenceClassification(TextData):
    """Examples as sentences or pairs of them, without a prompt: for ``SequenceClassifier``.

    The columns of the template are the texts; the rest of the template and the label words are not used.

    Args:
        options: Task, data, tokenizer and sizes, as in :class:`TextData`.
    """

    task: ClassificationTask

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if len(self.task.columns) > 2:
            raise ValueError(f"template={self.task.template!r} names {len(self.task.columns)} columns, must be 1 or 2")

    def change_task(
        self, task: TextTask, template: str | None, classes: list[str] | None, label_column: str | None
    ) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        if not isinstance(task, ClassificationTask):
            raise ValueError(f"task={task.name!r} generates its answers, must be one with classes")
        # Label words play no part here, so other classes need none.
        return task.changed(template, classes if classes else None, classes, label_column)

    def encode(self, tokenizer: Tokenizer, rows: Rows, limit: Limit) -> Arrays:
        """See :func:`hiso_pl.data.encoding.encode_sentences`."""
        return encode_sentences(tokenizer, self.task, rows, limit)
