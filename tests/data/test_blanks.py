"""Null, empty and nested values: one rule in every form of data, and no example that says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import normalizers

from hiso_pl.data.tasks import ClassificationOptions, GenerationOptions, find_task
from hiso_pl.data.text import PromptData, SentenceClassification
from hiso_pl.data.text.encoding import encode_prompts, encode_sentences, examples_of
from hiso_pl.data.text.prompts import Limit
from hiso_pl.data.tokenized import TokenizedExamples
from hiso_pl.data.values import text_values
from hiso_pl.federation.partition import ByColumn

FORMS = ("csv", "tsv", "jsonl", "json", "parquet", "saved")
Table = dict[str, list[Any]]
WHOLE: Table = {
    "one": ["a fine film", "a", "a good film", "film"],
    "two": ["film", "a bad film", "a", "a great film"],
    "owner": ["ann", "bob", "ann", "bob"],
    "n": [1, 2, 3, 4],
    "share": [0.5, 1.0, 0.1, 2.0],
    "good": [True, False, True, False],
    "label": [1, 0, 1, 0],
}
PAIR = ClassificationOptions("{one} It was {two}", [" bad", " good"])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISO_PL_CACHE", str(tmp_path / "cache"))


def written(table: Table, form: str, folder: Path) -> dict[str, str]:
    """The options that name a table, written in a form by what writes it elsewhere; tables of text by hand."""
    path = folder / f"table.{form}"
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    if form == "saved":
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(table)}).save_to_disk(folder / "saved")
        return {"dataset": str(folder / "saved")}
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        spelled = [["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in r.values()] for r in rows]
        between = "," if form == "csv" else "\t"
        path.write_text("".join(between.join(cells) + "\n" for cells in [list(table), *spelled]))
    return {"train_file": str(path)}


def loaded(table: Table, form: str, folder: Path, tokenizer: str, kind: Any = PromptData, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    options = {"task": PAIR, "clients": 2, "cohort": 1, "validation_fraction": 0.25, "cache": False, **options}
    data = kind(tokenizer=tokenizer, **written(table, form, folder), **options)
    data.setup()
    return data


@pytest.fixture
def error_of(tmp_path, tokenizer_folder):
    """What is said of a table in each form, without its place."""

    def errors(table: Table, **options: Any) -> dict[str, str]:
        found = {}
        for form in FORMS:
            with pytest.raises(ValueError, match=r"(line|row|entry) \d") as caught:
                loaded(table, form, tmp_path / form, tokenizer_folder, **options)
            assert "\n" not in str(caught.value)
            found[form] = str(caught.value).partition(": ")[2]
        return found

    return errors


def changed(column: str, *values: Any, table: Table = WHOLE) -> Table:
    return {**table, column: [*values, *table[column][len(values) :]]}


def test_a_table_is_the_same_in_every_form(tmp_path, tokenizer_folder):
    for template in ("{one} It was {two}", "{one} It was {n} {share} {good}"):
        task = ClassificationOptions(template, [" bad", " good"])
        found = [loaded(WHOLE, form, tmp_path / form, tokenizer_folder, task=task).fingerprints() for form in FORMS]
        assert all(one == found[0] for one in found)


@pytest.mark.parametrize("blank", [None, "", " \u3000 "])
def test_a_blank_text_is_refused_in_every_form(error_of, blank):
    # what a table of text spells as an empty cell cannot be told from an empty text
    found = error_of(changed("two", *[blank] * 4))
    for form, told in found.items():
        what = "null" if not isinstance(blank, str) and form not in ("csv", "tsv") else "empty"
        assert told == f"column 'two' is {what}, must say something, or be left out by blanks=leave_out"


def test_json_has_a_spelling_of_its_own_for_no_number(tmp_path, tokenizer_folder):
    path = tmp_path / "t.jsonl"
    path.write_text('{"sentence": NaN, "label": 1}\n{"sentence": "a", "label": 0}\n')
    data = PromptData(task="sst2-hiso", train_file=str(path), validation_file=str(path), tokenizer=tokenizer_folder)
    with pytest.raises(ValueError, match=r"t\.jsonl line 1: column 'sentence' is null"):
        data.setup()


def test_a_blank_label_or_owner_is_refused_in_every_form(error_of):
    for told in error_of(changed("label", *[None] * 4)).values():
        assert told.startswith("column 'label' is")
    for blank in (None, ""):
        for told in error_of(changed("owner", *[blank] * 4), partition=ByColumn("owner")).values():
            assert told.startswith("column 'owner' is")


def test_what_is_no_text_is_refused(tmp_path, tokenizer_folder):
    for value, kind in ((["a", "film"], "a list"), ({"a": "film"}, "a mapping")):
        table = {**WHOLE, "two": [value] * 4}
        for form in ("jsonl", "json", "parquet", "saved"):
            with pytest.raises(ValueError, match=rf"(line|row|entry) \d: column 'two' is {kind}, must be text: [\[{{]"):
                loaded(table, form, tmp_path / f"{form}{kind}", tokenizer_folder)
    with pytest.raises(ValueError, match="row 0: column 'two' is no text, must be text"):
        loaded({**WHOLE, "two": [b"\x89PNG"] * 4}, "parquet", tmp_path / "bytes", tokenizer_folder, train_examples=3)


def test_blank_rows_are_left_out_and_counted_as_asked(tmp_path, tokenizer_folder, caplog):
    table = {name: [*values, *values] for name, values in WHOLE.items()}
    table["two"][4], table["label"][5], table["one"][6], table["owner"][7] = None, None, "  ", ""
    for form in FORMS:
        with caplog.at_level("INFO", logger="hiso_pl.data.text"):
            data = loaded(
                table,
                form,
                tmp_path / form,
                tokenizer_folder,
                blanks="leave_out",
                partition=ByColumn("owner"),
                validation_fraction=None,
                **(
                    {"validation_split": "train"}
                    if form == "saved"
                    else {"validation_file": f"{tmp_path}/{form}/table.{form}"}
                ),
            )
        # four whole rows; in training the one without an owner is left out as well
        assert [len(split) for split in data.splits[:2]] == [4, 5]
        assert [data.splits.train.left_out, data.splits.val.left_out] == [4, 3]
        assert data.statistics()["train"]["left_out"] == 4
        assert "left_out" not in data.statistics()["clients"][0]
        assert (
            "training: 4 examples of 7 to 7 tokens (median 7); 4 rows left out for a blank; labels bad 2, good 2"
            in [record.message for record in caplog.records]
        )
        whole = loaded(WHOLE, form, tmp_path / f"{form}_whole", tokenizer_folder, train_examples=3)
        assert whole.splits.train.left_out == 0


def test_empty_texts_are_kept_as_asked_where_there_is_another(make_tokenizer):
    task = PAIR.build()
    rows = [("row 0", {"one": "a film", "two": "", "label": "0"}), ("row 1", {"one": "", "two": "film", "label": "0"})]
    arrays = encode_prompts(make_tokenizer(), task, rows, Limit(16), "keep")
    examples = examples_of(arrays, task, make_tokenizer())
    assert [examples.tokens(i) for i in range(2)] == [
        make_tokenizer()(text).input_ids for text in ("a film It was ", " It was film")
    ]
    with pytest.raises(
        ValueError, match=r"^row 2: one, two must not all be blank, or be left out by blanks=leave_out$"
    ):
        encode_prompts(make_tokenizer(), task, [("row 2", {"one": "", "two": " ", "label": "0"})], Limit(16), "keep")
    with pytest.raises(ValueError, match=r"^row 2: column 'label' is empty"):
        encode_prompts(make_tokenizer(), task, [("row 2", {"one": "a", "two": "a", "label": ""})], Limit(16), "keep")


@pytest.mark.parametrize("single", ["$A", "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("text", ["", "  ", "\x07"])
def test_an_example_of_no_tokens_is_refused_by_every_tokenizer(make_tokenizer, single, text):
    """Without any token the model's answer is one to the padding, so it would depend on the other examples."""
    tokenizer = make_tokenizer(single=single, pair=f"{single} $B")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\x07", "")
    sentence = [("f line 2", {"sentence": "a film", "label": "1"}), ("f line 3", {"sentence": text, "label": "1"})]
    task = find_task("sst2")
    message = r"^f line 3: (column 'sentence' is empty|the text is 0 tokens for this tokenizer)"
    for encode in (encode_sentences, encode_prompts):
        with pytest.raises(ValueError, match=message):
            encode(tokenizer, task, sentence, Limit(16))
        arrays = encode(tokenizer, task, sentence, Limit(16), "leave_out")
        assert arrays["rows"].tolist() == [0]
        assert len(arrays["lengths"]) == len(arrays["labels"]) == 1
        with pytest.raises(ValueError, match=r"^f line 3 and all other rows have a blank"):
            encode(tokenizer, task, sentence[1:], Limit(16), "leave_out")


def test_an_example_that_is_cut_to_nothing_is_refused(make_tokenizer):
    rows = [("row 0", {"sentence": "a fine film", "label": "1"})]
    with pytest.raises(ValueError, match=r"^row 0: max_length=3 must be at least 4, or nothing is left of sentence$"):
        encode_prompts(make_tokenizer(), find_task("sst2"), rows, Limit(3))
    with pytest.raises(ValueError, match=r"^row 0: max_length=1 must be at least 2, the special tokens and one of"):
        encode_sentences(make_tokenizer(), find_task("sst2"), rows, Limit(1))


def test_blank_answers(make_tokenizer):
    task = GenerationOptions("{a}", "b.text", stop=" great").build()
    rows = [("row 0", {"a": "a", "b": '{"text": [" "]}'}), ("row 1", {"a": "a", "b": '{"text": ["film", "fine"]}'})]
    with pytest.raises(
        ValueError, match=r"^row 0: b\.text is an empty answer, must be text, or be left out by blanks="
    ):
        encode_prompts(make_tokenizer(), task, rows, Limit(50))
    arrays = encode_prompts(make_tokenizer(), task, rows, Limit(50), "leave_out")
    assert examples_of(arrays, task, make_tokenizer()).references == [("film", "fine")]
    rows = [("row 0", {"a": "a", "b": {"x": "y"}})]
    whole = GenerationOptions("{a}", "b").build()
    with pytest.raises(ValueError, match=r"^row 0: b must lead to text, leads to {"):
        whole.references(text_values(rows[0][1]), "row 0")


def test_no_set_of_examples_holds_one_without_tokens():
    with pytest.raises(ValueError, match=r"^example 1 has 0 tokens, must have at least 1$"):
        TokenizedExamples([[3], []], [0, 1], ("a", "b"), 0)


def test_sentences_leave_out_what_belongs_to_a_row(make_tokenizer):
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = make_tokenizer("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", model_input_names=names)
    rows = [
        (f"row {i}", {"sentence1": "a", "sentence2": two, "label": "0"}) for i, two in enumerate(["a", "", "a film"])
    ]
    arrays = encode_sentences(tokenizer, find_task("rte"), rows, Limit(16), "leave_out")
    examples = examples_of(arrays, find_task("rte"), tokenizer)
    batch = examples.collate(np.arange(2))
    assert batch["input_ids"].tolist() == [[0, 10, 3, 10, 3, 1], [0, 10, 3, 10, 12, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]


def test_the_kinds_of_data_take_the_option(tmp_path, tokenizer_folder):
    with pytest.raises(ValueError, match=r"^blanks='drop' must be refuse or leave_out or keep$"):
        loaded(WHOLE, "csv", tmp_path, tokenizer_folder, blanks="drop")
    data = loaded(
        changed("two", ""), "csv", tmp_path, tokenizer_folder, kind=SentenceClassification, blanks="keep", task="rte",
        template="{one} {two}",
    )  # fmt: skip
    assert len(data.splits.train) == 3
