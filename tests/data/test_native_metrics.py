"""From a published set's own form to the numbers of its script: DROP's spans, MultiRC's questions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hiso_pl.data.text import PromptData
from hiso_pl.models.task_model import Evaluation


@pytest.fixture
def validation(tmp_path, monkeypatch, tokenizer_folder):
    """Reads a file as the validation split of a task."""
    monkeypatch.setenv("HISO_PL_CACHE", str(tmp_path / "cache"))

    def read(task, name, content, **options):
        path = tmp_path / name
        path.write_text(content)
        files = dict.fromkeys(("train_file", "validation_file"), str(path))
        data = PromptData(task=task, tokenizer=tokenizer_folder, clients=1, cohort=1, batch_size=1, **files, **options)
        data.setup()
        return data.splits.val

    return read


def measured(examples, predictions, batch=2):
    """The metrics of predictions, in batches from the last to the first."""
    rows = np.full((len(predictions), len(examples.measure.columns)), np.nan)
    for start in reversed(range(0, len(predictions), batch)):
        indices = np.arange(start, min(start + batch, len(predictions)))
        told = predictions[indices]
        rows[indices] = examples.measure.rows(indices, Evaluation(torch.zeros(len(told)), told, torch.zeros(0)))
    return examples.measure.combine(rows)


def answer(number="", spans=(), date=("", "", "")):
    return {"number": number, "spans": list(spans), "date": dict(zip(("day", "month", "year"), date, strict=True))}


def test_drops_answers_of_several_spans(validation):
    questions = [
        # the text generated, the answers of the annotators, EM and F1 by the script
        ("Broncos", [answer(spans=["Broncos", "Jets"])], 0, 0.5),
        ("Jets, Broncos", [answer(spans=["Broncos", "Jets"])], 1, 1),
        ("Broncos", [answer(spans=["Broncos", "Jets"]), answer(spans=["Broncos"])], 1, 1),
        ("4.0", [answer(number="4")], 1, 1),
        ("5", [answer(number="4")], 0, 0),
        ("5 May 2010", [answer(date=("5", "May", "2010"))], 1, 1),
        ("May", [answer(date=("5", "May", "2010"))], 0, 0),  # the day and the year are numbers, and none is told
    ]
    pairs = [
        {"question": f"Q{i}?", "query_id": str(i), "answer": first, "validated_answers": others}
        for i, (_, (first, *others), _, _) in enumerate(questions)
    ]
    found = validation("drop", "drop.json", json.dumps({"nfl_1": {"passage": "It rained.", "qa_pairs": pairs}}))
    found.decode = lambda tokens: questions[tokens[0]][0]
    metrics = measured(found, torch.arange(len(questions))[:, None])
    assert metrics["drop_em"] == sum(em for *_, em, _ in questions) / len(questions)
    assert metrics["drop_f1"] == pytest.approx(sum(f1 for *_, f1 in questions) / len(questions))
    assert metrics["em"] == 3 / 7  # each span is an answer of its own: the first is right, the second is not


def test_multircs_answers_and_questions(validation):
    """The same question stands twice in a passage, as a question of its own."""
    marks = [[(1, 1), (0, 0), (1, 0)], [(1, 1), (0, 0)], [(0, 1)], [(1, 1), (1, 1)]]  # label and prediction
    texts = ["Who?", "Who?", "When?", "Where?"]
    passages = []
    for p in range(2):
        some = list(enumerate(zip(texts, marks, strict=True)))[2 * p : 2 * p + 2]
        asked = [
            {
                "question": text,
                "idx": q,
                "answers": [
                    {"text": f"a{q}{a}", "label": label, "idx": 10 * q + a} for a, (label, _) in enumerate(own)
                ],
            }
            for q, (text, own) in some
        ]
        passages.append({"idx": p, "passage": {"text": "It rained.", "questions": asked}})
    lines = "".join(json.dumps(passage) + "\n" for passage in passages)
    found = validation("multirc", "multirc.jsonl", lines, label_words=[" bad", " good"])
    flat = [pair for own in marks for pair in own]
    assert found.labels.tolist() == [label for label, _ in flat]
    metrics = measured(found, torch.tensor([guess for _, guess in flat]), batch=3)
    assert metrics["question_em"] == sum(all(a == b for a, b in own) for own in marks) / len(marks) == 0.5
    right, told, true = (sum(f(*pair) for pair in flat) for f in (lambda a, b: a & b, lambda a, b: b, lambda a, b: a))
    precision, recall = right / told, right / true
    assert metrics["f1a"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics["accuracy"] == 6 / 8
