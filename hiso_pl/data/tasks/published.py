"""The forms in which public sets are published, as rows with the columns that a task names.

Columns have the hub's names. A set's own files may call them otherwise (``prepare``), or lay the questions of a passage
into one another (``unfold``). Each function says where its form is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hiso_pl.data.limits import Row
from hiso_pl.data.text_metrics import normalize_answer
from hiso_pl.data.values import Structure, text_values

Unfolded = Iterator[tuple[str, Row]]
"""Rows, each with what its place is called inside the entry that it was made of."""


def _renamed(row: Row, **names: str) -> Row:
    """The row with columns under the names the task has for them, where it lacks those."""
    return {**row, **{name: row[other] for name, other in names.items() if name not in row and other in row}}


def rte(row: Row) -> Row:
    """GLUE's columns, also where they have SuperGLUE's names."""
    return _renamed(row, sentence1="premise", sentence2="hypothesis")


def qqp(row: Row) -> Row:
    """The label also where it is called ``is_duplicate``, as in GLUE's .tsv files (gluebenchmark.com/tasks)."""
    return _renamed(row, label="is_duplicate")


def boolq(row: Row) -> Row:
    """The label also where it is called ``answer``, as on the hub and in github.com/google-research-datasets."""
    return _renamed(row, label="answer")


def boolq_question(row: Row) -> Row:
    """The question with a capital and a question mark, as MeZO writes it."""
    row = boolq(row)
    question = row.get("question", "").strip()
    if not question:
        return row
    question = question[:1].upper() + question[1:]
    return {**row, "question": question if question.endswith("?") else question + "?"}


def wsc(row: Row) -> Row:
    """The spans as columns, also where they lie in a ``target``, as in SuperGLUE; the pronoun without capitals."""
    if "target" in row:
        try:
            target = json.loads(row["target"])
            spans = {name: str(target[name]) for name in ("span1_text", "span2_text")}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(
                f"target={row['target'][:60]!r} must be a JSON object with span1_text and span2_text"
            ) from None
        row = {**spans, **row}
    return {**row, "span2_text": row["span2_text"].lower()} if row.get("span2_text") else row


CONJUNCTIONS = {"cause": "because", "effect": "so"}
"""What leads from the premise of COPA to its choices, by what is asked for."""


def copa(row: Row) -> Row:
    """The premise without its full stop, the conjunction, and the choices as they go on after it."""
    if "question" not in row:
        raise ValueError(f"no column 'question', there are {', '.join(row)}")
    question = row["question"].strip()
    if question not in CONJUNCTIONS:
        raise ValueError(f"question={question!r} must be cause or effect")
    changed = {"conjunction": CONJUNCTIONS[question]}
    if row.get("premise"):
        changed["premise"] = row["premise"].strip().removesuffix(".")
    for name in ("choice1", "choice2"):
        if row.get(name):
            # The whole first word loses its capitals, whatever it is, except "I": MeZO's rule.
            first, *rest = row[name].strip().split(" ")
            changed[name] = " ".join([first if first == "I" else first.lower(), *rest])
    return {**row, **changed}


MULTIRC = "SuperGLUE's: a passage with its questions, and answers in these"


def multirc(row: Row) -> Row:
    """The question's number, where ``idx`` tells it, apart from the answer's."""
    numbers = _json(row.get("idx", ""))
    known = isinstance(numbers, dict) and {"paragraph", "question"} <= numbers.keys()
    return {**row, "question_id": f"{numbers['paragraph']} {numbers['question']}" if known else ""}


def unfold_multirc(entry: Row) -> Unfolded | None:
    """An answer a row, of ``passage`` (``text``, ``questions`` with ``question`` and ``answers`` with ``text``, label).

    Source: MultiRC in the zip of super.gluebenchmark.com/tasks; the columns are those of the hub's super_glue.
    """
    if not isinstance(entry.get("passage"), Structure):
        return None
    return _unfold_multirc(entry.get("idx", ""), _json(entry["passage"]))


def _unfold_multirc(number: str, passage: Any) -> Unfolded:
    for q, question in enumerate(_list(passage, "questions")):
        for a, answer in enumerate(_list(question, "answers")):
            numbers = {"paragraph": _json(number), "question": question.get("idx", q), "answer": answer.get("idx", a)}
            row = {"paragraph": passage.get("text"), "question": question.get("question"), "idx": numbers}
            row |= {"answer": answer.get("text"), **({"label": answer["label"]} if "label" in answer else {})}
            yield f"question {q} answer {a}", text_values(row)


SQUAD = "SQuAD's: articles with paragraphs, and qas in these"


def unfold_squad(entry: Row) -> Unfolded | None:
    """A question a row, of ``title`` and ``paragraphs`` (``context``, ``qas`` with ``question`` and ``answers``).

    Source: train-v1.1.json of rajpurkar.github.io/SQuAD-explorer; the columns are those of the hub's squad.
    """
    if not isinstance(entry.get("paragraphs"), Structure):
        return None
    return _unfold_squad(entry.get("title"), _json(entry["paragraphs"]))


def _unfold_squad(title: str | None, paragraphs: Any) -> Unfolded:
    for p, paragraph in enumerate(_list({"paragraphs": paragraphs}, "paragraphs")):
        for q, question in enumerate(_list(paragraph, "qas")):
            row = {"id": question.get("id"), "title": title, "context": paragraph.get("context")}
            row |= {"question": question.get("question")}
            row["answers"] = {"text": [answer.get("text") for answer in _list(question, "answers")]}
            yield f"paragraph {p} question {q}", text_values(row)


DROP = "DROP's: passages with qa_pairs; or answers_spans, as on the hub"


def unfold_drop(entry: Row) -> Unfolded | None:
    """A question a row, of ``passage`` and ``qa_pairs`` (``question``, ``answer``, ``validated_answers``).

    Source: drop_dataset_train.json of allenai.org/data/drop (arXiv 1903.00161).
    """
    if not isinstance(entry.get("qa_pairs"), Structure):
        return None
    return _unfold_drop(entry.get("passage"), _json(entry["qa_pairs"]))


def _unfold_drop(passage: str | None, pairs: Any) -> Unfolded:
    for q, pair in enumerate(_list({"qa_pairs": pairs}, "qa_pairs")):
        kept = {name: pair[name] for name in ("query_id", "question", "answer", "validated_answers") if name in pair}
        yield f"question {q}", text_values({"passage": passage, **kept})


def drop(row: Row) -> Row:
    """The ``references``: of each annotator a list of spans.

    An official ``answer`` is a number, or spans, or a date, in this order, and so is each of ``validated_answers``: as
    DROP's script (drop_eval.py, arXiv 1903.00161) reads them. Of the hub's ``answers_spans`` see :func:`_hub_answers`.
    """
    if "references" in row:
        return row
    if isinstance(row.get("answer"), Structure):
        validated = _json(row.get("validated_answers", ""))
        if isinstance(validated, dict):  # as datasets has a list of mappings
            validated = [dict(zip(validated, told, strict=True)) for told in zip(*validated.values(), strict=False)]
        answers = [_json(row["answer"]), *(validated if isinstance(validated, list) else [])]
        spans = [_drop_spans(answer) for answer in answers if isinstance(answer, dict)]
        # an annotator's answer may be empty, but the one to train on may not
        found = [*spans[:1], *(answer for answer in spans[1:] if answer)]
    elif "answers_spans" in row:
        told = _json(row["answers_spans"])
        if not isinstance(told, dict) or "spans" not in told:
            raise ValueError(f"answers_spans={row['answers_spans'][:60]!r} must be a JSON object with spans")
        found = _hub_answers([*_list(told, "spans")], [*_list(told, "types")] if "types" in told else [])
    else:
        return row
    return {**row, "references": Structure(json.dumps(found))}


def _drop_spans(answer: dict[str, Any]) -> list[str]:
    if str(answer.get("number") or "").strip():
        return [str(answer["number"]).strip()]
    if answer.get("spans"):
        return [str(span) for span in answer["spans"]]
    date = answer.get("date") or {}
    text = " ".join(str(date.get(part) or "") for part in ("day", "month", "year")).split()
    return [" ".join(text)] if text else []


def _hub_answers(spans: list[Any], types: list[Any]) -> list[list[Any]]:
    """The answers that the hub lays end to end: one annotator's in training, those of all in validation.

    Who gave which span is not told. Numbers and dates are an answer each. Spans are one answer of several, unless they
    are the same ones over and over, which is that answer again; or one repeats what another says, as "Jets" and "the
    Jets" do, and so stands for it: then each is an answer of its own. DROP's own files tell them apart.
    """
    if any(kind != "span" for kind in types):
        return [[span] for span in spans]
    for length in range(1, len(spans) // 2 + 1):
        if len(spans) % length == 0 and spans == spans[:length] * (len(spans) // length):
            return [spans[:length]]
    words = [set(normalize_answer(str(span)).split()) for span in spans]
    if any(a <= b for i, a in enumerate(words) for j, b in enumerate(words) if i != j):
        return [[span] for span in spans]
    return [spans]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _list(node: Any, name: str) -> list[Any]:
    """A list inside a structure.

    Raises:
        ValueError: If it is none.
    """
    found = node.get(name) if isinstance(node, dict) else None
    if not isinstance(found, list):
        there = f"there are {', '.join(map(str, node))}" if isinstance(node, dict) else f"is a {type(node).__name__}"
        raise ValueError(f"no list {name!r} inside, {there}")
    return found
