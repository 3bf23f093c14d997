"""Tables of text: what is read, and that a broken row is named by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiso_pl.data.limits import Row
from hiso_pl.data.readers import open_table, parse_rows
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


def parquet(columns: dict[str, list[object]]) -> bytes:
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
