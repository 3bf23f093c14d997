"""Tasks: their prompts and answers to the letter, their columns and labels, and a user's own.

``golden/TASK.json`` holds ten formatted examples of each task, made from the invented rows in ``golden/rows``, and the
token ids of the first two. To write these files anew, run this file with ``HISO_PL_WRITE_GOLDEN=1`` and read the
difference.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from hiso_pl.data.readers import open_table, parse_rows
from hiso_pl.data.tasks import (
    TASKS,
    ClassificationOptions,
    ClassificationTask,
    GenerationOptions,
    GenerationTask,
    TextTask,
    find_task,
)

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
MERGES = (
    "Ġ t",
    "h e",
    "Ġt he",
    "Ġ N",
    "ĠN o",
    "Y e",
    "Ye s",
    "i n",
    "e r",
    "Ġ I",
    "ĠI t",
    "Ġ w",
    "a s",
    "Ġw as",
    "? Ċ",
)


def small_tokenizer() -> tokenizers.Tokenizer:
    """Bytes, and a few pairs of them: the ids depend on nothing but these lines."""
    pairs = [tuple(pair.split(" ")) for pair in MERGES]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", *alphabet, *("".join(pair) for pair in pairs)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({word: i for i, word in enumerate(words)}, pairs))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def formatted(task: TextTask, row: dict[str, str]) -> dict[str, Any]:
    texts = task.texts(row, "here")
    told: dict[str, Any] = {"prompt": task.prompt(texts)}
    if isinstance(task, ClassificationTask):
        label = task.label(row, "here")
        told |= {"candidates": list(task.candidates(texts)), "label": label, "class": task.classes[label]}
    else:
        assert isinstance(task, GenerationTask)
        references = task.references(row, "here")
        told |= {
            "continuation": task.continuation(references),
            "references": [r if isinstance(r, str) else list(r) for r in references],
        }
    return told


def answer(example: dict[str, Any]) -> str:
    return example["continuation"] if "continuation" in example else example["candidates"][example["label"]]


@pytest.mark.parametrize("name", TASKS)
def test_ten_golden_examples(name):
    path = GOLDEN / "rows" / f"{name.removesuffix('-hiso')}.jsonl"
    rows = [row for _, row in parse_rows(path, open_table(path))]
    examples = [formatted(find_task(name), row) for row in rows]
    tokenizer = small_tokenizer()
    for example in examples[:2]:
        ids = tokenizer.encode(example["prompt"] + answer(example)).ids
        example["tokens"] = " ".join(map(str, ids))
    file = GOLDEN / f"{name}.json"
    if os.environ.get("HISO_PL_WRITE_GOLDEN"):
        file.write_text(json.dumps(examples, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        pytest.skip(f"{file} written")
    assert len(examples) == 10
    assert examples == json.loads(file.read_text(encoding="utf-8"))


COPA = {"premise": "The kettle whistled.", "choice1": "The water boiled.", "choice2": "I sang.", "label": "1"}
WSC = "Ann thanked Bea, as She had helped."
LITERAL = [
    ("sst2", {"sentence": " so dull \n"}, "so dull It was", (" terrible", " great")),
    ("sst2-hiso", {"sentence": "so dull"}, "so dull It was", (" bad", " good")),
    ("copa", {**COPA, "question": "cause"}, "The kettle whistled because", (" the water boiled.", " I sang.")),
    ("copa", {**COPA, "question": "effect"}, "The kettle whistled so", (" the water boiled.", " I sang.")),
    (
        "copa",
        {"premise": "Hush!", "choice1": "I'm ill", "choice2": "NASA called", "question": "cause"},
        "Hush! because",
        (" i'm ill", " nasa called"),
    ),
    (
        "wsc",
        {"text": WSC, "span1_text": "Bea", "span2_text": "She"},
        f'{WSC}\nIn the previous sentence, does the pronoun "she" refer to Bea? Yes or No?\n',
        ("No", "Yes"),
    ),
    (
        "wsc",
        {"text": WSC, "target": '{"span1_text": "Bea", "span1_index": 2, "span2_text": "She", "span2_index": 4}'},
        f'{WSC}\nIn the previous sentence, does the pronoun "she" refer to Bea? Yes or No?\n',
        ("No", "Yes"),
    ),
    ("boolq", {"passage": "It {rains}.", "question": "is it wet"}, "It {rains}. Is it wet?\n", ("No", "Yes")),
    ("boolq", {"passage": "It rains.", "question": " Is it wet? "}, "It rains. Is it wet?\n", ("No", "Yes")),
    (
        "boolq-hiso",
        {"passage": "It rains.", "question": "is it wet"},
        "It rains.\nQuestion: is it wet\nIs that correct? Yes or No?\n",
        ("No", "Yes"),
    ),
    (
        "rte",
        {"premise": "It rains.", "hypothesis": "It is wet."},
        'It rains.\nDoes this mean that "It is wet." is true? Yes or No?\n',
        ("Yes", "No"),
    ),
    (
        "qqp-hiso",
        {"question1": "Why?", "question2": "How come?"},
        "Question 1: Why?\n Question 2: How come?\n Are they semantically equivalent? Yes or No?\n",
        (" No", " Yes"),
    ),
]


@pytest.mark.parametrize(("name", "row", "prompt", "words"), LITERAL)
def test_prompts_to_the_letter(name, row, prompt, words):
    task = find_task(name)
    texts = task.texts(row, "here")
    assert task.prompt(texts) == prompt
    assert task.candidates(texts) == words
    assert task.constant == (name != "copa")


@pytest.mark.parametrize(
    ("name", "prompt", "continuation"),
    [
        ("squad", "Title: T\nContext: C c.\nQuestion: Q?\nAnswer:", " C c\n"),
        ("squad-hiso", "Title: T\nContext: C c.\nQuestion: Q?\nAnswer concisely in a few words:", "C c\n"),
        ("drop", "Passage: C c.\nQuestion: Q?\nAnswer:", " 4\n"),
        ("drop-hiso", "Passage: C c.\nQuestion: Q?\nAnswer:", "4\n"),
        ("xsum", "Document: C c.\nSummarize this in one sentence:", " C.\n"),
    ],
)
def test_generation_to_the_letter(name, prompt, continuation):
    row = {"title": "T", "context": "C c.", "passage": "C c.", "question": "Q? ", "document": "C c.", "summary": "C."}
    row |= {
        "answers": '{"text": ["C c", "c", "C c"]}',
        "answers_spans": '{"spans": ["4", "four"], "types": ["number", "span"]}',
    }
    task = find_task(name)
    references = task.references(row, "here")
    assert task.prompt(task.texts(row, "here")) == prompt
    assert task.continuation(references) == continuation
    assert {"squad": ("C c", "c"), "drop": ("4", "four"), "xsum": ("C.",)}[name.removesuffix("-hiso")] == references


def test_a_passage_is_cut_and_a_question_never():
    assert {name: task.cut for name, task in TASKS.items() if "question" in task.columns} == {
        **dict.fromkeys(["boolq", "boolq-hiso"], ("passage",)),
        "multirc": ("paragraph",),
        **dict.fromkeys(["squad", "squad-hiso"], ("context",)),
        **dict.fromkeys(["drop", "drop-hiso"], ("passage",)),
    }


@pytest.mark.parametrize(
    ("name", "row", "label"),
    [
        ("rte", {"label": "not_entailment"}, 1),
        ("rte", {"label": "0"}, 0),
        ("cb", {"label": "contradiction"}, 1),
        ("cb", {"label": "2"}, 2),
        ("boolq", {"label": "true"}, 1),
        ("boolq", {"answer": "false"}, 0),
        ("boolq-hiso", {"answer": "true"}, 1),
        ("wic", {"label": "False"}, 0),
        ("wsc", {"label": "true"}, 1),
        ("copa", {"question": "cause", "label": "1"}, 1),
    ],
)
def test_labels_by_number_and_name(name, row, label):
    assert find_task(name).label(row, "here") == label


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_task("sst3"), "task='sst3' must be one of sst2, sst2-hiso, rte"),
        (lambda: find_task("boolq").texts({"passage": "P"}, "f line 2"), "f line 2: no column 'question', there are p"),
        (lambda: find_task("copa").texts({"premise": "P"}, "f line 2"), "f line 2: no column 'question', there are p"),
        (lambda: find_task("copa").texts({"question": "why"}, "f line 2"), "f line 2: question='why' must be cause or"),
        (
            lambda: find_task("copa").label({**COPA, "question": "cause", "label": "2"}, "f"),  # type: ignore[attr-defined]
            "f: label='2' must be 0 to",
        ),
        (lambda: find_task("wsc").texts({"text": "T", "target": "[1]"}, "f"), r"f: target='\[1\]' must be a JSON obj"),
        (lambda: find_task("sst2").label({"label": "fine"}, "f"), "f: label='fine' must be 0 to 1 or one of negative"),  # type: ignore[attr-defined]
        (lambda: find_task("sst2").changed(classes=["a", "A"]), "classes=.'a', 'A'. must be at least two distinct"),
        (lambda: find_task("sst2").changed(label_words=[" a"]), "label_words=.' a'. must be 2 words, one for each of"),
        (lambda: find_task("sst2").changed(label_words=[" a", " a"]), "label words ' a' and ' a' are the same"),
        (lambda: find_task("sst2").changed(label_words=[" a", " {b"]), "label_words=' {b' is not a format string"),
        (lambda: find_task("sst2").changed(template="It was"), "template='It was' must name columns in braces"),
        (lambda: find_task("sst2").changed(template="{a.b} It"), "template='{a.b} It' must name columns in braces"),
        (lambda: find_task("squad").changed(label_words=["a"]), "label_words=.'a'. must be left out: task 'squad' gen"),
        (lambda: replace(find_task("sst2"), metrics=("em",)), "metrics=.'em'. must be one or several of accuracy, mac"),
        (lambda: replace(find_task("squad"), metrics=()), r"metrics=\[\] must be one or several of em, f1"),
        (lambda: replace(find_task("squad"), cut=("passage",)), "cut=.'passage'. must be columns of the template: tit"),
        (lambda: replace(find_task("squad"), answer="a..b"), "answer='a..b' must be a column, or a path into one"),  # type: ignore[call-arg]
        (lambda: replace(find_task("squad"), max_new_tokens=0), "max_new_tokens=0 must be at least 1"),  # type: ignore[call-arg]
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_changed_template_keeps_what_may_be_cut():
    squad = find_task("squad").changed(template="Context: {context}\nQ: {question}\nA:")
    assert squad.cut == ("context",)
    assert squad.changed(template="{question}").cut == ()
    sst2 = find_task("sst2").changed(
        template="{sentence} is", label_words=[" a", " b", " c"], classes=["x", "y", "z"], label_column="mark"
    )
    assert sst2.label({"mark": "z"}, "here") == 2


OWN = GenerationTask(name="own", template="{a}", answer="a")


@pytest.mark.parametrize(
    ("path", "stop", "value", "expected"),
    [
        ("a", "\n", " one\nline ", ("one line",)),
        ("a", "", "one\nline", ("one\nline",)),
        ("a", "###", "one\nline", ("one\nline",)),
        ("a", "\n", '["x", " y ", "x"]', ("x", "y")),
        ("a", "\n", "[sic] he said", ("[sic] he said",)),
        ("a.text", "\n", '[{"text": "x"}, {"text": ["y", "z"]}]', ("x", "y", "z")),
        ("a.b.c", "\n", '{"b": {"c": 7}}', ("7",)),
        ("a", "\n", "  ", "f: a is an empty answer"),
        ("a.text", "\n", '{"text": []}', "f: a.text is an empty answer"),
        ("a.text", "\n", '{"text": ["x", ""]}', "f: a.text is an empty answer"),
        ("a.text", "\n", '{"text": null}', "f: a.text is an empty answer"),
        ("a.text", "\n", '{"txt": "x"}', 'f: a.text: no \'text\' in {"txt": "x"}'),
        ("a.text", "\n", "plain", "f: a.text goes into a column that is not JSON: 'plain'"),
        ("a.text", "\n", '{"text": {"x": "y"}}', 'f: a.text must lead to text, leads to {"x"'),
        ("a", "###", "x ### y", "f: stop='###' must be something that no answer of a holds"),
        ("b", "\n", "x", "f: no column 'b', there are a"),
    ],
)
def test_references(path, stop, value, expected):
    task = replace(OWN, answer=path, stop=stop)
    if isinstance(expected, tuple):
        assert task.references({"a": value}, "f") == expected
    else:
        with pytest.raises(ValueError, match="^" + expected.replace(".", r"\.")):
            task.references({"a": value}, "f")


class Data:
    def __init__(self, task: str | ClassificationOptions | GenerationOptions = "sst2") -> None:
        self.task = find_task(task) if isinstance(task, str) else task.build()


def parsed(text: str) -> TextTask:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Data, "data")
    return parser.instantiate(parser.parse_object(yaml.safe_load(f"data:\n  task: {text}"))).data.task


def test_a_task_of_the_configuration():
    assert parsed("rte") is TASKS["rte"]
    assert parsed("{template: '{a} or {b}?', label_words: [' {a}', ' {b}']}") == ClassificationTask(
        name="own", template="{a} or {b}?", label_words=(" {a}", " {b}"), classes=("a", "b"), named=False
    )
    assert parsed(
        "{template: '{text} It', label_words: [' x', ' y'], classes: ['no', 'yes'], metrics: [macro_f1], cut: [text]}"
    ) == ClassificationTask(
        name="own",
        template="{text} It",
        label_words=(" x", " y"),
        classes=("no", "yes"),
        metrics=("macro_f1",),
        cut=("text",),
    )
    assert parsed("{template: '{a}', answer: b.c, stop: '', metrics: [rougeL]}") == GenerationTask(
        name="own", template="{a}", answer="b.c", stop="", metrics=("rougeL",)
    )


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("{template: '{a}', answr: b}", ArgumentError, "Option 'answr' is not accepted"),
        ("{template: '{a}', answer: b, max_new_token: 3}", ArgumentError, "Option 'max_new_token' is not accepted"),
        ("{template: '{a}', label_words: ' x'}", ArgumentError, "Expected a <class 'list'>. Got value:  x"),
        ("{template: '{a}', answer: b, metrics: [bleu]}", ValueError, "^metrics=.'bleu'. must be one or several of em"),
        ("{template: '{a}', label_words: [' x', ' x']}", ValueError, "^label words ' x' and ' x' are the same"),
    ],
)
def test_mistakes_in_the_configuration(text, kind, message):
    with pytest.raises(kind, match=message):
        parsed(text)


def test_options_offer_what_a_task_has():
    hidden = {"name", "hub", "prepare", "version", "published", "unfold", "group", "separator", "named", "other_names"}
    for options, task in ((ClassificationOptions, ClassificationTask), (GenerationOptions, GenerationTask)):
        assert {entry.name for entry in fields(options)} == {entry.name for entry in fields(task)} - hidden


def test_fingerprints_tell_tasks_apart():
    prints = {task.fingerprint() for task in TASKS.values()}
    assert len(prints) == len(TASKS)
    task = find_task("boolq")
    assert task.fingerprint() == replace(task).fingerprint()
    for change in ({"version": 2}, {"cut": ()}, {"label_words": ("No", "yes")}, {"prepare": None}, {"hub": None}):
        assert replace(task, **change).fingerprint() not in prints
    assert replace(find_task("squad"), stop="").fingerprint() not in prints


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data here")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sst2", "sst2/dev.tsv"),
        ("rte", "rte/dev.tsv"),
        ("qqp", "qqp/dev.jsonl"),
        ("cb", "superglue/cb/val.jsonl"),
        ("wsc", "superglue/wsc/val.jsonl"),
        ("boolq", "superglue/boolq/train_subset.jsonl"),
        ("squad", "squad/dev_verified_subset.jsonl"),
    ],
)
def test_real_rows_are_understood(name, file):
    task = find_task(name)
    examples = [formatted(task, row) for _, row in parse_rows(SHARED / file, open_table(SHARED / file))]
    assert len(examples) > 50
    assert len({example.get("label") for example in examples}) == len(getattr(task, "classes", [None]))
