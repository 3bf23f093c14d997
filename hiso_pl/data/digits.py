"""Handwritten digits: a small real task that needs no download, for the quickstart and the tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.data.examples import Batch, ExampleSet, Splits, arrays_fingerprint
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.zeroth_order.philox import Draws, Purpose, check_seed

_LEVELS = 16  # pixels are whole numbers from 0 to 16


class DigitImages(ExampleSet):
    """Images of digits and what they show.

    Args:
        pixels: Standardised grey values, fp32, shape ``[N, 1, 8, 8]``.
        labels: The digits, shape ``[N]``.
    """

    classes = tuple("0123456789")

    def __init__(self, pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self.pixels = pixels
        self.labels = labels

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """Returns ``pixels``, shape ``[B, 1, 8, 8]``, and ``label``, shape ``[B]``."""
        return {"pixels": torch.from_numpy(self.pixels[indices]), "label": torch.from_numpy(self.labels[indices])}

    def fingerprint(self) -> str:
        """See :class:`ExampleSet`."""
        return arrays_fingerprint(self.pixels, self.labels)


class DigitsData(FederatedDataModule):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels each, to be told apart.

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI, 1998, as shipped by scikit-learn.

    Args:
        validation: Examples of the validation split.
        test: Examples of the test split; 0 for none.
        split_seed: Seed of the division into training, validation and test examples, apart from the run's seed.
        base: Clients, cohort, batches, partition, hosting and seed, as in :class:`FederatedDataModule`.
    """

    def __init__(self, validation: int = 180, test: int = 360, split_seed: int = 0, **base: Any) -> None:
        super().__init__(**base)
        if validation < 1:
            raise ValueError(f"validation={validation} must be at least 1")
        if test < 0:
            raise ValueError(f"test={test} must be at least 0")
        self.validation = validation
        self.test = test
        self.split_seed = check_seed(split_seed)

    def load(self) -> Splits:
        """Splits the digits at random and standardises them by the training examples' mean and deviation.

        Raises:
            ValueError: If no example would be left for training.
        """
        from sklearn.datasets import load_digits  # takes a second, which other tasks need not wait for

        bunch = load_digits()
        images = bunch.images.astype(np.int64)
        labels = bunch.target.astype(np.int64)
        held_out = self.validation + self.test
        if held_out >= len(labels):
            raise ValueError(
                f"validation={self.validation} and test={self.test} leave none of {len(labels)} examples for training"
            )
        order = Draws(self.split_seed, Purpose.SPLIT).permutation(len(labels))
        val, test, train = np.split(order, [self.validation, held_out])
        pixels = _standardise(images, images[train])[:, None]

        def take(indices: NDArray[np.int64]) -> DigitImages:
            return DigitImages(pixels[indices], labels[indices])

        return Splits(take(train), take(val), take(test) if self.test else None)


def _standardise(images: NDArray[np.int64], reference: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scales pixels to [0, 1], then to the mean 0 and deviation 1 of ``reference``, in fp32.

    The sums are of whole numbers, so the constants are the same on every machine.
    """
    mean = int(reference.sum()) / reference.size
    square = int((reference * reference).sum()) / reference.size
    deviation = math.sqrt(square - mean * mean)
    grey = images.astype(np.float64) / _LEVELS
    return ((grey - mean / _LEVELS) / (deviation / _LEVELS)).astype(np.float32)
