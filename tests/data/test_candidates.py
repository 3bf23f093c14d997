"""Candidates of several tokens: rows they share, and that a batch says all that their scores need."""

from __future__ import annotations

import numpy as np
import pytest

from hiso_pl.data.candidates import CandidateExamples, shared_rows
from hiso_pl.data.tasks import ClassificationTask
from hiso_pl.data.text.encoding import encode_prompts, examples_of
from hiso_pl.data.text.prompts import Limit

VOCABULARY = 16


@pytest.fixture
def encode(make_tokenizer):
    """Makes examples of rows by a task."""

    def encode(rows, limit=64, **fields):
        own = {"template": "{text} It was", "label_words": (" good film", " good"), "classes": ("p", "n"), **fields}
        tokenizer, task = make_tokenizer(), ClassificationTask(name="own", **own)
        placed = [(f"row {i}", row) for i, row in enumerate(rows)]
        return examples_of(encode_prompts(tokenizer, task, placed, Limit(limit)), task, tokenizer)

    return encode


def log_probabilities():
    """A language model that looks two tokens back."""
    logits = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY, VOCABULARY))
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def scores(batch, model):
    """What the specification of the batch says, word by word."""
    numbers = {name: value.numpy() for name, value in batch.items()}
    shape = numbers["candidate_tokens"].shape
    found = np.zeros(shape[:2])
    for b, c, place in np.ndindex(*shape):
        if numbers["candidate_mask"][b, c, place]:
            row = numbers["candidate_rows"][b, c]
            position = numbers["answer_positions"][row, place]
            assert numbers["attention_mask"][row, position - 1 : position + 1].all()
            seen = numbers["input_ids"][row, position - 1 : position + 1]
            found[b, c] += model[seen[0], seen[1], numbers["candidate_tokens"][b, c, place]]
    return found


def direct(prompt, candidate, model):
    whole = [*prompt, *candidate]
    return sum(model[whole[i - 2], whole[i - 1], whole[i]] for i in range(len(prompt), len(whole)))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_a_batch_holds_what_the_likelihood_of_each_candidate_needs(encode, side, multiple):
    model = log_probabilities()
    rows = [{"text": "a", "label": "p"}, {"text": "a fine film", "label": "n"}, {"text": "a fine", "label": "0"}]
    for words in (
        (" good film", " good"),  # begin with the same token
        (" good film", " good fine"),
        (" good film fine", " bad", " good fine"),
    ):
        examples = encode(rows, label_words=words, classes=("p", "n", "x")[: len(words)])
        examples.padding_side = side
        examples.pad_to_multiples(multiple, 64)
        batch = examples.collate(np.array([1, 2, 0]))
        expected = [[direct(examples.tokens(i), c, model) for c in examples.candidates(i)] for i in (1, 2, 0)]
        np.testing.assert_allclose(scores(batch, model), expected, rtol=1e-12)
        assert batch["label"].tolist() == [1, 0, 0]
        assert batch["input_ids"].shape[1] % multiple == 0
        assert {str(value.dtype) for value in batch.values()} == {"torch.int64"}


def test_golden_batch(encode):
    batch = encode([{"text": "a", "label": "n"}, {"text": "a fine", "label": "p"}]).collate(np.array([0, 1]))
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[0, 10, 8, 9, 5, 1], [0, 10, 11, 8, 9, 5]],  # one row for both candidates; no " film" in it
        "attention_mask": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
        "answer_positions": [[3, 4], [4, 5]],
        "candidate_rows": [[0, 0], [1, 1]],
        "candidate_tokens": [[[5, 12], [5, 0]], [[5, 12], [5, 0]]],
        "candidate_mask": [[[1, 1], [1, 0]], [[1, 1], [1, 0]]],
        "label": [1, 0],
    }


def test_the_last_of_positions_stays_inside_a_shorter_row(encode):
    examples = encode([{"text": "a", "label": "n"}], label_words=(" good fine film", " bad film"))
    batch = examples.collate(np.array([0]))
    assert batch["input_ids"].tolist() == [[0, 10, 8, 9, 5, 11], [0, 10, 8, 9, 4, 1]]
    assert batch["answer_positions"].tolist() == [[3, 4, 5], [3, 4, 4]]
    assert batch["candidate_rows"].tolist() == [[0, 1]]


def test_rows_are_shared_where_one_holds_what_another_needs():
    assert shared_rows([[1, 2], [3]]) == ([(1,)], [0, 0])
    assert shared_rows([[3], [4]]) == ([()], [0, 0])
    assert shared_rows([[1, 2, 3], [1, 2], [1, 4], [5, 6]]) == ([(1, 2), (5,)], [0, 0, 0, 1])
    assert shared_rows([[1, 2, 3], [1, 4, 3]]) == ([(1, 2), (1, 4)], [0, 1])


def test_label_words_may_name_columns(encode):
    rows = [
        {"text": "a fine film", "one": "good film", "two": "bad", "label": "n"},
        {"text": "a", "one": "fine", "two": "bad film fine", "label": "p"},
    ]
    examples = encode(rows, label_words=(" {one}", " {two}"))
    assert isinstance(examples, CandidateExamples)
    assert [[c.tolist() for c in examples.candidates(i)] for i in range(2)] == [[[5, 12], [4]], [[11], [4, 12, 11]]]
    assert examples.attribute("length").tolist() == [7, 6]
    model = log_probabilities()
    expected = [[direct(examples.tokens(i), c, model) for c in examples.candidates(i)] for i in range(2)]
    np.testing.assert_allclose(scores(examples.collate(np.arange(2)), model), expected, rtol=1e-12)
    # one example alone: its candidates are its own, not common to all
    [only] = [encode(rows[1:], label_words=(" {one}", " {two}"))]
    assert [c.tolist() for c in only.candidates(0)] == [[11], [4, 12, 11]]


def test_truncation_leaves_room_for_the_longest_candidate(encode):
    rows = [{"text": "a" + " fine" * 20, "one": "good", "two": "bad film fine", "label": "n"}]
    examples = encode(rows, limit=9, label_words=(" {one}", " {two}"))
    assert examples.tokens(0) == [0, 10, 11, 11, 11, 8, 9]
    assert examples.collate(np.array([0]))["input_ids"].shape == (1, 9)
    assert examples.cut.tolist() == [True]
    message = "^row 0: max_length=4 must be at least 5, the tokens of what is never cut and 2 of the answer$"
    with pytest.raises(ValueError, match=message):
        encode(rows, limit=4, label_words=(" {one}", " {two}"))


@pytest.mark.parametrize(
    ("words", "row", "message"),
    [
        ((" {one}", " {two}"), {"one": "good", "two": "good"}, "row 0: label words ' good' and ' good' are the same t"),
        ((" good", " {one}"), {"one": "good"}, "row 0: label words ' good' and ' good' are the same tokens"),
        ((" {one}", " {two}"), {"one": "good"}, "row 0: no column 'two', there are text, label, one"),
        (
            ("{one}", "{two}"),
            {"one": "good", "two": "fine"},
            "row 0: label word 'good' merges with the end of the prompt",
        ),
        ((" bad", "{one}"), {"one": ""}, "row 0: column 'one' is empty, must say something"),
        ((" nice", " great nice"), {}, "label word ' nice' is unknown to the tokenizer"),
    ],
)
def test_label_words_that_cannot_be(encode, words, row, message):
    with pytest.raises(ValueError, match=message):
        encode([{"text": "a", "label": "n", **row}], label_words=words)


def test_words_that_differ_as_text_but_not_as_tokens(encode):
    with pytest.raises(ValueError, match=r"label words ' \{one\}' and ' x' are|row 0: label words ' nice' and ' kind'"):
        encode([{"text": "a", "one": "nice", "two": "kind", "label": "n"}], label_words=(" {one}", " {two}"))


def test_fingerprints_tell_candidates_and_padding_apart(encode):
    rows = [{"text": "a", "label": "p"}, {"text": "a fine film", "label": "n"}]
    prints = {encode(rows).fingerprint(), encode(rows).fingerprint()}
    assert len(prints) == 1
    prints.add(encode(rows, label_words=(" good", " good film")).fingerprint())
    prints.add(encode(rows[::-1]).fingerprint())
    left = encode(rows)
    left.padding_side = "left"
    prints.add(left.fingerprint())
    assert len(prints) == 4


def test_scores_may_be_means(encode):
    """A batch then says how many tokens each candidate has; its rows, and what is summed, are the same."""
    rows = [{"text": "a", "label": "p"}, {"text": "a fine film", "label": "n"}]
    total, mean = (encode(rows, scoring=scoring) for scoring in ("sum", "mean"))
    batches = [examples.collate(np.arange(2)) for examples in (total, mean)]
    assert batches[1].pop("candidate_lengths").tolist() == [[2, 1], [2, 1]]
    assert {name: value.tolist() for name, value in batches[0].items()} == {
        name: value.tolist() for name, value in batches[1].items()
    }
    assert total.fingerprint() != mean.fingerprint()
    with pytest.raises(ValueError, match=r"^scoring='max' must be sum or mean$"):
        encode(rows, scoring="max")
