"""Data modules for text classification, by prompts and by sentences."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import numpy as np

from hiso_pl.data.examples import Splits
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.prompts import Tokenizer, label_word_tokens, padding_token, tokenize_prompts
from hiso_pl.data.readers import Row, numbered_rows, text_values
from hiso_pl.data.tasks import TextTask, find_task
from hiso_pl.data.tokenized import TokenizedExamples
from hiso_pl.models.loading import load_tokenizer, one_line
from hiso_pl.zeroth_order.philox import Draws, Purpose, check_seed

logger = logging.getLogger(__name__)


class TextClassification(FederatedDataModule):
    """What prompts and sentences have in common: files or the hub, sub-samples, labels, the tokenizer.

    Everything is read and tokenised once, in ``setup``.

    Args:
        task: Name of the task, which says what columns, classes and label words are meant.
        train_file: Training examples in a .tsv, .csv or .jsonl file; None takes the task's data from the hub.
        validation_file: Validation examples, likewise; given exactly when ``train_file`` is.
        test_file: Test examples, if there are any.
        template: Another template, with the columns of the text in braces.
        classes: Other classes: their names, in the order of their numbers.
        label_column: Another column for the label.
        tokenizer: Folder or hub name of the tokenizer; None takes the model's.
        max_length: Most tokens of an example; longer texts are cut at their ends.
        pad_to_multiple_of: Batches are padded to their longest example (1), or to the next multiple of this, but not
            beyond max_length or the model's positions. Batches then have few lengths, which suits GPU kernels (8).
        train_examples: Number of training examples to draw from all; None takes all.
        validation_examples: Number of validation examples to draw from all; None takes all.
        split_seed: Seed of those draws, apart from the run's seed.
        base: Clients, cohort, batches, partition, hosting and seed, as in :class:`FederatedDataModule`.

    Raises:
        ValueError: If an option has no meaning, or options do not go together.
    """

    def __init__(
        self,
        task: str = "sst2",
        train_file: str | None = None,
        validation_file: str | None = None,
        test_file: str | None = None,
        template: str | None = None,
        classes: list[str] | None = None,
        label_column: str | None = None,
        tokenizer: str | None = None,
        max_length: int = 256,
        pad_to_multiple_of: int = 1,
        train_examples: int | None = None,
        validation_examples: int | None = None,
        split_seed: int = 0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        sizes = {
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
            "train_examples": train_examples,
            "validation_examples": validation_examples,
        }
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.task = self.change_task(find_task(task), template, classes, label_column)
        if train_file is None and validation_file is None:
            if self.task.hub is None:
                raise ValueError(f"task={task!r} is not on the hub: train_file and validation_file must be given")
            if label_column is None:
                self.task = self.task.changed(label_column=self.task.hub.label_column)
        elif train_file is None or validation_file is None:
            missing = "train_file" if train_file is None else "validation_file"
            raise ValueError(f"{missing}=None must be a file as well: training and validation go together")
        self.files = (train_file, validation_file, test_file)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.sizes = (train_examples, validation_examples, None)
        self.split_seed = check_seed(split_seed)

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, texts: list[dict[str, str]], labels: list[int]) -> TokenizedExamples:
        """Tokenises the texts of a split.

        Args:
            tokenizer: The tokenizer.
            texts: The texts of each example by column.
            labels: The class of each example.
        """

    def change_task(
        self, task: TextTask, template: str | None, classes: list[str] | None, label_column: str | None
    ) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        return task.changed(template=template, classes=classes, label_column=label_column)

    def prepare_data(self) -> None:
        """Lets the hub's data be downloaded by one process before all of them read it."""
        if self.files[0] is None:
            for split in range(2):
                self._rows(split)

    def load(self) -> Splits:
        """Reads, draws and tokenises the splits.

        Raises:
            ValueError: If files or rows are not as the task needs them, or the model cannot take the tokens.
        """
        network = getattr(getattr(self.trainer, "lightning_module", None), "network", None)
        tokenizer = self._load_tokenizer(network)
        train, val = (self._split(split, tokenizer) for split in range(2))
        test = None if self.files[2] is None else self._split(2, tokenizer)
        positions = getattr(network, "max_positions", None)
        most = self.max_length if positions is None else min(self.max_length, positions)
        for examples in (train, val, test):
            if examples is not None:
                _check_network(network, examples)
                examples.pad_to_multiples(self.pad_to_multiple_of, most)
        return Splits(train, val, test)

    def _load_tokenizer(self, network: Any) -> Tokenizer:
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        source = getattr(network, "tokenizer_source", None)
        if source is None:
            raise ValueError("tokenizer=None must be a folder or a name on the hub, as the model brings no tokenizer")
        return load_tokenizer(source, getattr(network, "tokenizer_revision", None))

    def _split(self, split: int, tokenizer: Tokenizer) -> TokenizedExamples:
        rows = self._rows(split)
        size = self.sizes[split]
        if size is not None:
            name = ("train_examples", "validation_examples")[split]
            if size > len(rows):
                raise ValueError(f"{name}={size} must be at most {len(rows)}, the examples there are")
            chosen = Draws(self.split_seed, Purpose.SPLIT, owner=split).sample(len(rows), size)
            rows = [rows[i] for i in chosen.tolist()]
        texts = [self.task.texts(row, place) for place, row in rows]
        labels = [self.task.label(row, place) for place, row in rows]
        return self.encode(tokenizer, texts, labels)

    def _rows(self, split: int) -> list[tuple[str, Row]]:
        """The rows of a split, each with its place for messages."""
        file = self.files[split]
        if file is not None:
            return [(f"{file} line {number}", row) for number, row in numbered_rows(file)]
        hub = self.task.hub
        assert hub is not None
        from datasets import load_dataset  # takes a second, which local files need not wait for

        name = (hub.train, hub.validation)[split]
        label = "/".join(part for part in (hub.path, hub.name, name) if part)
        try:
            data = load_dataset(hub.path, hub.name, split=name)
        except Exception as error:  # whatever a download can fail with: connection, hub, arrow, file system
            raise ValueError(
                f"{label} cannot be had from the hub ({one_line(error)}); give train_file and validation_file instead"
            ) from error
        return [(f"{label} row {number}", text_values(row)) for number, row in enumerate(data)]


class PromptData(TextClassification):
    """Examples as prompts, to be continued with a label word: for ``CausalLM``.

    Args:
        label_words: Other label words, one for each class, with the space in front where there is one.
        options: Task, files, tokenizer and sizes, as in :class:`TextClassification`.
    """

    def __init__(self, label_words: list[str] | None = None, **options: Any) -> None:
        self._label_words = label_words
        super().__init__(**options)

    def change_task(
        self, task: TextTask, template: str | None, classes: list[str] | None, label_column: str | None
    ) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        return task.changed(template, self._label_words, classes, label_column)

    def encode(self, tokenizer: Tokenizer, texts: list[dict[str, str]], labels: list[int]) -> TokenizedExamples:
        """See :class:`TextClassification`; label words must be single tokens."""
        words = label_word_tokens(tokenizer, self.task)
        prompts = tokenize_prompts(tokenizer, self.task, texts, self.max_length)
        return TokenizedExamples(prompts, labels, self.task.classes, padding_token(tokenizer), label_words=words)


class SentenceClassification(TextClassification):
    """Examples as sentences or pairs of them, without a prompt: for ``SequenceClassifier``.

    The columns of the template are the texts; the rest of the template is not used.

    Args:
        options: Task, files, tokenizer and sizes, as in :class:`TextClassification`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if len(self.task.columns) > 2:
            raise ValueError(f"template={self.task.template!r} names {len(self.task.columns)} columns, must be 1 or 2")

    def change_task(
        self, task: TextTask, template: str | None, classes: list[str] | None, label_column: str | None
    ) -> TextTask:
        """The task with the options of the configuration in place of its own."""
        # Label words play no part here, so other classes need none.
        return task.changed(template, classes if classes else None, classes, label_column)

    def encode(self, tokenizer: Tokenizer, texts: list[dict[str, str]], labels: list[int]) -> TokenizedExamples:
        """See :class:`TextClassification`; a pair is cut at its longer text."""
        columns = [[text[column] for text in texts] for column in self.task.columns]
        encoded = tokenizer(*columns, padding=False, truncation=True, max_length=self.max_length, verbose=False)
        return TokenizedExamples(
            encoded["input_ids"],
            labels,
            self.task.classes,
            padding_token(tokenizer),
            segments=encoded.get("token_type_ids"),
        )


def _check_network(network: Any, examples: TokenizedExamples) -> None:
    """Refuses tokens that the attached model has no embedding for."""
    positions = getattr(network, "max_positions", None)
    longest = int(np.max(examples.lengths))
    if positions is not None and longest > positions:
        raise ValueError(f"max_length must be at most {positions}, the model's positions: an example has {longest}")
    vocabulary = getattr(network, "vocabulary_size", None)
    if vocabulary is not None and examples.largest_token >= vocabulary:
        raise ValueError(
            f"tokenizer makes token {examples.largest_token}, but the model's vocabulary ends at {vocabulary - 1}: "
            "tokenizer must be the model's own"
        )
