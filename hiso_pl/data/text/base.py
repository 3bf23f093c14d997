"""What the data modules for text have in common."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from hiso_pl.data.cache import Arrays, Cache, cache_folder
from hiso_pl.data.examples import Splits
from hiso_pl.data.limits import ReadLimits
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.prepared import NOTHING_TOLD
from hiso_pl.data.statistics import clients_table, counts_line, describe, statistics_of
from hiso_pl.data.tasks import ClassificationOptions, ClassificationTask, GenerationOptions, TextTask, find_task
from hiso_pl.data.text.encoding import examples_of, joined
from hiso_pl.data.text.prompts import Limit
from hiso_pl.data.text.reading import Rows
from hiso_pl.data.text.rows import TextRows
from hiso_pl.data.text.tokenizing import Tokenizer, find_tokenizer, tokenizer_identity
from hiso_pl.data.text.tokens import TextTokens
from hiso_pl.data.tokenized import TokenSequences
from hiso_pl.data.values import BLANKS, Blanks

logger = logging.getLogger("hiso_pl.data.text")


class TextData(FederatedDataModule):
    """What prompts and sentences have in common: where rows come from, sub-samples, the tokenizer and the cache.

    Rows are read and tokenised once on a machine, by one process, which keeps the tokens on disk; all processes take
    them from there, and so does the next run with the same data, task, tokenizer and sizes.

    Args:
        task: Name of a task, which says what columns, classes and label words are meant; or a task of your own as a
            mapping: ``template`` with ``label_words`` (classification) or with ``answer`` (generation).
        train_file: Training examples in a .tsv, .csv, .jsonl, .json or .parquet file; None takes ``dataset``. With
            {client} in its name, as in clients/{client}.jsonl, it is a file of each client, numbered from 0. The files
            divide the examples then; a rank opens its own client's only where hosting is fixed, else those of all.
            Ranks compare columns, classes and tokenizer, and tell each other numbers of examples and hashes.
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
        blanks: What is done with an example whose text, label or answer is null or empty. refuse: it is an error that
            names file and line. leave_out: its row is left out, and counted. keep: an empty text is taken as such where
            the example has another one.
        max_length: Most tokens of an example, its answer included. The columns that the task allows to be cut lose
            words at their ends, the longest first, until it fits. The model's positions limit it as well.
        padding_side: Where batches are filled up. The model computes the same either way.
        pad_to_multiple_of: Batches are padded to their longest example (1), or to the next multiple of this, but not
            beyond max_length or the model's positions. Batches then have few lengths, which suits GPU kernels (8).
        train_examples: Number of training examples to draw from all; None takes all.
        validation_examples: Number of validation examples to draw from all; None takes all.
        test_examples: Number of test examples to draw from all; None takes all.
        split_seed: Seed of those draws, apart from the run's seed.
        cache: Whether tokens are kept on disk. Without it every process tokenises for itself.
        cache_dir: Folder for them; None is what HISO_PL_CACHE names, or hiso_pl in the user's cache (~/.cache). Tokens
            lie in a folder of their own inside it, hiso_pl-tokens-1, which holds 10 GB at most: what was not used for
            longest is dropped.
        read_limits: How many bytes and rows a file of data may have, and how many bytes a row; what is beyond them is
            refused before it takes memory.
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
        blanks: Blanks = "refuse",
        max_length: int = 256,
        padding_side: Literal["right", "left"] = "right",
        pad_to_multiple_of: int = 1,
        train_examples: int | None = None,
        validation_examples: int | None = None,
        test_examples: int | None = None,
        split_seed: int = 0,
        cache: bool = True,
        cache_dir: str | None = None,
        read_limits: ReadLimits = ReadLimits(),  # noqa: B008 - it is frozen
        **base: Any,
    ) -> None:
        super().__init__(**base)
        for name, value in {"max_length": max_length, "pad_to_multiple_of": pad_to_multiple_of}.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        for name, word, known in (("padding_side", padding_side, ("right", "left")), ("blanks", blanks, BLANKS)):
            if word not in known:
                raise ValueError(f"{name}={word!r} must be {' or '.join(known)}")
        named = find_task(task) if isinstance(task, str) else task.build()
        self.task = self.change_task(named, template=template, classes=classes, label_column=label_column)
        self.rows = TextRows(
            self.task,
            files=(train_file, validation_file, test_file),
            dataset=(dataset, dataset_name),
            splits=(train_split, validation_split, test_split),
            sizes=(train_examples, validation_examples, test_examples),
            fraction=validation_fraction,
            seed=split_seed,
            limits=read_limits,
        )
        if self.rows.by_client and self.partition is not None:
            raise ValueError(
                f"partition={type(self.partition).__name__} and train_file={train_file!r} exclude each other: the "
                "clients' files are the partition, so set partition to null"
            )
        hub, classified = self.task.hub, isinstance(self.task, ClassificationTask)
        if train_file is None and label_column is None and hub is not None and classified:
            self.task = self.rows.task = self.task.changed(label_column=hub.label_column)
        self.tokenizer = tokenizer
        self.blanks: Blanks = blanks
        self.max_length = max_length
        self.padding_side: Literal["right", "left"] = padding_side
        self.pad_to_multiple_of = pad_to_multiple_of
        self._cache = Cache(cache_folder(cache_dir)) if cache else None
        self._kept: dict[tuple[int, int | None], Arrays] = {}

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, rows: Rows, limit: Limit) -> Arrays:
        """Tokenises the rows of a split.

        Args:
            tokenizer: The tokenizer.
            rows: The rows.
            limit: Most tokens of an example.

        Returns:
            Arrays, as :func:`hiso_pl.data.text.encoding.examples_of` reads them.
        """

    def change_task(self, task: TextTask, **parts: Any) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        return task.changed(**parts)

    def prepare_data(self) -> None:
        """Downloads and tokenises what all processes of the machine then read; of clients' files this rank's own."""
        if hasattr(self, "splits"):
            return
        for split in self.rows.present:
            if self._cache is not None:
                owners = self._owners(split)
                writes = self._writes(owners)
                self._kept |= {(split, client): self._tokens.arrays(split, client, writes) for client in owners}
            elif self.rows.file(split) is None:
                self.rows.table(split)
        self.rows.forget()

    def setup(self, stage: str | None = None) -> None:
        """See :class:`FederatedDataModule`; says what the splits hold."""
        known = hasattr(self, "splits")
        super().setup(stage)
        if not known and getattr(self.trainer, "global_rank", 0) == 0:
            own = "" if hasattr(self, "parts") else f" (of client 0, one of {self.clients})"
            for name, examples in zip((f"training{own}", "validation", "test"), self.splits, strict=True):
                if examples is not None:
                    logger.info("%s: %s", name, counts_line(describe(examples)))

    def load(self) -> Splits:
        """Reads, draws and tokenises the splits, or reads what was made so before.

        Raises:
            ValueError: If files or rows are not as the task needs them, or the model cannot take the tokens.
        """
        found = {split: self._examples(split) for split in self.rows.present}
        self.rows.forget()
        return Splits(found[0], found[1], found.get(2))

    def statistics(self) -> dict[str, Any]:
        """See :func:`hiso_pl.data.statistics.statistics_of`."""
        return statistics_of(self.splits, self.ownership)

    def describe_clients(self) -> str:
        """A Markdown table of the clients' training examples: sizes, lengths, cuts and labels."""
        return clients_table(self.statistics()["clients"], self.clients)

    def _owners(self, split: int) -> Sequence[int | None]:
        """The clients whose files this rank reads for a split; None stands for what is common to all."""
        return self.own_clients if split == 0 and self.rows.by_client else (None,)

    def _writes(self, owners: Sequence[int | None]) -> bool:
        """Whether it is for this process to keep tokens: one of a machine does, in prepare_data, for all.

        Where it could not, each of the others makes its own. A file that no other rank may open is its own rank's.
        """
        return getattr(self.trainer, "local_rank", 0) == 0 or (len(owners) == 1 and owners[0] is not None)

    def _examples(self, split: int) -> TokenSequences:
        pieces: dict[int | None, Arrays] = {}
        owners = self._owners(split)
        writes = self._writes(owners)
        for client in owners:
            kept = self._kept.pop((split, client), None)
            pieces[client] = self._tokens.arrays(split, client, writes) if kept is None else kept
        tokens, vocabulary = self._tokens, self.facts.vocabulary_size
        examples = examples_of(joined(list(pieces.values()), self.task), self.task, tokens.tokenizer)
        if vocabulary is not None and len(examples) and examples.largest_token >= vocabulary:
            raise ValueError(
                f"tokenizer makes token {examples.largest_token}, but the model's vocabulary ends at "
                f"{vocabulary - 1}: tokenizer must be the model's own"
            )
        examples.padding_side = self.padding_side
        examples.pad_to_multiples(self.pad_to_multiple_of, tokens.limit.tokens)
        told = {c: tokens.owner(c, arrays, examples.classes) for c, arrays in pieces.items() if c is not None}
        examples.owners = told or None
        return examples

    @cached_property
    def _tokens(self) -> TextTokens:
        facts = self.facts
        if self.trainer is not None and facts is NOTHING_TOLD:
            raise ValueError(
                "the data must know how long the model's sequences may be and what tokens it has: hand it over by "
                "data.take(facts_of(module)) before the trainer starts"
            )
        tokenizer = find_tokenizer(self.tokenizer, facts)
        return TextTokens(
            self.rows,
            encode=self.encode,
            tokenizer=tokenizer,
            identity=tokenizer_identity(tokenizer),
            limit=Limit.of(self.max_length, facts.max_positions),
            cache=self._cache,
            column=getattr(self.partition, "column", None),
            blanks=self.blanks,
            kind={"examples": type(self).__qualname__, "task": self.task.fingerprint()},
        )
