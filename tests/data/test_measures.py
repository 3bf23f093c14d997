"""Measures: rows of any batches make the metrics of the split, and lines say what a person wants to read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from hiso_pl.data.measures import ClassMeasure, Measure, TextMeasure, macro_f1
from hiso_pl.data.text_metrics import normalize_answer
from hiso_pl.models.task_model import Evaluation

CLASSES = ("yes", "no", "maybe")


def evaluation(prediction: torch.Tensor, scores: torch.Tensor | None = None) -> Evaluation:
    count = len(prediction)
    return Evaluation(torch.zeros(count), prediction, torch.zeros(count, 0) if scores is None else scores)


def table(measure: Measure, prediction: torch.Tensor, batch: int) -> np.ndarray:
    """The rows of all examples, made in batches from the last to the first."""
    rows = np.full((len(prediction), len(measure.columns)), np.nan)
    for start in reversed(range(0, len(prediction), batch)):
        indices = np.arange(start, min(start + batch, len(prediction)))
        made = measure.rows(indices, evaluation(prediction[indices]))
        assert made.dtype == np.float64
        rows[indices] = made
    return rows


def test_class_metrics_agree_with_scikit_learn():
    draw = np.random.default_rng(1)
    for count in (1, 2, 7, 50, 333):
        labels, guesses = draw.integers(0, 3, (2, count))
        measure = ClassMeasure(labels, CLASSES, ("accuracy", "macro_f1"))
        told = measure.combine(table(measure, torch.from_numpy(guesses), 8))
        assert told["accuracy"] == accuracy_score(labels, guesses)
        assert told["accuracy"] == int((labels == guesses).sum()) / count
        assert told["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"), abs=1e-15)


def test_macro_f1_by_hand():
    labels, guesses = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 0, 5])
    assert macro_f1(labels, guesses) == pytest.approx((1 / 2 + 2 / 3 + 0 + 0) / 4)  # class 2 and 4 do not occur


def test_class_rows_and_lines():
    measure = ClassMeasure(np.array([2, 0, 1]), CLASSES)
    told = evaluation(torch.tensor([0, 2]), torch.tensor([[0.5, 0.0, -1.5], [0.0, 0.25, 1.0]]))
    indices = np.array([1, 2])
    assert measure.columns == ("label", "prediction")
    assert measure.rows(indices, told).tolist() == [[0, 0], [1, 2]]
    assert measure.combine(measure.rows(indices, told)) == {"accuracy": 0.5}
    assert measure.lines(indices, told) == [
        {"prediction": "yes", "label": "yes", "scores": {"yes": 0.5, "no": 0.0, "maybe": -1.5}},
        {"prediction": "maybe", "label": "no", "scores": {"yes": 0.0, "no": 0.25, "maybe": 1.0}},
    ]


VOCABULARY = ("", " Orla", " Tarn", "\n", " the", ".", " 3")
REFERENCES = (("Orla",), ("the Tarn", "Tarn river"), ("3", "three"))
GENERATED = torch.tensor([[4, 1, 5, 3, 2], [2, -1, -1, -1, -1], [3, 6, -1, -1, -1]])


def decode(tokens: list[int]) -> str:
    return "".join(VOCABULARY[token] for token in tokens)


def test_text_rows_and_lines():
    measure = TextMeasure(REFERENCES, decode, "\n", ("em", "f1", "rouge1"))
    assert measure.columns == ("em", "f1", "rouge1")
    lines = measure.lines(np.arange(3), evaluation(GENERATED))
    assert json.loads(json.dumps(lines)) == [
        {"prediction": "the Orla.", "references": ["Orla"], "em": 1.0, "f1": 1.0, "rouge1": pytest.approx(2 / 3)},
        {
            "prediction": "Tarn",
            "references": ["the Tarn", "Tarn river"],
            "em": 1.0,
            "f1": 1.0,
            "rouge1": lines[1]["rouge1"],
        },
        {"prediction": "", "references": ["3", "three"], "em": 0.0, "f1": 0.0, "rouge1": 0.0},
    ]
    rows = measure.rows(np.arange(3), evaluation(GENERATED))
    assert rows.tolist() == [[line[name] for name in measure.columns] for line in lines]
    assert measure.combine(rows)["em"] == 2 / 3
    told = TextMeasure(REFERENCES, decode, "", ("em",)).lines(np.array([2, 0]), evaluation(GENERATED[[2, 0]]))
    assert [line["prediction"] for line in told] == ["3", "the Orla.\n Tarn"]
    assert [line["em"] for line in told] == [1.0, 0.0]


def test_text_metrics_do_not_depend_on_the_batches():
    draw = np.random.default_rng(2)
    generated = torch.from_numpy(draw.integers(-1, len(VOCABULARY), (41, 6)))
    references = [REFERENCES[i] for i in draw.integers(0, 3, 41)]
    measure = TextMeasure(references, decode, "\n", ("f1", "drop_f1", "rougeL"))
    one, eight = (measure.combine(table(measure, generated, batch)) for batch in (1, 8))
    assert one == eight
    assert 0 < one["f1"] < 1
    assert measure.rows(np.arange(0), evaluation(generated[:0])).shape == (0, 3)


def told(measure: TextMeasure, *texts: str) -> list[dict[str, float]]:
    """What the lines of a file say of texts, whose words are tokens."""
    measure.decode = lambda tokens: words[tokens[0]]
    words = list(texts)
    return measure.lines(np.arange(len(texts)), evaluation(torch.arange(len(texts))[:, None]))


@pytest.mark.parametrize(
    ("text", "references", "em", "f1"),
    [
        ("Broncos", [("Broncos", "Jets")], 0, 0.5),
        ("Jets, Broncos", [("Broncos", "Jets")], 1, 1),
        ("the Jets,Broncos", [("Broncos", "Jets")], 1, 1),
        ("Broncos, Broncos", [("Broncos", "Jets")], 0, 0.5),
        ("Jets, Bears, Broncos", [("Broncos", "Jets")], 0, 0.67),
        ("Broncos Jets", [("Broncos", "Jets")], 0, 0.33),  # one span: F1 of 2/3 with one, none for the other
        ("Broncos", [("Broncos", "Jets"), "Broncos"], 1, 1),  # of several annotators the one it fits best
        ("Broncos, Jets", ["Broncos", ("Broncos", "Jets")], 1, 1),
        ("May 5, 2010", ["May 5, 2010"], 1, 1),  # a single span is compared with the whole text
        ("5, 2010, May", ["May 5, 2010"], 0, 1),
        (",", [("Broncos", "Jets")], 0, 0),
        ("", [("Broncos", "Jets")], 0, 0),
    ],
)
def test_answers_of_several_spans_are_compared_as_sets(text, references, em, f1):
    measure = TextMeasure([tuple(references)], decode, "\n", ("drop_em", "drop_f1", "em", "f1"), ", ")
    [line] = told(measure, text)
    assert (line["drop_em"], line["drop_f1"]) == (em, f1)
    assert json.loads(json.dumps(line))["references"] == json.loads(json.dumps(references))
    flat = [span for answer in references for span in ([answer] if isinstance(answer, str) else answer)]
    assert line["em"] == max(normalize_answer(span) == normalize_answer(text) for span in flat)


def test_without_a_separator_a_text_is_one_span():
    [line] = told(TextMeasure([(("Broncos", "Jets"),)], decode, "\n", ("drop_em", "drop_f1")), "Broncos, Jets")
    assert (line["drop_em"], line["drop_f1"]) == (0, 0.33)


def test_multirc_is_measured_by_answer_and_by_question():
    """Against a few lines of Python, whatever the batches and the order of the examples."""
    draw = np.random.default_rng(3)
    for count in (1, 2, 9, 120):
        labels, guesses = draw.integers(0, 2, (2, count))
        guesses = np.where(draw.random(count) < 0.7, labels, guesses)
        groups = draw.integers(0, max(1, count // 3), count) * 7
        measure = ClassMeasure(labels, ("false", "true"), ("accuracy", "f1a", "question_em"), groups)
        found = measure.combine(table(measure, torch.from_numpy(guesses), 4))
        questions = {g: [i for i in range(count) if groups[i] == g] for g in groups.tolist()}
        right = sum(all(labels[i] == guesses[i] for i in answers) for answers in questions.values())
        assert found["question_em"] == right / len(questions)
        assert found["f1a"] == pytest.approx(f1_score(labels, guesses, zero_division=0), abs=1e-15)
    assert ClassMeasure(np.zeros(2, np.int64), ("n", "y"), ("f1a",)).combine(np.zeros((2, 2))) == {"f1a": 0.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassMeasure(np.zeros(1, np.int64), CLASSES, ("f1a",)), "f1a is for 2 classes, not 3"),
        (
            lambda: ClassMeasure(np.zeros(1, np.int64), CLASSES, ("question_em",)),
            "metrics=.'question_em'.: question_em needs to know which examples answer one question",
        ),
        (lambda: ClassMeasure(np.zeros(1, np.int64), CLASSES, ("f1",)), "metrics=.'f1'. must be one or several of acc"),
        (lambda: TextMeasure(REFERENCES, decode, "", ()), r"metrics=\[\] must be one or several of em, f1, drop_em"),
    ],
)
def test_unknown_metrics(make, message):
    with pytest.raises(ValueError, match=message):
        make()
