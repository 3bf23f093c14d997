"""Metrics of generated text against reference answers: exact match, F1 of words, DROP's of both, and ROUGE."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

ROUGE = ("rouge1", "rouge2", "rougeL")
"""Overlap of words, of pairs of neighbouring words, and the longest common subsequence of words."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """The text in small letters, without punctuation, articles and superfluous white space.

    Source: the evaluation script of SQuAD v1.1 (arXiv 1606.05250). Punctuation goes first, so "A." is an article.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is one of the references once all are normalised, else 0, as SQuAD v1.1 counts it."""
    told = normalize_answer(prediction)
    return float(any(normalize_answer(reference) == told for reference in references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """The F1 of words against the reference that fits best, as SQuAD v1.1 counts it.

    With the bags p of the prediction's and g of the reference's normalised words,

        F1 = 2 P R / (P + R),   P = |p ∩ g| / |p|,   R = |p ∩ g| / |g|,

    and 0 where no word is common: two texts of nothing but punctuation match exactly, and have F1 0.
    """
    told = Counter(normalize_answer(prediction).split())
    return max(_bag_f1(told, Counter(normalize_answer(reference).split())) for reference in references)


def _bag_f1(told: Counter[str], true: Counter[str]) -> float:
    common = (told & true).total()
    if common == 0:
        return 0.0
    precision, recall = common / told.total(), common / true.total()
    return 2 * precision * recall / (precision + recall)


Spans = str | Sequence[str]
"""An answer of DROP: one span of text, or several that belong together."""


def drop_em(prediction: Spans, references: Sequence[Spans]) -> float:
    """1 if the prediction's spans are those of a reference, in any order, once all are normalised, else 0.

    Source: the evaluation script of DROP (arXiv 1903.00161).
    """
    told = [_drop_normalized(span) for span in _spans(prediction)]
    for reference in references:
        true = [_drop_normalized(span) for span in _spans(reference)]
        if set(told) == set(true) and len(told) == len(true):
            return 1.0
    return 0.0


def drop_f1(prediction: Spans, references: Sequence[Spans]) -> float:
    """The F1 of words against the reference that fits best, as DROP counts it, rounded to two digits.

    The score of two spans is the F1 of their sets of normalised words, but 0 where the reference has numbers and none
    of them is predicted. Spans are paired one to one so that the sum of scores is greatest; spans without a partner
    score 0, and the result is the mean over the longer list. Two spans without a word have F1 1.

    Source: the evaluation script of DROP (arXiv 1903.00161).
    """
    # imported here since it takes a while, which the other metrics need not wait for
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    told = [set(_drop_normalized(span).split()) for span in _spans(prediction)]
    best = 0.0
    for reference in references:
        true = [set(_drop_normalized(span).split()) for span in _spans(reference)]
        scores = np.array([[_drop_span_f1(p, g) for p in told] for g in true])  # [references, predictions]
        total = scores[linear_sum_assignment(scores, maximize=True)].sum()
        best = max(best, float(np.round(total / max(len(told), len(true)), 2)))
    return best


def _spans(answer: Spans) -> Sequence[str]:
    return [answer] if isinstance(answer, str) else answer


def _drop_normalized(text: str) -> str:
    """The text word by word as for SQuAD, but numbers keep point and sign of the exponent and have one spelling."""
    words = []
    for word in re.split("[ -]", text.lower()):
        plain = word if _is_number(word) else word.translate(_PUNCTUATION)
        words += _ARTICLES.sub(" ", str(float(plain)) if _is_number(plain) else plain).split()
    return " ".join(words)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _drop_span_f1(told: set[str], true: set[str]) -> float:
    numbers = {word for word in true if _is_number(word)}
    if numbers and not numbers & told:
        return 0.0
    common = len(told & true)
    precision = common / len(told) if told else 1.0
    recall = common / len(true) if true else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of two texts: F measures of their words' stems, by the package ``rouge-score``.

    With n common units (words, pairs of words, or words of the longest common subsequence) of p predicted and g in
    the reference, F = 2 P R / (P + R), P = n / p, R = n / g.

    Source: Lin (2004), "ROUGE: a package for automatic evaluation of summaries".
    """
    return dict(zip(ROUGE, _rouge(prediction, reference), strict=True))


@lru_cache(maxsize=64)  # the three are asked for one after the other, and computed together
def _rouge(prediction: str, reference: str) -> tuple[float, ...]:
    scores = _scorer().score(reference, prediction)
    return tuple(float(scores[name].fmeasure) for name in ROUGE)


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    return RougeScorer(list(ROUGE), use_stemmer=True)


def _best_rouge(name: str) -> Callable[[str, Sequence[str]], float]:
    return lambda prediction, references: max(rouge(prediction, reference)[name] for reference in references)


SPAN_METRICS = ("drop_em", "drop_f1")
"""Those that compare spans, where an answer has several."""

TEXT_METRICS: dict[str, Callable[[Any, Sequence[Any]], float]] = {
    "em": exact_match,
    "f1": f1,
    "drop_em": drop_em,
    "drop_f1": drop_f1,
    **{name: _best_rouge(name) for name in ROUGE},
}
"""The metrics of generated text by name, each of a prediction and the references that it may match, from 0 to 1.

Predictions and references are texts; for :data:`SPAN_METRICS` either may be several spans.
"""
