"""What a data module needs to know of a data set: labels, how to make a batch, how to measure, and a fingerprint."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.data.measures import ClassMeasure, Measure
from hiso_pl.data.ownership import Owner
from hiso_pl.federation.partition import Parts

Batch = dict[str, torch.Tensor]
"""A minibatch or evaluation batch: tensors by name, the first dimension of each being the example."""


class ExampleSet(ABC):
    """Examples that are ready for the model, addressed by position.

    Attributes:
        labels: Label of each example, int64, shape ``[N]``; partitions and metrics are made of them.
        classes: Name of each class; a label is a position in it.
        named: Whether these names were given as such, not made up of what answers look like.
        other_names: What the classes are called elsewhere, in the same order, where that is known.
        owners: Where training examples lie apart by client, those that are here, in the order in which they lie.
        parts: Where training examples come divided and all are here, which are whose.
    """

    parts: Parts | None = None
    owners: Mapping[int, Owner] | None = None
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    named: bool = True
    other_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.labels)

    @abstractmethod
    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """Makes a batch of the examples at ``indices``, in that order.

        It is a pure function: padding, if any, depends on these examples alone.

        Args:
            indices: Positions of the examples, shape ``[B]``.

        Returns:
            The model's inputs, and ``label``, int64, shape ``[B]``.
        """

    def labels_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of the examples at ``indices``, shape ``[B]``."""
        return self.labels[indices]

    def label_bounds(self) -> tuple[int, int]:
        """The lowest and the highest label there is."""
        return int(self.labels.min()), int(self.labels.max())

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over all that the model is given, as hexadecimal digits; ranks compare it before round 0."""

    @property
    def measure(self) -> Measure:
        """What is measured of the model's answers to these examples."""
        return ClassMeasure(self.labels, self.classes)

    def text(self, index: int) -> str | None:
        """The input of one example as the model is given it, where it is text."""
        return None

    @property
    def attributes(self) -> dict[str, NDArray[np.int64]]:
        """Whole numbers known of each example by name, shape ``[N]`` each; ``label`` is always there."""
        return {"label": self.labels}

    def attribute(self, name: str) -> NDArray[np.int64]:
        """A whole number of each example, by which partitions may divide them, shape ``[N]``.

        Args:
            name: ``label``; where there are tokens ``length``; ``column:NAME`` where that column was kept.

        Raises:
            ValueError: If these examples have nothing of that name.
        """
        known = self.attributes
        if name not in known:
            raise ValueError(f"attribute={name!r} must be one of {', '.join(known)}: examples have no other")
        return known[name]


class Splits(NamedTuple):
    """The three parts of a task's data.

    Attributes:
        train: Examples to be divided among the clients.
        val: Examples that every rank evaluates a share of while training.
        test: Examples for the end, if there are any.
    """

    train: ExampleSet
    val: ExampleSet
    test: ExampleSet | None


def arrays_fingerprint(*arrays: NDArray[np.generic]) -> str:
    """SHA-256 over the type, shape and little-endian bytes of arrays, as hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{little.dtype.str}{list(array.shape)}".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def check_splits(splits: Splits) -> None:
    """Refuses a split that is empty or whose labels are not positions in its classes.

    Raises:
        ValueError: If there is one.
    """
    for name, examples in zip(("training", "validation", "test"), splits, strict=True):
        if examples is not None:
            _check_split(name, examples)


def _check_split(name: str, examples: ExampleSet) -> None:
    if len(examples) == 0:
        raise ValueError(f"the {name} split has 0 examples, at least 1 is needed")
    low, high = examples.label_bounds()
    classes = max(1, len(examples.classes))  # without classes every label is 0
    if low < 0 or high >= classes:
        raise ValueError(f"{name} labels in [{low}, {high}] must be in [0, {classes})")
