"""A file of data asks for no more than the limits: bytes, rows, a row, compressed or not, and only regular files."""

from __future__ import annotations

import json
import os
import textwrap
import time
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hiso_pl.data.limits import ReadLimits
from hiso_pl.data.readers import open_table, parse_rows
from hiso_pl.data.sources import FileTable, open_dataset
from hiso_pl.data.text import PromptData
from hiso_pl.data.values import text_values
from tests.isolated import isolated


def read(path: Path, **limits: int) -> list[dict[str, str]]:
    with open_table(path, ReadLimits(**limits)) as file:
        return [row for _, row in parse_rows(path, file, ReadLimits(**limits))]


def refusal(path: Path, **limits: int) -> str:
    with pytest.raises(ValueError, match=path.name) as caught:
        read(path, **limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["bytes", "rows", "row_bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_are_positive(name, value):
    with pytest.raises(ValueError, match=f"read_limits.{name}={value} must be at least 1"):
        ReadLimits(**{name: value})


@pytest.mark.parametrize("kind", ["fifo", "device", "socket", "folder"])
@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_only_regular_files_are_read(tmp_path, kind, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    path = Path(f"x{suffix}")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mknod(path, 0o140600)
    begun = time.monotonic()
    said = {"fifo": "a FIFO", "device": "a device", "socket": "a socket", "folder": "Is a directory"}[kind]
    assert said in refusal(path)
    assert time.monotonic() - begun < 5


def lines(suffix: str, count: int, text: str = "x") -> bytes:
    if suffix == ".parquet":
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table({"s": [text] * count}), sink)
        return sink.getvalue().to_pybytes()
    header = b"" if suffix == ".jsonl" else b"s\n"
    row = json.dumps({"s": text}) if suffix == ".jsonl" else text
    return header + (row + "\n").encode() * count


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_limits_are_exact(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(lines(suffix, 10))
    assert len(read(path, rows=10)) == 10
    assert "rows, must have at most read_limits.rows=9" in refusal(path, rows=9)
    size = path.stat().st_size
    assert f"{size} bytes, must have at most read_limits.bytes={size - 1}" in refusal(path, bytes=size - 1)
    path.write_bytes(lines(suffix, 3, "y" * 1000))
    assert len(read(path, row_bytes=1010)) == 3
    assert "must have at most read_limits.row_bytes=900" in refusal(path, row_bytes=900)
    if suffix != ".parquet":  # where what it says of itself takes more
        assert "in memory, must take at most read_limits.bytes=" in refusal(path, bytes=path.stat().st_size + 100)


def test_a_quoted_row_of_many_lines_is_one_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("s,t\n" + '"' + "x\n" * 400 + '",1\n')
    assert len(read(path, row_bytes=1000)) == 1
    assert "a.csv line 2 has" in refusal(path, row_bytes=700)


def test_many_empty_cells_take_memory_too(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("\t".join(map(str, range(10_000))) + "\n" + ("\t" * 9_999 + "\n") * 100)
    assert "in memory" in refusal(path, bytes=20_000_000)


def test_a_file_that_grows_is_not_followed(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(lines(".tsv", 10))
    with open_table(path, ReadLimits(bytes=10_000)) as file:
        with path.open("ab") as more:
            more.write((b"x" * 5000 + b"\n") * 100)
        with pytest.raises(ValueError, match=r"a\.tsv has 10024 bytes"):
            parse_rows(path, file, ReadLimits(bytes=10_000))


def test_a_file_that_is_changed_while_it_is_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("s\na\n")
    table = FileTable(str(path))
    path.write_text("s\nb\n")
    with pytest.raises(ValueError, match="was changed while it was read"):
        len(table)


# Parquet: few bytes, much to read


def written(path: Path, column: pyarrow.Array, **options: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"s": column}), path, **{"compression": "zstd", **options})
    return path


BOMBS = {
    "rows": lambda: pyarrow.array(np.zeros(20_000_000, dtype=np.int8)),
    "a text": lambda: pyarrow.array(["x" * (40 << 20)]),
    "a text in each row": lambda: pyarrow.DictionaryArray.from_arrays(np.zeros(10**6, np.int32), ["x" * (40 << 20)]),
    "a list of it": lambda: pyarrow.ListArray.from_arrays(
        [0, 10**7], pyarrow.DictionaryArray.from_arrays(np.zeros(10**7, np.int32), ["x" * 10**6])
    ),
    "a list of nothing": lambda: pyarrow.ListArray.from_arrays([0, 10**7], pyarrow.nulls(10**7)),
    "texts that fit": lambda: pyarrow.DictionaryArray.from_arrays(np.zeros(10**6, np.int32), ["x" * (3 << 20)]),
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    for name, column in BOMBS.items():
        assert written(folder / f"{name}.parquet", column()).stat().st_size < 300_000
    repeated = folder / "a text that repeats.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"s": ["x" * (3 << 20)] * 250}),
        repeated,
        use_dictionary=False,
        column_encoding="DELTA_BYTE_ARRAY",
        compression="zstd",
    )
    return folder


@pytest.mark.slow
def test_small_files_that_hold_much_are_refused_in_bounded_memory(bombs):
    """One and a half GiB of memory beside what libraries take, three of addresses, and a limit of half a GiB."""
    code = """
        import resource, sys, time
        import pyarrow.parquet
        from pathlib import Path
        from hiso_pl.data.limits import ReadLimits
        from hiso_pl.data.readers import open_table, parse_rows
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, ((pages << 12) + (3 << 30),) * 2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        limits = ReadLimits(bytes=1 << 29)
        for path in sorted(Path(sys.argv[1]).iterdir()):
            begun = time.monotonic()
            try:
                with open_table(path, limits) as file:
                    parse_rows(path, file, limits)
                print("read", path.name)
            except ValueError as error:
                print(error if "read_limits." in str(error) else repr(error))
            assert time.monotonic() - begun < 60
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 << 19
    """
    said = isolated(textwrap.dedent(code), str(bombs)).splitlines()
    assert len(said) == len(BOMBS) + 1
    assert all(" must " in line and "read_limits." in line for line in said), "\n".join(said)


def test_what_a_footer_says_is_not_believed(tmp_path):
    """A page that says of itself that it holds far more than the footer says."""
    path = written(tmp_path / "a.parquet", pyarrow.array(["x" * (50 << 20)]), use_dictionary=False)
    about = pyarrow.parquet.read_metadata(path).row_group(0).column(0)
    size = about.total_uncompressed_size
    data = path.read_bytes()
    told = varint(size)
    assert told in data[-400:]
    lie = data[:-400] + data[-400:].replace(told, varint(size // 2 | 1 << 20))
    path.write_bytes(lie)
    assert pyarrow.parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size < size
    assert "must have at most read_limits.bytes=40000000" in refusal(path, bytes=40_000_000)


def varint(number: int) -> bytes:
    number, out = number << 1, b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"data_page_size": 2000},
        {"row_group_size": 70},
        {"data_page_version": "2.0"},
        {"dictionary_pagesize_limit": 3000},
        {"compression": "none", "version": "1.0"},
        {"use_dictionary": False, "column_encoding": {"s": "DELTA_BYTE_ARRAY", "t": "DELTA_LENGTH_BYTE_ARRAY"}},
    ],
)
def test_rows_are_those_that_arrow_reads(tmp_path, options):
    texts = [f"{zlib.crc32(b'%d' % i):x} " * (i % 7) for i in range(3000)]
    table = pyarrow.table(
        {
            "s": texts,
            "t": [text or None for text in texts],
            "n": range(3000),
            "f": [i / 7 for i in range(3000)],
            "b": [i % 3 == 0 for i in range(3000)],
            "list": [texts[i : i + i % 3] for i in range(3000)],
            "deep": [{"text": [texts[i]] * (i % 2), "start": i} if i % 5 else None for i in range(3000)],
            "bytes": [text.encode() for text in texts],
        }
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, **options)
    assert read(path) == [text_values(values) for values in table.to_pylist()]


# Folders saved by datasets


@pytest.fixture
def saved(tmp_path) -> Path:
    datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]}).save_to_disk(str(tmp_path / "d"))
    return tmp_path / "d"


def rows_of(folder: Path, **limits: int) -> list[dict[str, str]]:
    table = open_dataset(str(folder), None, "train", "train_split", ReadLimits(**limits))
    return [row for _, row in table.rows(range(len(table)))]


def test_saved_datasets_have_the_limits_of_files(saved):
    assert len(rows_of(saved)) == 2
    for limits, words in (({"bytes": 100}, "bytes=100"), ({"rows": 1}, "rows=1"), ({"row_bytes": 1}, "row_bytes=1")):
        with pytest.raises(ValueError, match=f"read_limits.{words}"):
            rows_of(saved, **limits)


def test_files_of_a_saved_dataset_are_its_own(saved):
    [data] = saved.glob("*.arrow")
    data.rename(saved.parent / data.name)
    data.symlink_to(saved.parent / data.name)
    with pytest.raises(ValueError, match="must be a regular file of that folder"):
        rows_of(saved)
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(ValueError, match="must be a regular file of that folder"):
        rows_of(saved)


def test_what_datasets_would_decode_is_left_as_it_is(saved):
    """An image or a sound names a file, or a place on the network, which would be read from there."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    label = pyarrow.array([{"bytes": None, "path": "/etc/passwd"}], kind)
    table = pyarrow.table({"sentence": ["a"], "label": label})
    [data] = saved.glob("*.arrow")
    with data.open("wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    info = json.loads((saved / "dataset_info.json").read_text())
    info["features"]["label"] = {"_type": "Image"}
    (saved / "dataset_info.json").write_text(json.dumps(info))
    [row] = rows_of(saved)
    assert json.loads(row["label"]) == {"bytes": None, "path": "/etc/passwd"}


def test_compressed_arrow_is_refused_before_it_is_read(saved):
    table = pyarrow.table({"sentence": ["x" * (1 << 20)] * 2, "label": [0, 1]})
    [data] = saved.glob("*.arrow")
    for compression in ("zstd", "lz4"):
        options = pyarrow.ipc.IpcWriteOptions(compression=compression)
        with data.open("wb") as file, pyarrow.ipc.new_stream(file, table.schema, options=options) as writer:
            writer.write_table(table)
        with pytest.raises(ValueError, match="is compressed, must be as datasets saves it"):
            rows_of(saved)


def test_texts_that_are_repeated_in_arrow_are_weighed_first(saved):
    column = pyarrow.DictionaryArray.from_arrays(np.zeros(10_000, np.int32), ["x" * (1 << 20)])
    table = pyarrow.table({"sentence": column, "label": range(10_000)})
    [data] = saved.glob("*.arrow")
    with data.open("wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match=r"cannot be read as a saved dataset|read_limits\.bytes"):
        rows_of(saved, bytes=50_000_000)


# The option


def test_the_option_of_the_data_module(tmp_path, tokenizer_folder):
    path = tmp_path / "a.tsv"
    path.write_text("sentence\tlabel\na film\t1\na bad film\t0\n")
    options = {"train_file": str(path), "validation_file": str(path), "tokenizer": tokenizer_folder, "cache": False}
    sizes = {"clients": 2, "cohort": 1, "batch_size": 1}
    PromptData(**options, **sizes).setup()
    with pytest.raises(ValueError, match=r"a\.tsv has 2 rows, must have at most read_limits\.rows=1"):
        PromptData(read_limits=ReadLimits(rows=1), **options, **sizes).setup()
