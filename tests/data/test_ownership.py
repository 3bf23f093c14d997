"""Clients whose examples lie apart: what is told of them, what is compared, and that the rounds are the same."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hiso_pl.data import agreement
from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.ownership import Owner, apart
from hiso_pl.data.tasks import GenerationOptions
from hiso_pl.data.text import PromptData, SentenceClassification
from hiso_pl.federation import IID

COUNTS = (5, 1, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = itertools.cycle(["a", "fine", "film", "great", "bad"])
    for client, count in enumerate(COUNTS):
        rows = [
            {"sentence": " ".join(itertools.islice(words, 1 + (client + i) % 4)), "label": i % 2} for i in range(count)
        ]
        (tmp_path / f"{client}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "val.tsv").write_text("sentence\tlabel\na terrible film\t0\na good film\t1\n")
    return tmp_path


@pytest.fixture
def launch(folder, tokenizer_folder, monkeypatch):
    """The data modules of the ranks of a launch, set up one after another; the last one hears what all have told."""

    def launch(world: int, kind=PromptData, **options) -> list:
        files = {"train_file": f"{folder}/{{client}}.jsonl", "validation_file": str(folder / "val.tsv")}
        options = {"tokenizer": tokenizer_folder, "cache_dir": str(folder / "cache"), **files, **options}
        ranks = [kind(**{"clients": 3, "cohort": 2, "batch_size": 2, **options}) for _ in range(world)]
        told: list = []

        def tell(value):
            return list(told) if isinstance(value, dict) else [value]

        monkeypatch.setattr("hiso_pl.data.prepared.tell", tell)
        for rank, data in enumerate(ranks):
            data.trainer = SimpleNamespace(global_rank=rank, local_rank=rank, world_size=world, global_step=0)
            data.take(ModelFacts())
            told += [data.load().train.owners]
        for data in ranks:
            data.setup("fit")
        return ranks

    return launch


def rounds(ranks) -> dict:
    """The minibatches of the first rounds by round and slot, and the slots."""
    found = {}
    for data in ranks:
        for one in itertools.islice(data.train_dataloader(), 6):
            found[one.index] = one.slots.clients, one.slots.weights
            for slot, batches in zip(one.slots.own, one.batches, strict=True):
                told = [{name: tensor.tolist() for name, tensor in batch.items()} for batch in batches]
                assert found.setdefault((one.index, slot), told) == told  # type: ignore[comparison-overlap]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": SentenceClassification},
        {"label_words": [" good film", " good"]},
        {"label_words": [" {sentence}", " bad"], "template": "{label} It was"},
        {"task": GenerationOptions("{sentence} It was", "sentence", stop="", max_new_tokens=2)},
        {"cache": False},
    ],
)
def test_the_rounds_are_the_same_whoever_reads_the_files(launch, options):
    alone, two, three = (launch(world, **options) for world in (1, 2, 3))
    assert rounds(alone) == rounds(two) == rounds(three)
    assert len({json.dumps(data.fingerprints()) for data in (*alone, *two, *three)}) == 1
    assert tuple(alone[0].ownership.sizes) == tuple(three[2].ownership.sizes) == COUNTS
    assert [list(data.ownership.hosted) for data in three] == [[0], [1], [2]]
    assert [len(data.splits.train) for data in (*alone, *three)] == [9, *COUNTS]
    if options.get("kind") is None and "task" in options:
        references = [data.splits.train.references for data in (*alone, *three)]
        assert references[0] == [*references[1], *references[2], *references[3]]


def test_a_rank_opens_the_files_of_the_clients_that_it_may_host(launch, folder, monkeypatch):
    opened = []
    read = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: opened.append(Path(path).name) or read(path, *a, **k))

    def train_files(data) -> set[str]:
        opened.clear()
        data.prepare_data()
        data.load()
        return {name for name in opened if name.endswith(".jsonl")}

    for rank, data in enumerate(launch(3)):
        del data.splits
        assert train_files(data) == {f"{rank}.jsonl"}
    for data in [*launch(3, hosting="dealt"), *launch(2)]:
        del data.splits
        assert train_files(data) == {"0.jsonl", "1.jsonl", "2.jsonl"}


def test_what_is_said_of_clients_on_other_ranks(launch, caplog):
    with caplog.at_level("INFO", logger="hiso_pl.data.text"):
        alone, here = launch(1)[0], launch(3)[0]
    assert "training: 9 examples" in caplog.text
    assert "training (of client 0, one of 3): 5 examples" in caplog.text
    assert hasattr(alone, "parts")
    assert not hasattr(here, "parts")
    assert here.statistics()["clients"] == [alone.statistics()["clients"][0], {"examples": 1}, {"examples": 3}]
    assert here.describe_clients().splitlines()[2:] == [
        alone.describe_clients().splitlines()[2],
        "| 1 | 1 |",
        "| 2 | 3 |",
    ]


def test_changed_examples_of_one_client_change_the_fingerprints_on_every_rank(launch, folder):
    before = launch(3)[0].fingerprints()
    path = folder / "2.jsonl"
    path.write_text(path.read_text().replace('"label": 0', '"label": 1', 1))
    [alone], ranks = launch(1), launch(3)
    for data in (alone, *ranks):
        after = data.fingerprints()
        assert [name for name in before if before[name] != after[name]] == ["train data"]


@pytest.mark.parametrize("world", [1, 3])
def test_a_client_with_other_columns_is_named(launch, folder, world):
    path = folder / "1.jsonl"
    path.write_text(path.read_text().replace("}", ', "site": 3}'))
    message = r"^client 1 \(\S+1\.jsonl\) has columns label, sentence, site, but client 0 \(\S+0\.jsonl\) has label, s"
    with pytest.raises(ValueError, match=message):
        launch(world)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": IID()}, r"^partition=IID and train_file='.*{client}\.jsonl' exclude each other"),
        ({"train_examples": 2}, "^train_examples=2 must be left out: train_file="),
        ({"validation_file": None, "validation_fraction": 0.5}, r"^validation_fraction=0\.5 must be left out"),
        ({"validation_file": "{client}.tsv"}, "^validation_file='{client}.tsv' must be one file for all"),
        ({"test_file": "{client}.tsv"}, "^test_file='{client}.tsv' must be one file for all"),
    ],
)
def test_what_needs_all_examples_is_refused(launch, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        launch(1, **options)
    assert "\n" not in str(caught.value)


def owner(fingerprint="f", examples=2, **alike) -> Owner:
    return Owner("there", examples, fingerprint, {"columns": "a, b", "tokenizer": "t", **alike})


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([{0: owner()}, {1: owner("g")}, {1: owner("h")}], "^client 1: rank 2 finds other examples in there than"),
        (
            [{0: owner()}, {1: owner(tokenizer="u")}],
            r"^client 1 \(there\) has tokenizer u, but client 0 \(there\) has t: must be the same of all clients$",
        ),
        (
            [{0: owner()}, None],
            "^rank 1 is to divide all examples, on other ranks they lie apart by client: must agree$",
        ),
        ([{0: owner()}], r"^examples of clients \[0\] are here, must be those of all clients=2$"),
    ],
)
def test_clients_that_cannot_be_of_one_run_are_refused(told, message):
    with pytest.raises(ValueError, match=message):
        apart(told[0], told, 2)


def test_what_one_rank_raises_all_raise(monkeypatch):
    said = []

    def tell(value):
        said.append(value)
        return [None, value, "client 3: broken"]

    monkeypatch.setattr(agreement, "tell", tell)
    with pytest.raises(ValueError, match=r"^client 3: broken$"), agreement.together():
        pass
    with pytest.raises(OSError, match="out of paper"), agreement.together():
        raise OSError("out of paper")
    with pytest.raises(KeyboardInterrupt), agreement.together():
        raise KeyboardInterrupt
    assert said == [None, "out of paper"]
