"""Tables of text: what is read, and that a broken row is named by file and line."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import pytest

from hiso_pl.data.limits import ReadLimits, Row
from hiso_pl.data.readers import open_table, parse_rows, row_name
from hiso_pl.data.values import NULL


def numbered_rows(path: str | Path) -> list[tuple[int, Row]]:
    return parse_rows(path, open_table(path))


def read_table(path: str | Path) -> list[Row]:
    return [row for _, row in numbered_rows(path)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_tsv_is_not_quoted_and_split_at_newlines_only(tmp_path):
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\nsay "hi\t1\r\none\x85two\u2028three , \t0\n')
    assert read_table(path) == [
        {"sentence": 'say "hi', "label": "1"},
        {"sentence": "one\x85two\u2028three , ", "label": "0"},
    ]


def test_csv_is_quoted_and_counts_the_lines_of_a_cell(tmp_path):
    path = write(tmp_path / "a.csv", '\ufefftext,label\n"a, ""b""\nc",pos\n\nd,neg\n')
    assert numbered_rows(path) == [(2, {"text": 'a, "b"\nc', "label": "pos"}), (5, {"text": "d", "label": "neg"})]


def test_jsonl_keeps_the_json_spelling_of_what_is_not_text(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "é", "label": true}\n\n{"label": 3, "x": null, "y": [1]}')
    assert numbered_rows(path) == [(1, {"text": "é", "label": "true"}), (3, {"label": "3", "x": NULL, "y": "[1]"})]


def test_a_json_document_is_a_list_or_what_sets_lay_around_one(tmp_path, monkeypatch):
    rows = [{"text": "é", "label": True}, {"text": "b\n", "n": [1]}]
    expected = [(0, {"text": "é", "label": "true"}), (1, {"text": "b\n", "n": "[1]"})]
    for document in (rows, {"version": 1, "data": rows}, {"first": rows[0], "second": rows[1]}):
        path = write(tmp_path / "a.json", b"\xef\xbb\xbf" + json.dumps(document, indent=1).encode())
        assert numbered_rows(path) == expected
    assert numbered_rows(write(tmp_path / "b.json", json.dumps(rows[0]))) == expected[:1]
    assert row_name("a.json", 1) == "a.json entry 1"
    with pytest.raises(
        ValueError, match=r"c\.json holds \d+ values of at least \d+ bytes, must have at most read_limits"
    ):
        parse_rows("c.json", io.BytesIO(b"[" + b"[]," * 1000 + b"[]]"), ReadLimits(bytes=10_000))
    monkeypatch.setattr("hiso_pl.data.json_document.JSON_DOCUMENT_BYTES", 20)
    with pytest.raises(
        ValueError, match=r"a\.json has over 20 bytes, must be \.jsonl, one object a line, to have more"
    ):
        read_table(path)


def test_a_long_cell_is_read_as_the_same_row_is_from_jsonl(tmp_path):
    """The module csv would stop at 131,072 characters; what a row may have is bounded by read_limits."""
    text = "words, " * 30_000
    found = read_table(write(tmp_path / "a.csv", f'text,label\n"{text}",1\n'))
    assert found == read_table(write(tmp_path / "a.jsonl", json.dumps({"text": text, "label": 1}) + "\n"))
    assert len(found[0]["text"]) == 210_000
    with pytest.raises(
        ValueError, match=r"a\.csv line 2 has \d+ bytes or more, must have at most read_limits\.row_bytes"
    ):
        parse_rows("a.csv", open_table(tmp_path / "a.csv"), ReadLimits(row_bytes=200_000))


def test_numbers_are_spelled_alike(tmp_path):
    import pyarrow

    values = {"i": 1, "f": 1.0, "s": 0.1, "big": 10**18, "b": False, "e": 1e-7}
    row = {"i": "1", "f": "1.0", "s": "0.1", "big": "1000000000000000000", "b": "false", "e": "1e-07"}
    assert read_table(write(tmp_path / "a.jsonl", json.dumps(values))) == [row]
    columns = {name: pyarrow.array([value]) for name, value in values.items()}
    short = {"s": pyarrow.array([0.1], "float32"), "i": pyarrow.array([1], "uint8")}
    for table in (columns, {**columns, **short}):
        assert read_table(write(tmp_path / "a.parquet", parquet(table))) == [row]
    others = {"d": pyarrow.array([datetime.date(2024, 5, 1)]), "n": pyarrow.array([float("nan")])}
    assert read_table(write(tmp_path / "a.parquet", parquet(others))) == [{"d": "2024-05-01", "n": NULL}]


def test_two_columns_of_one_name_are_refused(tmp_path):
    import pyarrow

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    with pytest.raises(ValueError, match=r"a\.parquet: .*column names must be distinct, are text, text"):
        read_table(write(tmp_path / "a.parquet", sink.getvalue().to_pybytes()))


def parquet(columns: dict[str, Any]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=2)
    return sink.getvalue().to_pybytes()


def test_parquet_keeps_the_json_spelling_of_what_is_not_text(tmp_path):
    columns = {"text": ["a", "b\n", None], "label": [1, 0, 2], "answers": [["x"], [], ["y", "é"]]}
    assert numbered_rows(write(tmp_path / "a.parquet", parquet(columns))) == [
        (0, {"text": "a", "label": "1", "answers": '["x"]'}),
        (1, {"text": "b\n", "label": "0", "answers": "[]"}),
        (2, {"text": NULL, "label": "2", "answers": '["y", "\\u00e9"]'}),
    ]


def test_broken_parquet_is_named_with_the_row(tmp_path):
    whole = parquet({"text": [f"{i} " * 500 for i in range(10)]})
    with pytest.raises(ValueError, match=r"a\.parquet: not Parquet, or damaged") as caught:
        read_table(write(tmp_path / "a.parquet", whole[: len(whole) // 2]))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"b\.parquet: not Parquet, or damaged"):
        read_table(write(tmp_path / "b.parquet", '{"text": "a"}\n'))
    with pytest.raises(ValueError, match=r"d\.parquet: no rows"):
        read_table(write(tmp_path / "d.parquet", parquet({"text": []})))
    altered = bytearray(whole)
    for place in range(len(whole) // 3, len(whole) // 2):
        altered[place] ^= 0xFF
    with pytest.raises(ValueError, match=r"c\.parquet(?: row [1-9]\d*)?: not Parquet, or damaged"):
        read_table(write(tmp_path / "c.parquet", bytes(altered)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "sentence\tlabel\na\t1\nb\t0\tc\n", r"a\.tsv line 3: 3 columns, 2 expected \(sentence, label\)"),
        ("a.tsv", "sentence\tlabel\n\nb\n", r"a\.tsv line 3: 1 columns, 2 expected \(sentence, label\)"),
        ("a.tsv", b"sentence\tlabel\na\t1\nb\xff\t0\n", r"a\.tsv line 3: not UTF-8 \(byte 2 of the line\)"),
        ("a.tsv", "", r"a\.tsv: empty, a header line expected"),
        ("a.tsv", "sentence\tlabel\n", r"a\.tsv: no rows"),
        ("a.tsv", "label\tlabel\n", r"a\.tsv line 1: column names must be distinct"),
        ("a.csv", 'text,label\na,1\n"b,0\n', r"a\.csv line 3: unexpected end of data"),
        ("a.csv", "text,label\na,1,2\n", r"a\.csv line 2: 3 columns, 2 expected \(text, label\)"),
        ("a.csv", b"text,label\n\xfe,1\n", r"a\.csv line 2: not UTF-8"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl line 2: not JSON"),
        ("a.jsonl", '{"b": "a \\ud83d"}\n', r"a\.jsonl line 1: column 'b' holds half of a character \(.ud83d\)"),
        ("a.jsonl", "[1]\n", r"a\.jsonl line 1: a JSON list, an object expected"),
        ("a.jsonl", "\n", r"a\.jsonl: no rows"),
        ("a.jsonl", "text,label\na film,1\n", r"a\.jsonl line 1: not JSON"),
        ("a.tsv", b"\xff\xfes\x00e\x00", r"a\.tsv line 1: not UTF-8 \(byte 1 of the line\), must be saved as UTF-8"),
        (
            "a.csv",
            "text,label,\na,1,\n",
            r"a\.csv line 1: column names must be distinct and not empty, are text, label, ",
        ),
        ("a.csv", "text,label\na,1,\n", r"a\.csv line 2: 3 columns, 2 expected \(text, label\)"),
        ("a.jsonl", '{"a": 1, "b": 2, "a": 3}\n', r"a\.jsonl line 1: not JSON \(key 'a' twice in an object\)"),
        ("a.tsv", "text\tlabel\ra\t1\r", r"a\.tsv line 1: lines end in a carriage return alone, must end in a newl"),
        ("a.json", "", r"a\.json: not JSON"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', r"a\.json: not JSON \(Extra data.*; one object a line is \.jsonl"),
        ("a.json", "[1]", r"a\.json entry 0: a JSON int, an object expected"),
        ("a.json", "[]", r"a\.json: no rows"),
        ("a.json", b'[{"a": "\xff"}]', r"a\.json: not UTF-8 \(byte 9\), must be saved as UTF-8"),
        ("a.json", '[{"a": "x"}, {"a": "\\ud83d"}]', r"a\.json entry 1: column 'a' holds half of a character"),
        ("a.txt", "x", r"a\.txt' must end in \.tsv, \.csv, \.jsonl, \.parquet"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.tsv' does not exist"):
        read_table(tmp_path / "nowhere.tsv")
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(ValueError, match=r"folder\.tsv' cannot be read: Is a directory"):
        read_table(tmp_path / "folder.tsv")
