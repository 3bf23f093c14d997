"""Sequence classification: heads, padding, adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hiso_pl.models import LoRA, SequenceClassifier


@pytest.mark.parametrize("family", ["bert", "opt", "gpt2"])
def test_losses_do_not_depend_on_padding_or_its_token(folder, batch, family):
    torch.manual_seed(0)
    network = SequenceClassifier(folder(family), num_labels=3)
    wide = dict(batch)
    ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)  # not the model's padding token
    wide["input_ids"] = F.pad(ids, (0, 5), value=7)
    wide["attention_mask"] = F.pad(batch["attention_mask"], (0, 5))
    with torch.no_grad():
        losses = network.example_losses(batch)
        torch.testing.assert_close(network.example_losses(wide), losses, rtol=0, atol=1e-5)
        for i, length in enumerate((batch["answer_position"] + 1).tolist()):
            alone = {
                "input_ids": batch["input_ids"][i : i + 1, :length],
                "attention_mask": batch["attention_mask"][i : i + 1, :length],
                "label": batch["label"][i : i + 1],
            }
            torch.testing.assert_close(network.example_losses(alone), losses[i : i + 1], rtol=0, atol=1e-5)
        assert network.scores(batch).shape == (4, 3)
    assert len(set(losses.tolist())) == 4


def test_the_new_head_follows_the_global_seed(folder, batch):
    scores = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        with torch.no_grad():
            scores.append(SequenceClassifier(folder("bert")).scores(batch))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_segments_reach_the_model(folder, batch):
    network = SequenceClassifier(folder("bert"))
    with torch.no_grad():
        zeros = network.scores({**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])})
        ones = network.scores({**batch, "token_type_ids": torch.ones_like(batch["input_ids"])})
        assert torch.equal(zeros, network.scores(batch))
    assert not torch.allclose(zeros, ones)


def test_lora_trains_adapter_and_head(folder):
    network = SequenceClassifier(folder("bert"), peft=LoRA(r=2, target_modules=["query", "value"]))
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {"lora_" in name or "classifier" in name for name in trainable} == {True}
    assert any("classifier" in name for name in trainable)
    assert any("lora_" in name for name in trainable)
    network.train()
    assert not any(module.training for module in network.modules())


def test_one_class_is_refused(folder):
    with pytest.raises(ValueError, match="num_labels=1 must be at least 2"):
        SequenceClassifier(folder("bert"), num_labels=1)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_longest_text_a_model_takes(folder, family):
    network = SequenceClassifier(folder(family))
    assert network.max_positions == 32

    def scores(length):
        ids = torch.full((1, length), 5)
        with torch.no_grad():
            return network.scores({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    assert scores(32).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        scores(33)


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_segments_that_a_model_does_not_know_are_left_out(folder, batch, family):
    network = SequenceClassifier(folder(family))
    with torch.no_grad():
        scores = network.scores({**batch, "token_type_ids": torch.ones_like(batch["input_ids"])})
        assert torch.equal(scores, network.scores(batch))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_round_moves_an_encoder_and_repeats(folder, batch, rounds, family):
    found = []
    for memory in ("fast", "low"):
        torch.manual_seed(0)
        network = SequenceClassifier(folder(family))
        begins = {name: p.clone() for name, p in network.named_parameters()}
        assert all(p.dtype == torch.float32 for p in begins.values())
        found.append(rounds(network, batch, lr=0.05, memory=memory))
        still = {name for name, p in network.named_parameters() if torch.equal(p, begins[name])}
        assert still <= {name for name in begins if "pooler" in name}
    assert np.array_equal(*found)
    assert np.abs(found[0]).min() > 0
