"""The cache of tokens: used where it fits, noticed where it does not, and never in a result."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import hiso_pl.data.text.kinds
from hiso_pl.data.cache import Cache, cache_folder, cache_key
from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.tasks import GenerationOptions
from hiso_pl.data.text import PromptData, SentenceClassification

KEY = cache_key({"a": 1})
OWN = "hiso_pl-tokens-1"


@pytest.fixture
def arrays():
    return {
        "tokens": np.arange(1000, dtype=np.int32),
        "lengths": np.array([[3, 4], [5, 6]], dtype=np.int64),
        "nothing": np.zeros((0, 2), dtype=np.int64),
        "references": np.frombuffer("é".encode(), dtype=np.uint8),
    }


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


def test_what_was_written_is_read(cache, arrays):
    assert cache.read(KEY) is None
    assert cache.write(KEY, arrays)
    found = cache.read(KEY)
    assert same(found, arrays)
    with pytest.raises(ValueError, match="read-only"):
        found["tokens"][0] = 1
    assert [path.name for path in cache.folder.iterdir()] == [f"{KEY}.safetensors"]


def alter(path: Path, place: int, value: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[place] = data[place] ^ 1 if value is None else value
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["first", "header", "middle", "last", "short", "empty", "huge", "another", "json"])
def test_a_damaged_entry_is_noticed(cache, arrays, place, caplog):
    cache.write(KEY, arrays)
    path = cache.folder / f"{KEY}.safetensors"
    size = path.stat().st_size
    if place in ("first", "header", "middle", "last"):
        alter(path, {"first": 0, "header": 40, "middle": size // 2, "last": size - 1}[place])
    elif place == "short":
        path.write_bytes(path.read_bytes()[:-100])
    elif place == "empty":
        path.write_bytes(b"")
    elif place == "huge":
        path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])
    elif place == "another":
        cache.write(cache_key({"a": 2}), {"tokens": arrays["tokens"]})
        (cache.folder / f"{cache_key({'a': 2})}.safetensors").replace(path)
    elif place == "json":
        path.write_bytes((2).to_bytes(8, "little") + b"[]")
    assert cache.read(KEY) is None
    assert "damaged" in caplog.text
    assert cache.write(KEY, arrays)
    assert same(cache.read(KEY), arrays)


def test_offsets_that_lead_outside_are_refused(cache, arrays):
    cache.write(KEY, arrays)
    path = cache.folder / f"{KEY}.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    for old, new in ((b"[1000]", b"[9000]"), (b'"I32"', b'"F32"'), (b"[2,2]", b"[-2,-2]")):
        assert old in header
        changed = header.replace(old, new)
        path.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + length :])
        assert cache.read(KEY) is None


def test_a_header_has_bounds(cache, arrays):
    cache.write(KEY, arrays)
    path = cache.folder / f"{KEY}.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    longer = data[8 : 8 + length] + b" " * (1 << 20)
    path.write_bytes(len(longer).to_bytes(8, "little") + longer + data[8 + length :])
    assert cache.read(KEY) is None


def test_a_file_without_checksum_is_no_entry(cache, arrays):
    cache.folder.mkdir(parents=True)
    save_file(arrays, cache.folder / f"{KEY}.safetensors")
    assert cache.read(KEY) is None


def test_the_longest_unused_are_dropped(cache, arrays):
    keys = [cache_key({"n": n}) for n in range(4)]
    for age, key in zip((400, 300, 200), keys, strict=False):
        cache.write(key, arrays)
        os.utime(cache.folder / f"{key}.safetensors", (time.time() - age,) * 2)
    abandoned, busy = (cache.folder / f".new-{key}-a_b1c2d3" for key in keys[:2])
    abandoned.write_text("")
    os.utime(abandoned, (0, 0))
    busy.write_text("")
    assert cache.read(keys[0]) is not None  # makes it the one used last
    size = (cache.folder / f"{keys[0]}.safetensors").stat().st_size
    cache.most_bytes = int(2.5 * size)
    cache.write(keys[3], arrays)
    names = {path.name for path in cache.folder.iterdir()}
    assert names == {f"{keys[0]}.safetensors", f"{keys[3]}.safetensors", busy.name}
    cache.most_bytes = 1
    cache.write(keys[1], arrays)  # what was just made stays, however large
    assert {path.name for path in cache.folder.glob("*.safetensors")} == {f"{keys[1]}.safetensors"}


def test_where_it_lies(monkeypatch):
    monkeypatch.delenv("HISO_PL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "hiso_pl"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/hiso_pl")
    monkeypatch.setenv("HISO_PL_CACHE", "/y")
    assert cache_folder() == Path("/y")
    assert cache_folder("/z") == Path("/z")


def everything(folder: Path) -> dict[Path, bytes | str]:
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def age(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (0, 0))


def test_a_shared_folder_keeps_what_is_not_the_caches(cache, arrays):
    """Nothing but entries is dropped: told by name and content, in the cache's own folder as beside it."""
    cache.most_bytes = 1
    other = cache_key({"not": "an entry"})
    cache.folder.mkdir(parents=True)
    for folder in (cache.within, cache.folder):
        (folder / "sub").mkdir()
        (folder / f"{'a' * 64}.safetensors").mkdir()
        for name in ("llama-00001.safetensors", f"{other}.safetensors", f"{'b' * 64}.safetensors"):
            save_file(arrays, folder / name)
        save_file(arrays, folder / f"{'c' * 64}.safetensors", {"format": "hiso_pl tokens 1", "key": other})
        for name in (".new-model", f".new-{other}", f".new-{other}-", f".new-{other}-abc", f"{'d' * 64}.safetensors"):
            (folder / name).write_bytes(b"not ours")
        (folder / f".new-{'e' * 64}-abc").write_bytes(b"\xff" * 100)
        (folder / f"{'f' * 64}.safetensors").symlink_to(folder / f"{other}.safetensors")
        os.mkfifo(folder / f"{'1' * 64}.safetensors")
        os.mkfifo(folder / f".new-{'1' * 64}-abc")
    age(cache.within)
    before = everything(cache.within)
    for _ in range(3):
        assert cache.write(KEY, arrays)
    after = everything(cache.within)
    assert after.pop(cache.folder / f"{KEY}.safetensors")
    assert after == before


def test_entries_are_not_dropped_through_a_link(cache, arrays, tmp_path, caplog):
    elsewhere = Cache(tmp_path / "elsewhere")
    elsewhere.write(KEY, arrays)
    cache.within.mkdir()
    cache.folder.symlink_to(elsewhere.folder)
    cache.most_bytes = 1
    age(elsewhere.within)
    assert cache.read(KEY) is None
    assert not cache.write(cache_key({"a": 2}), arrays)
    assert caplog.text.count("is a link, must be the cache's own folder") == 2
    assert same(elsewhere.read(KEY), arrays)


def test_an_entry_that_is_a_fifo_or_a_link_is_not_waited_for(cache, arrays, tmp_path):
    cache.write(KEY, arrays)
    path = cache.folder / f"{KEY}.safetensors"
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert cache.read(KEY) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.read(KEY) is None
    assert cache.write(KEY, arrays)
    assert same(cache.read(KEY), arrays)


def test_what_a_killed_process_left_half_written_is_dropped(cache, arrays):
    cache.write(KEY, arrays)
    whole = (cache.folder / f"{KEY}.safetensors").read_bytes()
    half = cache.folder / f".new-{KEY}-abcd1234"
    half.write_bytes(whole[: len(whole) // 2])
    age(cache.folder)
    Cache(cache.within).write(cache_key({"a": 2}), arrays)
    assert not half.exists()
    assert cache.read(KEY) is not None


def test_a_cache_that_fits_is_looked_through_once(cache, arrays, monkeypatch):
    looked = []
    original = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: looked.append(path) or original(path))
    for n in range(20):
        cache.write(cache_key({"n": n}), arrays)
    assert len(looked) == 1


# In the data modules


@pytest.fixture
def module(tmp_path, tokenizer_folder):
    train = tmp_path / "train.tsv"
    train.write_text("sentence\tlabel\na fine film \t1\na bad film\t0\na film\tNegative\na great film\tpositive\n")
    val = tmp_path / "val.tsv"
    val.write_text("sentence\tlabel\na terrible film\t0\na good film\t1\n")

    def make(kind=PromptData, **options):
        files = {"train_file": str(train), "validation_file": str(val)}
        named = {"tokenizer": tokenizer_folder, "cache_dir": str(tmp_path / "cache"), **files, **options}
        return kind(clients=2, cohort=1, batch_size=2, **named)

    return make


@pytest.fixture
def made(monkeypatch):
    """Counts how often rows are turned into tokens."""
    count = []
    for name in ("encode_prompts", "encode_sentences"):
        original = getattr(hiso_pl.data.text.kinds, name)

        def counted(*args, original=original):
            count.append(1)
            return original(*args)

        monkeypatch.setattr(hiso_pl.data.text.kinds, name, counted)
    return count


def attach(data, rank: int, world: int) -> None:
    data.trainer = SimpleNamespace(global_rank=rank, local_rank=rank, world_size=world)
    data.take(ModelFacts())


def test_tokens_are_made_once_for_all_ranks_and_runs(module, made):
    first = module()
    attach(first, 0, 2)
    first.prepare_data()
    assert len(made) == 2
    ranks = [first, module()]
    for rank, data in enumerate(ranks):
        attach(data, rank, 2)
        data.setup("fit")
    again = module()
    again.prepare_data()
    again.setup()
    assert len(made) == 2
    off = module(cache=False)
    off.setup()
    assert len(made) == 4
    assert [data.fingerprints() for data in (*ranks, again)] == [off.fingerprints()] * 3
    batch, plain = (data.splits.train.collate(np.array([1, 0])) for data in (again, off))
    assert {name: value.tolist() for name, value in batch.items()} == {n: v.tolist() for n, v in plain.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"task": GenerationOptions("{sentence} It was", "label", stop=" great", max_new_tokens=2)},
        {"label_words": [" good film", " good"]},
        {"label_words": [" {sentence}", " bad"], "template": "{label} It was"},
        {"kind": SentenceClassification},
        {"max_length": 5},
        {"validation_file": None, "validation_fraction": 0.5},
    ],
)
def test_an_entry_gives_what_was_made(module, made, options):
    runs = [module(cache=False, **options), module(**options), module(**options)]
    for data in runs:
        data.setup()
    assert len(made) == 4
    assert runs[0].fingerprints() == runs[1].fingerprints() == runs[2].fingerprints()
    assert runs[0].statistics() == runs[1].statistics() == runs[2].statistics()
    assert [type(data.splits.train) for data in runs] == [type(runs[0].splits.train)] * 3
    assert runs[0].splits.train.text(1) == runs[2].splits.train.text(1)


def test_another_question_is_another_entry(module, made, tmp_path, make_tokenizer):
    make_tokenizer(single="$A").save_pretrained(tmp_path / "other")
    longer = tmp_path / "longer.tsv"
    longer.write_text((tmp_path / "train.tsv").read_text() + "a\t1\n")
    for options in (
        {},
        {"task": "sst2-hiso"},
        {"max_length": 5},
        {"train_examples": 2},
        {"train_examples": 2, "split_seed": 1},
        {"train_examples": 3},
        {"kind": SentenceClassification},
        {"tokenizer": str(tmp_path / "other")},
        {"train_file": str(longer)},
        {"template": "{sentence} was"},
        {"validation_file": None, "validation_fraction": 0.25},
        {"validation_file": None, "validation_fraction": 0.5},
    ):
        before = len(made)
        data = module(**options)
        data.setup()
        assert len(made) > before, options
        fresh = module(cache=False, **options)
        fresh.setup()
        assert data.fingerprints() == fresh.fingerprints(), options


def test_a_column_that_the_partition_wants_is_another_entry(module, made):
    plain = module()
    plain.setup()
    data = module()
    data.partition = SimpleNamespace(column="label")
    train = data.load().train
    assert len(made) == 3  # validation was there
    assert train.attribute("column:label").tolist() == [1, 0, 2, 3]


def test_what_changes_no_token_makes_no_new_entry(module, made, tmp_path):
    module().setup()
    module(split_seed=4).setup()  # nothing is drawn
    module(padding_side="left", pad_to_multiple_of=4).setup()
    copy = tmp_path / "copy.tsv"
    copy.write_bytes((tmp_path / "train.tsv").read_bytes())
    module(train_file=str(copy)).setup()
    assert len(made) == 2


def test_a_damaged_entry_changes_no_result(module, made, tmp_path, caplog):
    data = module()
    data.setup()
    for path in (tmp_path / "cache" / OWN).iterdir():
        alter(path, path.stat().st_size - 3)
    again = module()
    again.setup()
    assert len(made) == 4
    assert caplog.text.count("is damaged (its checksum") == 2
    assert again.fingerprints() == data.fingerprints()
    module().setup()
    assert len(made) == 4


def test_a_folder_that_cannot_be_written_is_said_once(module, made, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    data = module(cache_dir=str(tmp_path / "file"))
    data.prepare_data()
    data.setup()
    assert len(made) == 2
    assert caplog.text.count("Nothing is kept in cache_dir=") == 1
    assert "cannot be written (Not a directory): give another, or cache=false." in caplog.text
    assert "damaged" not in caplog.text
    other = module(cache_dir=str(tmp_path / "file"))
    attach(other, 1, 2)
    other.setup("fit")
    assert len(made) == 4
    assert caplog.text.count("Nothing is kept in cache_dir=") == 1
    assert other.fingerprints() == data.fingerprints()


def test_a_failed_write_leaves_nothing(cache, arrays, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hiso_pl.data.cache.save_file", full)
    assert not cache.write(KEY, arrays)
    assert list(cache.folder.iterdir()) == []
