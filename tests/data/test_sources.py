"""Data saved by the package datasets and data of the hub: what is read, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import pytest

from hiso_pl.data.readers import open_table, parse_rows
from hiso_pl.data.sources import FileTable, open_dataset
from hiso_pl.data.tasks import GenerationOptions
from hiso_pl.data.text import PromptData
from hiso_pl.data.values import NULL

TRAIN = {"sentence": ["a fine film", "a bad film", "a film", "a"], "label": [1, 0, 0, 1]}
VALIDATION = {"sentence": ["a good film"], "label": [1]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HISO_PL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def saved(tmp_path) -> str:
    parts = {"train": TRAIN, "dev": VALIDATION, "test": VALIDATION}
    folder = tmp_path / "saved"
    datasets.DatasetDict({n: datasets.Dataset.from_dict(p) for n, p in parts.items()}).save_to_disk(folder)
    return str(folder)


@pytest.fixture
def module(tokenizer_folder):
    def make(**options):
        return PromptData(tokenizer=tokenizer_folder, clients=2, cohort=1, batch_size=2, task="sst2-hiso", **options)

    return make


def test_a_saved_folder_gives_the_same_as_a_file(module, saved, tmp_path):
    data = module(dataset=saved, validation_split="dev", test_split="test")
    data.setup()
    for name, columns in (("train", TRAIN), ("dev", VALIDATION)):
        lines = ["sentence\tlabel", *("\t".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    files = module(train_file=str(tmp_path / "train.tsv"), validation_file=str(tmp_path / "dev.tsv"))
    files.setup()
    assert files.fingerprints().items() <= data.fingerprints().items()
    assert data.splits.test.fingerprint() == data.splits.val.fingerprint()


def test_a_single_saved_dataset_is_for_training(module, tmp_path):
    folder = tmp_path / "one"
    datasets.Dataset.from_dict(TRAIN).save_to_disk(folder)
    data = module(dataset=str(folder), validation_fraction=0.25, train_examples=2)
    data.setup()
    assert [len(split) for split in data.splits[:2]] == [2, 1]
    message = "has no split 'validation', there are train: name one by validation_split or give validation_fraction$"
    with pytest.raises(ValueError, match=message):
        module(dataset=str(folder)).setup()


def test_rows_keep_their_place_and_the_spelling_of_json(tmp_path):
    columns = {"text": ["a", None, "c"], "answers": [{"text": ["x"]}, {"text": []}, {"text": ["y"]}], "n": [1, 2, 3]}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "d")
    table = open_dataset(str(tmp_path / "d"), None, "train", "train_split")
    assert len(table) == 3
    assert list(table.rows([2, 1])) == [
        (f"{tmp_path}/d row 2", {"text": "c", "answers": '{"text": ["y"]}', "n": "3"}),
        (f"{tmp_path}/d row 1", {"text": NULL, "answers": '{"text": []}', "n": "2"}),
    ]


def test_equal_data_have_equal_identities_wherever_they_lie(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    tables = [open_dataset(str(folder), None, "train", "x") for folder in (saved, tmp_path / "copy")]
    assert tables[0].identity() == tables[1].identity()
    assert tables[0].identity() != open_dataset(saved, None, "dev", "x").identity()
    for name in ("a.csv", "b.csv", "c.tsv"):
        (tmp_path / name).write_text("a,b\n1,2\n")
    a, b, c = (FileTable(str(tmp_path / name)).identity() for name in ("a.csv", "b.csv", "c.tsv"))
    assert a == b != c


def test_a_missing_split_is_answered_with_those_there_are(module, saved):
    message = "has no split 'validation', there are train, dev, test: name one by validation_split or give validation_f"
    with pytest.raises(ValueError, match=message):
        module(dataset=saved).setup()
    message = "has no split 'trian', there are train, dev, test: name one by train_split$"
    with pytest.raises(ValueError, match=message):
        module(dataset=saved, train_split="trian", validation_split="dev").setup()


def test_a_missing_split_of_the_hub_is_answered_likewise(module, monkeypatch):
    def load_dataset(path, name, split):
        if split != "train":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train', 'test'].")
        return datasets.Dataset.from_dict(TRAIN)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = r"dataset='own/data' has no split 'validation', there are 'train', 'test': name one by validation_split"
    with pytest.raises(ValueError, match=message):
        module(dataset="own/data").setup()
    data = module(dataset="own/data", dataset_name="small", validation_fraction=0.5)
    data.setup()
    assert [len(split) for split in data.splits[:2]] == [2, 2]


def damage(folder: Path, what: str) -> None:
    part = folder / "train"
    [arrow] = part.glob("*.arrow")
    if what == "info":
        (part / "dataset_info.json").unlink()
    elif what == "dict":
        (folder / "dataset_dict.json").unlink()
    elif what == "state":
        (part / "state.json").write_text("{")
    elif what == "short":
        arrow.write_bytes(arrow.read_bytes()[:100])
    elif what == "gone":
        arrow.unlink()
    elif what == "elsewhere":
        state = json.loads((part / "state.json").read_text())
        state["_data_files"] = [{"filename": f"../dev/{arrow.name}"}]
        (part / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("info", "no dataset_info.json for split 'train', must be saved by datasets"),
        ("dict", "the folder holds no dataset_dict.json, nor dataset_info.json with state.json"),
        ("state", r"train/state\.json: not JSON"),
        ("short", "saved/train cannot be read as a saved dataset"),
        ("gone", "saved/train cannot be read as a saved dataset"),
        ("elsewhere", "state.json of split 'train' must name files of that folder"),
    ],
)
def test_broken_folders_are_refused_in_one_line(module, saved, what, message):
    damage(Path(saved), what)
    with pytest.raises(ValueError, match=message) as caught:
        module(dataset=saved, validation_split="dev").setup()
    assert "\n" not in str(caught.value)


def test_what_is_no_dataset(module, tmp_path):
    (tmp_path / "file.tsv").write_text("")
    for dataset, message in (
        (str(tmp_path / "nowhere"), "no such folder; give one saved by datasets, or a name on the hub"),
        (str(tmp_path / "file.tsv"), "is a file, must be a folder or a name on the hub; give train_file"),
        (str(tmp_path), "the folder holds no dataset_dict.json"),
    ):
        with pytest.raises(ValueError, match=message):
            module(dataset=dataset).setup()


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ('{"sentence": "a", "label": [1]}', {}, r"t\.jsonl line 1: label='\[1\]' must be 0 to 1 or one of negative"),
        ('{"sentence": null, "label": 1}', {}, r"t\.jsonl line 1: column 'sentence' is null, must say something"),
        ('{"sentence": "a", "label": 1}\n{"sentence": "a", "label": 1.5}', {}, r"t\.jsonl line 2: label='1\.5' must"),
        ('{"sentence": "a", "label": 1}', {"label_column": "y"}, r"t\.jsonl line 1: no column 'y', there are sentence"),
    ],
)
def test_wrong_types_in_json(module, tmp_path, lines, options, message):
    path = tmp_path / "t.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match=message) as caught:
        module(train_file=str(path), validation_file=str(path), **options).setup()
    assert "\n" not in str(caught.value)


def test_wrong_types_in_json_answers(tokenizer_folder, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "answers": {"text": {"x": 1}}}\n')
    task = GenerationOptions("{text} It was", "answers.text", stop=" great")
    data = PromptData(task=task, train_file=str(path), validation_file=str(path), tokenizer=tokenizer_folder)
    with pytest.raises(ValueError, match=r"t\.jsonl line 1: answers\.text must lead to text"):
        data.setup()


def test_parquet_of_a_users_own(module, tmp_path):
    path = tmp_path / "t.parquet"
    datasets.Dataset.from_dict(TRAIN).to_parquet(path)
    assert parse_rows(path, open_table(path))[1] == (1, {"sentence": "a bad film", "label": "0"})
    data = module(train_file=str(path), validation_file=str(path))
    data.setup()
    assert data.splits.train.labels.tolist() == TRAIN["label"]
    datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 2]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"t\.parquet row 1: label='2' must be 0 to 1"):
        module(train_file=str(path), validation_file=str(path)).setup()
