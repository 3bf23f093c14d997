"""The digits task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hiso_pl.data.digits import DigitsData
from hiso_pl.federation import Dirichlet


@pytest.fixture(scope="module")
def digits() -> DigitsData:
    data = DigitsData(clients=5, cohort=2, partition=Dirichlet(1.0))
    data.setup()
    return data


def test_splits_have_the_sizes_asked_for(digits: DigitsData) -> None:
    assert [len(split) for split in digits.splits] == [1257, 180, 360]
    assert digits.splits.train.classes == tuple("0123456789")
    assert sum(digits.ownership.sizes) == 1257


def test_every_image_is_in_one_split(digits: DigitsData) -> None:
    from sklearn.datasets import load_digits

    def census(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
        ranks = np.unique(images, return_inverse=True)[1].reshape(len(labels), -1).astype(np.int64)
        return sorted((image.tobytes(), int(label)) for image, label in zip(ranks, labels, strict=True))

    bunch = load_digits()
    pixels = np.concatenate([split.pixels for split in digits.splits])
    labels = np.concatenate([split.labels for split in digits.splits])
    assert census(pixels, labels) == census(bunch.images, bunch.target)


def test_training_pixels_are_standardised(digits: DigitsData) -> None:
    pixels = digits.splits.train.pixels  # type: ignore[attr-defined]
    assert pixels.dtype == np.float32
    assert abs(pixels.astype(np.float64).mean()) < 1e-6
    assert abs(pixels.astype(np.float64).std() - 1.0) < 1e-6


def test_a_batch_has_images_and_labels(digits: DigitsData) -> None:
    batch = digits.splits.val.collate(np.array([5, 2, 9]))
    assert batch["pixels"].shape == (3, 1, 8, 8)
    assert batch["pixels"].dtype == torch.float32
    assert batch["label"].tolist() == digits.splits.val.labels[[5, 2, 9]].tolist()
    assert batch["label"].dtype == torch.int64


def test_data_are_the_ones_written_down(digits: DigitsData) -> None:
    assert digits.fingerprints()["train data"] == "b21aca4af0ca36ee41009fe474f5648ffbbe428ae3282862601284b5a01b5b4c"
    assert digits.splits.val.labels[:8].tolist() == [5, 3, 8, 8, 1, 7, 2, 6]


def test_split_seed_and_run_seed_are_apart(digits: DigitsData) -> None:
    again = DigitsData(clients=5, cohort=2, partition=Dirichlet(1.0), seed=9)
    again.setup()
    assert again.fingerprints()["train data"] == digits.fingerprints()["train data"]
    assert again.fingerprints()["partition"] != digits.fingerprints()["partition"]
    other = DigitsData(split_seed=1)
    other.setup()
    assert other.fingerprints()["train data"] != digits.fingerprints()["train data"]


def test_no_test_split_on_request() -> None:
    data = DigitsData(test=0)
    data.setup()
    assert data.splits.test is None
    assert len(data.splits.train) == 1617


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 0}, "^validation=0 must be at least 1$"),
        ({"test": -1}, "^test=-1 must be at least 0$"),
        ({"validation": 1000, "test": 797}, "^validation=1000 and test=797 leave none of 1797 examples for training$"),
        ({"cohort": 9}, r"^cohort=9 must be in \[1, clients=8\]$"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsData(**settings).setup()
