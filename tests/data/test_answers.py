"""Generation: prompts with answers of free text, and that only an answer's tokens count."""

from __future__ import annotations

import numpy as np
import pytest

from hiso_pl.data.answers import AnswerExamples
from hiso_pl.data.tasks import GenerationTask
from hiso_pl.data.text.encoding import encode_prompts, examples_of
from hiso_pl.data.text.prompts import Limit

IT_WAS = [8, 9]


@pytest.fixture
def encode(make_tokenizer):
    """Makes examples of rows by a task whose answers end with the word "great"."""

    def encode(rows, limit=64, tokenizer=None, **fields):
        own = {"template": "{text} It was", "answer": "answer", "stop": " great", "max_new_tokens": 3, **fields}
        tokenizer, task = tokenizer or make_tokenizer(), GenerationTask(name="own", **own)
        placed = [(f"row {i}", row) for i, row in enumerate(rows)]
        return examples_of(encode_prompts(tokenizer, task, placed, Limit(limit)), task, tokenizer)

    return encode


ROWS = [
    {"text": "a fine film", "answer": "good"},
    {"text": "a", "answer": '["bad film", "fine"]'},
]


def test_golden_batch(encode):
    examples = encode(ROWS)
    assert isinstance(examples, AnswerExamples)
    assert examples.references == [("good",), ("bad film", "fine")]
    expected = {
        "input_ids": [[0, 10, *IT_WAS, 4, 12, 1], [0, 10, 11, 12, *IT_WAS, 5]],  # what ends an answer is not put in
        "attention_mask": [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]],
        "answer_positions": [[3, 4, 5], [5, 6, 6]],
        "answer_tokens": [[4, 12, 7], [5, 7, 0]],
        "answer_mask": [[1, 1, 1], [1, 1, 0]],
        "label": [0, 0],
        "stop_tokens": [3, 7],
        "max_new_tokens": 3,
    }
    batch = examples.collate(np.array([1, 0]))
    assert {name: value.tolist() for name, value in batch.items()} == expected
    assert {str(value.dtype) for value in batch.values()} == {"torch.int64"}
    examples.padding_side = "left"
    examples.pad_to_multiples(4, 64)
    moved = examples.collate(np.array([1, 0]))
    assert moved["input_ids"].tolist() == [[1, 1, 0, 10, *IT_WAS, 4, 12], [1, 0, 10, 11, 12, *IT_WAS, 5]]
    assert moved["answer_positions"].tolist() == [[5, 6, 7], [6, 7, 7]]
    for name in ("answer_tokens", "answer_mask"):
        assert moved[name].tolist() == expected[name]


def test_no_loss_of_prompt_and_padding(encode):
    """Each token that counts is told by the position before it, and each is one of the answer."""
    examples = encode(ROWS * 3)
    for side in ("right", "left"):
        examples.padding_side = side
        batch = {name: value.numpy() for name, value in examples.collate(np.arange(6)).items()}
        for b in range(6):
            count = int(batch["answer_mask"][b].sum())
            tokens = batch["answer_tokens"][b, :count].tolist()
            assert tokens == [[5, 7], [4, 12, 7]][b % 2]
            places = batch["answer_positions"][b, :count]
            start = int(batch["attention_mask"][b].argmax())
            row = batch["input_ids"][b, start : int(places[-1]) + 1].tolist()
            assert row == [*examples.tokens(b), *tokens[:-1]]
            assert (np.diff(places) == 1).all()


def test_prompts_leave_room_for_what_is_generated(encode):
    long = [{"text": "a" + " fine" * 30, "answer": "good"}, ROWS[1]]
    examples = encode(long, limit=10)
    assert examples.tokens(0) == [0, 10, 11, 11, 11, *IT_WAS]  # 7, and 3 to come
    assert examples.cut.tolist() == [True, False]
    assert examples.answer_cut.tolist() == [False, False]
    message = "^row 0: max_length=5 must be at least 6, the tokens of what is never cut and 3 of the answer$"
    with pytest.raises(ValueError, match=message):
        encode(long, limit=5)


def test_only_the_passage_is_cut(encode):
    row = {"text": "a" + " fine" * 30, "question": "film film film film film film", "answer": "bad"}
    fields = {"template": "{text} It was {question}", "cut": ("text",)}
    examples = encode([row], limit=15, **fields)
    assert examples.tokens(0) == [0, 10, 11, 11, *IT_WAS, *[12] * 6]
    with pytest.raises(ValueError, match="row 0: max_length=11 must be at least 12"):
        encode([row], limit=11, **fields)


def test_a_long_answer_is_cut_for_learning_only_and_counted(encode):
    examples = encode([{"text": "a", "answer": "bad film fine bad film fine"}, ROWS[0]])
    assert examples.answers[0].tolist() == [4, 12, 11, 4]
    assert examples.answer_cut.tolist() == [True, False]
    assert examples.references[0] == ("bad film fine bad film fine",)
    assert examples.attribute("length").tolist() == [7, 7]


def test_an_answer_that_would_merge_with_the_prompt_is_tokenised_apart(encode, make_tokenizer):
    # without a space "wasa" would be one unknown word
    assert encode([{"text": "a", "answer": "a film"}], answer_prefix="").answers[0].tolist() == [10, 12, 7]


def test_without_a_stop_the_end_of_sequence_ends_an_answer(encode):
    examples = encode(ROWS, stop="")
    assert examples.answers[0].tolist() == [5, 3]
    assert examples.stop_tokens.tolist() == [3]


def test_a_stop_of_several_tokens_ends_no_generation_by_itself(encode):
    assert encode(ROWS, stop=" great great").stop_tokens.tolist() == [3]
    assert encode(ROWS, stop=" unheard").stop_tokens.tolist() == [3]


def test_the_measure_reads_the_generated_text(encode):
    examples = encode(ROWS)
    measure = examples.measure
    import torch

    from hiso_pl.models.task_model import Evaluation

    prediction = torch.tensor([[5, 7, 12], [11, 3, -1]])
    evaluation = Evaluation(torch.zeros(2), prediction, torch.zeros(2, 0))
    examples.decode = lambda ids: " ".join({5: "good", 7: " great", 12: "film", 11: "fine"}[i] for i in ids if i != 3)
    table = examples.measure.rows(np.arange(2), evaluation)
    assert measure.columns == ("em", "f1")
    assert examples.measure.combine(table) == {"em": 1.0, "f1": 1.0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "answer": " "}, "row 0: answer is an empty answer"),
        ({"text": "a", "answer": "[]"}, "row 0: answer is an empty answer"),
        ({"text": "a"}, "row 0: no column 'answer', there are text"),
        ({"answer": "a"}, "row 0: no column 'text', there are answer"),
    ],
)
def test_rows_that_cannot_be(encode, row, message):
    with pytest.raises(ValueError, match=message):
        encode([row])


def test_fingerprints_tell_what_is_learnt_and_measured(encode):
    def fingerprint(*rows, **fields):
        return encode(list(rows), **fields).fingerprint()

    prints = [
        fingerprint(*ROWS),
        fingerprint(ROWS[0], {"text": "a", "answer": '["bad film", "a"]'}),  # another reference
        fingerprint(ROWS[0], {"text": "a", "answer": '["fine", "bad film"]'}),
        fingerprint(*ROWS, max_new_tokens=4),
        fingerprint(*ROWS, stop=""),
    ]
    assert len(set(prints)) == 5
    assert fingerprint(*ROWS) == prints[0]
