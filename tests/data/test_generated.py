"""Generated examples: pure functions of seed, split and number, for very many clients at no cost."""

from __future__ import annotations

import hashlib
import itertools
import time
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hiso_pl.callbacks.pictures import partition_counts
from hiso_pl.data import GeneratedData, ModelFacts
from hiso_pl.data.generated import GeneratedExamples
from hiso_pl.data.rounds import Round
from hiso_pl.federation import Dirichlet, LabelShards
from hiso_pl.models import Perceptron
from hiso_pl.zeroth_order import Diagonal, Method
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import new_optimizer
from hiso_pl.zeroth_order.philox import Purpose, last_word, philox4x32

DIFFERENT = {"own_means": 0.5, "own_shift": 2.0, "label_noise": 0.25}


def ready(rank: int = 0, world: int = 1, **options: Any) -> GeneratedData:
    data = GeneratedData(**{"clients": 20, "cohort": 4, "validation": 50, "test": 60, **options})
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=0)  # type: ignore[assignment]
    data.take(ModelFacts())
    data.setup("fit")
    return data


def features(examples: GeneratedExamples | Any, indices: Any) -> np.ndarray:
    return examples.collate(np.asarray(indices))["features"].numpy()


@pytest.mark.parametrize("options", [{}, {**DIFFERENT, "features": 7, "classes": 3}])
def test_an_example_is_the_same_in_any_batch_and_order(options: dict[str, Any]) -> None:
    examples = ready(examples_per_client=3, **options).splits.train
    whole = examples.collate(np.arange(60))
    order = np.random.default_rng(0).permutation(60)
    mixed = examples.collate(order)
    assert whole["features"].dtype == torch.float32
    assert torch.equal(mixed["features"], whole["features"][order])
    assert torch.equal(mixed["label"], whole["label"][order])
    for i in (0, 17, 59):
        one = examples.collate(np.array([i]))
        assert torch.equal(one["features"][0], whole["features"][i])
        assert one["label"] == whole["label"][i] == examples.labels_at(np.array([i]))[0] == examples.labels[i]


def test_examples_are_the_ones_written_down() -> None:
    """The words of the counter that the docstring names, and the bits that follow from them."""
    splits = ready(data_seed=3, examples_per_client=2, **DIFFERENT).splits
    counter = np.array([[0, 7, 1, last_word(Purpose.EXAMPLES, 0)]], dtype=np.uint32)
    word = philox4x32(counter, 3)[0].tolist()
    anew = word[1] < 0.25 * 2**32
    assert splits.val.labels[7] == word[2 if anew else 0] * 10 >> 32
    bits = hashlib.sha256(b"".join(features(split, range(40)).tobytes() for split in splits if split)).hexdigest()
    assert bits[:16] == "4c0f627f90d43983"


def test_splits_and_seeds_are_apart() -> None:
    data, again, other = ready(), ready(seed=9), ready(data_seed=1)
    rows = [features(split, range(20)) for split in data.splits if split is not None]
    assert all(not np.array_equal(one, two) for one, two in itertools.combinations(rows, 2))
    assert np.array_equal(rows[0], features(again.splits.train, range(20)))
    assert data.fingerprints() == again.fingerprints()
    prints = [ready(**{name: value}).fingerprints() for name, value in (*DIFFERENT.items(), ("separation", 3.0))]
    assert len({one["train data"] for one in (data.fingerprints(), other.fingerprints(), *prints)}) == 6


def test_labels_are_even_and_noise_is_as_asked() -> None:
    examples = ready(clients=20_000).splits.train
    assert np.bincount(examples.labels, minlength=10).std() < 3 * np.sqrt(20_000 * 0.09)
    noisy = ready(clients=20_000, label_noise=0.3).splits.train
    changed = (examples.labels != noisy.labels).mean()
    assert changed == pytest.approx(0.3 * 0.9, abs=0.015)
    assert np.array_equal(features(examples, range(99)), features(noisy, range(99)))


def test_examples_lie_around_the_centres_that_their_client_has() -> None:
    def centres(**options: Any) -> np.ndarray:
        """Means by client and class, shape ``[2, 2, F]``."""
        examples = ready(clients=2, cohort=2, examples_per_client=4000, classes=2, features=8, **options).splits.train
        rows = features(examples, range(8000)).reshape(2, 4000, 8)
        labels = examples.labels.reshape(2, 4000)
        return np.stack([[rows[i][labels[i] == c].mean(axis=0) for c in (0, 1)] for i in (0, 1)])

    alike, moved, own = centres(), centres(own_shift=3.0), centres(own_means=1.0)
    assert np.abs(alike[0] - alike[1]).max() < 0.12  # the mean of 2,000 has a deviation of 0.022
    assert np.abs(moved[0] - moved[1]).max() > 1.0
    assert np.abs((moved[0, 0] - moved[0, 1]) - (alike[0, 0] - alike[0, 1])).max() < 0.12
    assert np.abs((own[0, 0] - own[0, 1]) - (own[1, 0] - own[1, 1])).max() > 1.0


def test_a_client_owns_its_own_examples_unless_a_partition_divides_them() -> None:
    data = ready(examples_per_client=3)
    assert [part.tolist() for part in data.parts] == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(20)]
    divided = ready(examples_per_client=30, partition=Dirichlet(0.1))
    assert sum(divided.ownership.sizes) == 600
    assert max(divided.ownership.sizes) > 40
    few = ready(examples_per_client=30, partition=LabelShards(1))
    assert max(len(np.unique(few.splits.train.labels[part])) for part in few.parts) <= 2


@pytest.mark.parametrize("world", [2, 3])
def test_every_rank_count_plays_the_same_rounds(world: int) -> None:
    def played(rank: int, world: int) -> dict[tuple[int, int], bytes]:
        rounds: Any = itertools.islice(ready(rank, world, **DIFFERENT).train_dataloader(), 4)
        return {
            (one.index, slot): batches[0]["features"].numpy().tobytes()
            for one in rounds
            for slot, batches in zip(one.slots.own, one.batches, strict=True)
        }

    shared = [played(rank, world) for rank in range(world)]
    assert {key: value for part in shared for key, value in part.items()} == played(0, 1)


def test_a_round_of_a_hundred_thousand_clients_takes_no_more_than_one_of_forty() -> None:
    """Start, two rounds, fingerprints and what the picture shows, in bytes that a list of arrays would not fit in."""

    def run(clients: int) -> tuple[int, float, str]:
        torch.manual_seed(0)
        network = Perceptron(hidden=4)
        method = Method(preconditioner=Diagonal())
        optimizer = new_optimizer(method, network.named_parameters(), seed=0, network=network)
        tracemalloc.start()
        start = time.process_time()
        data = ready(clients=clients, cohort=32, batch_size=16)
        for one in itertools.islice(data.train_dataloader(), 2):
            assert isinstance(one, Round)
            assert [len(batch[0]["label"]) for batch in one.batches] == [1] * 32  # a client's one, of 16 asked for
            optimizer.step(losses=[lambda k, of=of: network.loss(of[k]) for of in one.batches], slots=one.slots)
        counts = partition_counts(data.splits.train, data.parts, data.ownership.sizes, "label")[0]
        data.fingerprints()
        peak, seconds = tracemalloc.get_traced_memory()[1], time.process_time() - start
        tracemalloc.stop()
        assert len(counts) == min(clients, 2000)
        return peak, seconds, digest(optimizer)

    few, many = run(40), run(100_000)
    assert many[0] - few[0] < 6e6
    assert many[1] < few[1] + 3.0
    assert many[2] != few[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples_per_client": 0}, r"^examples_per_client=0 must be in \[1, 2\*\*32\)$"),
        ({"classes": 1}, r"^classes=1 must be in \[2, 2\*\*32\)$"),
        ({"validation": 0}, r"^validation=0 must be in \[1, "),
        ({"clients": 10**6, "examples_per_client": 10**5}, r"^examples_per_client=100000 for each of clients=1000000 "),
        ({"label_noise": 1.0}, r"^label_noise=1\.0 must be in \[0, 1\)$"),
        ({"own_means": 1.5}, r"^own_means=1\.5 must be in \[0, 1\]$"),
        ({"separation": float("nan")}, r"^separation=nan must be in \[0, 1e6\]$"),
        ({"data_seed": -1}, r"^seed=-1 must be"),
        (
            {"partition": Dirichlet(), "own_shift": 1.0},
            r"^partition=Dirichlet must be null with own_means=0\.0 and own_shift=1\.0: examples that are a client's",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratedData(**options)


def test_a_network_of_other_features_is_refused_before_work_begins() -> None:
    with pytest.raises(ValueError, match=r"^features=16 of the network must be 32, the data's$"):
        GeneratedData().take(ModelFacts(num_features=16))
    data = GeneratedData()
    data.take(ModelFacts(num_labels=3))
    with pytest.raises(ValueError, match=r"^num_labels=3 of the network must be the number of the data's classes, 10"):
        data.setup()
