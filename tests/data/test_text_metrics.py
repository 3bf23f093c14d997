"""Metrics of generated text: values worked out by hand, other implementations, and what must hold for any text."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.text import SQuAD

from hiso_pl.data.text_metrics import TEXT_METRICS, drop_em, drop_f1, exact_match, f1, normalize_answer, rouge

WORDS = ("The", "a", "river", "Rivers,", "3,211", "24", "24.0", "-5", "don't", "(blue)", "é", "x", "x-ray", "an", "--")
texts = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Orla, a river.", "orla river"),
        ("A. an-the", "anthe"),
        ("don't\n(panic)!", "dont panic"),
        ("“Émile”", "“émile”"),
        ("the", ""),
        ("theatre an", "theatre"),
    ],
)
def test_normalised_answers(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "references", "em", "score"),
    [
        ("the Orla.", ["orla"], 1, 1),
        ("river Orla", ["Tarn", "Orla"], 0, 2 / 3),
        ("Orla Orla Tarn", ["Orla"], 0, 1 / 2),
        ("Orla Orla Tarn", ["Orla Orla"], 0, 4 / 5),
        ("", ["Orla"], 0, 0),
        ("the", ["!"], 1, 0),
    ],
)
def test_squad_by_hand(prediction, references, em, score):
    assert exact_match(prediction, references) == em
    assert f1(prediction, references) == pytest.approx(score, abs=1e-15)


def test_squad_agrees_with_torchmetrics():
    draw = np.random.default_rng(0)
    some = [" ".join(draw.choice(WORDS, draw.integers(0, 6)).tolist()) + " end" for _ in range(600)]
    for prediction, *references in zip(some[::3], some[1::3], some[2::3], strict=True):
        other = SQuAD()
        other.update(
            [{"prediction_text": prediction, "id": "0"}],
            [{"answers": {"answer_start": [0, 0], "text": references}, "id": "0"}],
        )
        expected = {name: float(value) / 100 for name, value in other.compute().items()}
        assert exact_match(prediction, references) == pytest.approx(expected["exact_match"], abs=1e-6)
        assert f1(prediction, references) == pytest.approx(expected["f1"], abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "references", "em", "score"),
    [
        ("5", ["5.0"], 1, 1),
        ("1500", ["1,500"], 1, 1),
        ("$5", ["5"], 1, 1),
        ("twenty four", ["twenty-four"], 1, 1),
        ("24 points", ["24"], 0, 0.67),
        ("25 points", ["24 points"], 0, 0),  # another number
        ("24 points", ["points"], 0, 0.67),  # numbers matter only where the reference has some
        ("x x y", ["x y"], 0, 1),  # sets, not bags
        ("the", ["a"], 1, 1),  # no word on either side
        ("Ode", ["Holm", "Kim Ode"], 0, 0.67),
        ("Kim Ode", [["Kim Ode", "Lars Holm"]], 0, 0.5),
        (["lars holm", "Kim Ode"], [["Kim Ode", "Lars Holm"]], 1, 1),
        (["Kim Ode", "Kim Ode"], [["Kim Ode"]], 0, 0.5),
        (["Kim", "Ode Kim"], [["Kim", "Holm"]], 0, 0.5),
        (["b", "a b c"], [["c b a", "d"]], 0, 0.5),
    ],
)
def test_drop_by_hand(prediction, references, em, score):
    assert drop_em(prediction, references) == em
    assert drop_f1(prediction, references) == score


@settings(max_examples=60, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4))
def test_drop_pairs_spans_as_well_as_any_pairing(told, true):
    def alone(p: str, g: str) -> float:
        words = [set(text.split()) for text in (normalised(p), normalised(g))]
        numbers = {word for word in words[1] if word.removesuffix(".0").isdecimal()}
        if numbers and not numbers & words[0]:
            return 0.0
        common = len(words[0] & words[1])
        return float(words[0] == words[1]) if not all(words) else 2 * common / (len(words[0]) + len(words[1]))

    def normalised(text: str) -> str:
        spelt = {"the": "", "a": "", "an": "", "rivers,": "rivers", "3,211": "3211.0", "24": "24.0", "-5": "5.0"}
        spelt |= {"don't": "dont", "(blue)": "blue", "x-ray": "x ray", "--": ""}
        return " ".join(spelt.get(word, word) for word in text.lower().split(" "))

    longer = max(len(told), len(true))
    padded = [*told, *[None] * (longer - len(told))], [*true, *[None] * (longer - len(true))]
    best = max(
        sum(alone(p, g) for p, g in zip(order, padded[1], strict=True) if p is not None and g is not None)
        for order in permutations(padded[0])
    )
    assert drop_f1(told, [true]) == pytest.approx(best / longer, abs=0.005 + 1e-9)


def test_rouge_by_hand():
    assert rouge("The cats sat down", "the cat, running") == {
        "rouge1": pytest.approx(2 * 2 / (4 + 3)),  # the, cat
        "rouge2": pytest.approx(2 * 1 / (3 + 2)),
        "rougeL": pytest.approx(2 * 2 / (4 + 3)),
    }
    assert rouge("running late", "late runs")["rouge1"] == 1
    assert rouge("running late", "late runs")["rougeL"] == pytest.approx(1 / 2)
    assert TEXT_METRICS["rouge1"]("late", ["never", "late", "soon"]) == 1
    assert TEXT_METRICS["rouge2"]("late", ["late"]) == 0  # no pair of words


@settings(max_examples=60, deadline=None)
@given(texts, texts, texts)
def test_what_holds_of_every_metric(prediction, reference, other):
    for name, metric in TEXT_METRICS.items():
        value = metric(prediction, [reference])
        assert 0 <= value <= 1
        assert metric(prediction, [reference, other]) == max(value, metric(prediction, [other]))
        if name != "drop_f1":  # numbers matter in the reference only
            assert metric(reference, [prediction]) == value
    assert exact_match(prediction, [prediction]) == drop_em(prediction, [prediction]) == 1
    assert drop_f1(prediction, [prediction]) == 1
    assert f1(prediction, [prediction]) == float(bool(normalize_answer(prediction)))
    if exact_match(prediction, [reference]) and normalize_answer(prediction):
        assert f1(prediction, [reference]) == 1
