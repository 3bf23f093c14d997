"""Losses and predictions do not depend on the side of the padding or on the size of a batch."""

from __future__ import annotations

import pytest
import torch

from hiso_pl.models import CausalLM, SequenceClassifier
from hiso_pl.models.padding import left_padded, padded_right

FAMILIES = ["opt", "opt-plain", "gpt2", "llama", "qwen2", "gemma2", "mistral", "phi", "bloom"]


def label_words(rows):
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.full(mask.shape, 1)
    ids[mask == 1] = torch.tensor([token for row in rows for token in row])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "answer_position": lengths - 1,
        "label": torch.tensor([len(row) % 2 for row in rows]),
        "label_words": torch.tensor([4, 5]),
    }


def same(found, expected):
    """Losses within 1e-4 relative, predictions equal unless the margin is smaller than that."""
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-6)
    if expected.scores.shape[1]:
        best = expected.scores.topk(2, dim=-1).values
        sure = best[:, 0] - best[:, 1] > 1e-4 * best.abs().amax(dim=-1)
        assert sure.float().mean() > 0.9
        assert torch.equal(found.prediction[sure], expected.prediction[sure])
    else:
        assert torch.equal(found.prediction, expected.prediction)


def check(network, rows, collate, to_left):
    whole = collate(rows)
    with torch.inference_mode():
        expected = network.evaluate(whole)
        assert len(expected.loss.unique()) > len(rows) // 2
        same(network.evaluate(to_left(whole)), expected)
        alone = [network.evaluate(collate([row])) for row in rows]
    same(type(expected)(*(torch.cat(values) for values in zip(*alone, strict=True))), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_label_words(folder, texts, to_left, family):
    check(CausalLM(folder(family)), texts(32, 2, 20), label_words, to_left)


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates(folder, texts, to_left, candidate_batch, family):
    def collate(rows):
        words = [[row[:1], [9, *row[1:2]], [row[0], 8, 7]] for row in rows]
        return candidate_batch(rows, words, [len(row) % 3 for row in rows])

    check(CausalLM(folder(family)), texts(32, 2, 20), collate, to_left)


@pytest.mark.parametrize("family", ["opt", "llama", "mistral"])
def test_generation(folder, texts, to_left, generation_batch, family):
    def collate(rows):
        return generation_batch(rows, [row[-3:] for row in rows], most=4)

    check(CausalLM(folder(family)), texts(32, 2, 20), collate, to_left)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
def test_virtual_tokens(folder, texts, to_left, kind):
    torch.manual_seed(0)
    network = CausalLM(folder("llama"), peft={"peft_type": kind, "num_virtual_tokens": 3})
    check(network, texts(32, 2, 20), label_words, to_left)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "opt"])
def test_heads(folder, texts, to_left, family):
    torch.manual_seed(0)
    network = SequenceClassifier(folder(family), num_labels=3)

    def collate(rows):
        batch = label_words(rows)
        return {**batch, "token_type_ids": batch["attention_mask"] * (batch["input_ids"] % 2)}

    check(network, texts(32, 2, 20), collate, to_left)


def test_rows_without_padding_on_the_left_stay_as_they_are(texts, to_left):
    batch = label_words(texts(5, 2, 9))
    for moved in (padded_right(batch), padded_right(to_left(batch))):
        assert all(torch.equal(moved[name], batch[name]) for name in batch)


def test_prompts_are_padded_on_the_left():
    ids, mask = left_padded(torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]), torch.tensor([3, 1]), 2)
    assert ids.tolist() == [[5, 6, 7], [2, 2, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
