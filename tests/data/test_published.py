"""Public sets as they are published: each task reads its set's own files, and says what it takes if it gets others.

The rows are made up; their forms are those of the files that the functions of ``tasks/published.py`` name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from hiso_pl.data.tasks import ClassificationTask, GenerationTask, find_task
from hiso_pl.data.text import PromptData
from hiso_pl.data.text.rows import TextRows

MULTIRC: list[dict[str, Any]] = [
    {
        "idx": 3,
        "version": 1.1,
        "passage": {
            "text": "Ada bought two herrings. She went home.",
            "questions": [
                {
                    "question": "What did Ada buy?",
                    "answers": [
                        {"text": "Fish", "idx": 10, "label": 1},
                        {"text": "A melon", "idx": 11, "label": 0},
                    ],
                    "idx": 5,
                },
                {"question": "Where did she go?", "answers": [{"text": "Home", "idx": 12, "label": 1}], "idx": 6},
            ],
        },
    },
    {
        "idx": 4,
        "version": 1.1,
        "passage": {
            "text": "It rained.",
            "questions": [{"question": "Did it?", "answers": [{"text": "No", "idx": 13, "label": 0}], "idx": 7}],
        },
    },
]
NO_DATE = {"day": "", "month": "", "year": ""}


def drop_answer(number: str = "", spans: list[str] | None = None, **date: str) -> dict[str, Any]:
    return {"number": number, "date": {**NO_DATE, **date}, "spans": spans or []}


DROP = {
    "nfl_1184": {
        "passage": "The Broncos and the Jets led. In 1992 it was 4.",
        "qa_pairs": [
            {
                "question": "Who led?",
                "query_id": "q1",
                "answer": drop_answer(spans=["Broncos", "Jets"]),
                "validated_answers": [drop_answer(spans=["the Jets"]), drop_answer()],
            },
            {"question": "How many?", "query_id": "q2", "answer": drop_answer(number="4")},
        ],
        "wiki_url": "",
    },
    "history_2": {
        "passage": "In May 1992.",
        "qa_pairs": [{"question": "When?", "query_id": "q3", "answer": drop_answer(month="May", year="1992")}],
    },
}
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Harbour",
            "paragraphs": [
                {
                    "context": "Ada walked at six to the harbour.",
                    "qas": [
                        {"id": "a", "question": "When?", "answers": [{"answer_start": 14, "text": "six"}]},
                        {"id": "b", "question": "Where?", "answers": [{"answer_start": 21, "text": "the harbour"}] * 2},
                    ],
                },
                {
                    "context": "It rained.",
                    "qas": [{"id": "c", "question": "Did it?", "answers": [{"text": "It rained"}]}],
                },
            ],
        }
    ],
}
SUPER_GLUE = {
    "boolq": {"question": "is it wet", "passage": "It rains.", "idx": 0, "label": True},
    "cb": {"premise": "It rains.", "hypothesis": "it is wet", "label": "contradiction", "idx": 0},
    "copa": {
        "premise": "It rained.", "choice1": "It is wet.", "choice2": "It is dry.", "question": "effect",
        "label": 1, "idx": 0,
    },
    "rte": {"premise": "It rains.", "hypothesis": "It is wet.", "label": "not_entailment", "idx": 0},
    "wic": {
        "word": "rain", "sentence1": "A rain of blows.", "sentence2": "The rain.", "idx": 0, "label": True,
        "start1": 2, "start2": 4, "end1": 6, "end2": 8, "version": 1.1,
    },
    "wsc": {
        "text": "Ann thanked Bea, as She had helped.", "idx": 0, "label": True,
        "target": {"span1_index": 2, "span1_text": "Bea", "span2_index": 4, "span2_text": "She"},
    },
}  # fmt: skip
GLUE = {
    "sst2": 'sentence\tlabel\nso "dull\t1\n',
    "qqp": 'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t1\t2\tWhy?\tHow "come?\t1\n',
    "rte": "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tnot_entailment\n",
}


def table(folder: Path, task: str, name: str, content: str) -> Any:
    path = folder / name
    path.write_text(content)
    rows = TextRows(
        find_task(task), (str(path), str(path), None), (None, None), (None, None, None), (None, None, None), None, 0
    )
    return rows.table(0)


def read(folder: Path, task: str, name: str, content: str) -> list[tuple[str, dict[str, str]]]:
    found = table(folder, task, name, content)
    assert len(found) == len(list(found.rows(range(len(found)))))
    return [(place.removeprefix(f"{folder}/"), row) for place, row in found.rows(range(len(found)))]


def lines(entries: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_multirc_gives_an_answer_a_row(tmp_path):
    task = find_task("multirc")
    assert isinstance(task, ClassificationTask)
    found = read(tmp_path, "multirc", "train.jsonl", lines(MULTIRC))
    assert [place for place, _ in found] == [
        "train.jsonl line 1 question 0 answer 0",
        "train.jsonl line 1 question 0 answer 1",
        "train.jsonl line 1 question 1 answer 0",
        "train.jsonl line 2 question 0 answer 0",
    ]
    # what the hub's super_glue makes of the same file
    hub = [
        ("Ada bought two herrings. She went home.", "What did Ada buy?", "Fish", 1, (3, 5, 10)),
        ("Ada bought two herrings. She went home.", "What did Ada buy?", "A melon", 0, (3, 5, 11)),
        ("Ada bought two herrings. She went home.", "Where did she go?", "Home", 1, (3, 6, 12)),
        ("It rained.", "Did it?", "No", 0, (4, 7, 13)),
    ]
    for (place, row), (paragraph, question, answer, label, numbers) in zip(found, hub, strict=True):
        assert task.texts(row, place) == {"paragraph": paragraph, "question": question, "answer": answer}
        assert task.label(row, place) == label
        assert json.loads(row["idx"]) == dict(zip(("paragraph", "question", "answer"), numbers, strict=True))


def test_multirc_knows_which_answers_are_to_one_question(tmp_path, tokenizer_folder, monkeypatch):
    monkeypatch.setenv("HISO_PL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "train.jsonl"
    path.write_text(lines(MULTIRC))
    options = {"label_words": [" bad", " good"], "tokenizer": tokenizer_folder, "clients": 1, "cohort": 1}
    data = PromptData(task="multirc", train_file=str(path), validation_file=str(path), **options)
    data.setup()
    assert data.splits.val.groups.tolist() == [0, 0, 1, 2]
    rows = [row for _, row in read(tmp_path, "multirc", "train.jsonl", lines(MULTIRC))]
    hub = [{**row, "idx": json.loads(row["idx"]), "label": int(row["label"])} for row in rows]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(hub)}).save_to_disk(tmp_path / "hub")
    again = PromptData(task="multirc", dataset=str(tmp_path / "hub"), validation_split="train", **options)
    again.setup()
    assert again.splits.val.fingerprint() == data.splits.val.fingerprint()
    assert again.splits.val.groups.tolist() == [0, 0, 1, 2]
    assert find_task("sst2").group == ()  # type: ignore[attr-defined]


def test_drop_gives_a_question_a_row_and_each_annotators_spans(tmp_path):
    task = find_task("drop")
    assert isinstance(task, GenerationTask)
    found = read(tmp_path, "drop", "drop_dataset_train.json", json.dumps(DROP))
    assert [place for place, _ in found] == [
        "drop_dataset_train.json entry 0 question 0",
        "drop_dataset_train.json entry 0 question 1",
        "drop_dataset_train.json entry 1 question 0",
    ]
    assert [task.references(row, place) for place, row in found] == [
        (("Broncos", "Jets"), "the Jets"),
        ("4",),
        ("May 1992",),
    ]
    assert task.continuation((("Broncos", "Jets"), "the Jets")) == " Broncos, Jets\n"
    assert task.texts(found[1][1], "here")["question"] == "How many?"
    # a row of it, as datasets keeps the answers of all annotators
    row = {"passage": "P", "question": "Q", "answer": drop_answer(number="4")}
    row["validated_answers"] = {"number": ["", "5"], "spans": [["a", "b"], []], "date": [NO_DATE, NO_DATE]}
    [(place, told)] = read(tmp_path, "drop", "rows.jsonl", lines([row]))
    assert task.references(told, place) == ("4", ("a", "b"), "5")


@pytest.mark.parametrize(
    ("spans", "types", "references"),
    [
        (["24"], ["number"], ("24",)),
        (["3", "3", "three"], ["number", "number", "span"], ("3", "three")),
        (["Broncos", "Jets"], ["span", "span"], (("Broncos", "Jets"),)),
        (["Broncos", "Jets", "Broncos", "Jets"], ["span"] * 4, (("Broncos", "Jets"),)),
        (["Jets", "Jets"], ["span"] * 2, ("Jets",)),
        (["the Jets", "Jets", "New York Jets"], ["span"] * 3, ("the Jets", "Jets", "New York Jets")),
    ],
)
def test_drop_of_the_hub_lays_answers_end_to_end(spans, types, references):
    row = {"answers_spans": json.dumps({"spans": spans, "types": types})}
    assert find_task("drop").references(row, "here") == references  # type: ignore[attr-defined]


def test_squad_gives_a_question_a_row(tmp_path):
    task = find_task("squad")
    assert isinstance(task, GenerationTask)
    found = read(tmp_path, "squad", "train-v1.1.json", json.dumps(SQUAD))
    assert [(place, row["id"]) for place, row in found] == [
        ("train-v1.1.json entry 0 paragraph 0 question 0", "a"),
        ("train-v1.1.json entry 0 paragraph 0 question 1", "b"),
        ("train-v1.1.json entry 0 paragraph 1 question 0", "c"),
    ]
    assert [task.references(row, place) for place, row in found] == [("six",), ("the harbour",), ("It rained",)]
    assert task.prompt(task.texts(found[0][1], "here")) == (
        "Title: Harbour\nContext: Ada walked at six to the harbour.\nQuestion: When?\nAnswer:"
    )
    # a row of the hub goes as it is
    row = {"id": "a", "title": "T", "context": "C", "question": "Q", "answers": {"text": ["x"], "answer_start": [0]}}
    assert [task.references(*reversed(told)) for told in read(tmp_path, "squad", "h.jsonl", lines([row]))] == [("x",)]


@pytest.mark.parametrize("name", SUPER_GLUE)
def test_super_glue(tmp_path, name):
    task = find_task(name)
    assert isinstance(task, ClassificationTask)
    [(place, row)] = read(tmp_path, name, "train.jsonl", lines([SUPER_GLUE[name]]))
    task.check_form(row, place)
    assert all(task.texts(row, place).values())
    assert task.label(row, place) == 1
    # and as datasets has the same row, with numbers for labels and what is nested unfolded by nobody
    [hub] = datasets.Dataset.from_list([{**SUPER_GLUE[name], "label": 1}])
    assert task.texts({k: v if isinstance(v, str) else json.dumps(v) for k, v in hub.items()}, place) == task.texts(
        row, place
    )


@pytest.mark.parametrize("name", GLUE)
def test_glue(tmp_path, name):
    task = find_task(name)
    assert isinstance(task, ClassificationTask)
    [(place, row)] = read(tmp_path, name, "train.tsv", GLUE[name])
    task.check_form(row, place)
    assert all(task.texts(row, place).values())
    assert task.label(row, place) == 1


def test_xsum(tmp_path):
    row = {"document": "It rained.\nAll day.", "summary": "Rain.", "id": "1"}
    [(place, told)] = read(tmp_path, "xsum", "train.jsonl", lines([row]))
    assert find_task("xsum").references(told, place) == ("Rain.",)  # type: ignore[attr-defined]


def test_what_a_task_takes_is_said_first(tmp_path, tokenizer_folder):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "y": 1}\n')
    options = {"train_file": str(path), "validation_file": str(path), "tokenizer": tokenizer_folder, "cache": False}
    for task, told in (
        ("sst2", "no column 'sentence', there are text, y: task 'sst2' takes columns sentence, label"),
        (
            "drop",
            r"no column 'passage', there are text, y: task 'drop' takes columns passage, question, references, or DR",
        ),
        (
            "multirc",
            "no column 'paragraph', .* takes columns paragraph, question, answer, label, or SuperGLUE's: a pass",
        ),
        ("copa", "no column 'question', there are text, y|no column 'premise', there are text, y: task 'copa' takes"),
    ):
        data = PromptData(task=task, train_examples=1000, **options)
        with pytest.raises(ValueError, match=rf"t\.jsonl line 1: {told}") as caught:
            data.setup()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("multirc", '{"passage": {"text": "P"}}', "line 1: no list 'questions' inside, there are text"),
        ("multirc", '{"passage": {"text": "P", "questions": [7]}}', "line 1: no list 'answers' inside, is a int"),
        ("drop", '{"passage": "P", "qa_pairs": {"a": 1}}', "line 1: no list 'qa_pairs' inside, there are qa_pairs"),
        (
            "squad",
            '{"title": "T", "paragraphs": [{"context": "C"}]}',
            "line 1: no list 'qas' inside, there are context",
        ),
    ],
)
def test_published_forms_that_are_broken(tmp_path, task, content, message):
    with pytest.raises(ValueError, match=f"t.jsonl {message}"):
        read(tmp_path, task, "t.jsonl", content)
