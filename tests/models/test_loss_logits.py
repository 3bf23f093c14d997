"""The logits that a network tells of its loss are those that the loss is made of, for every task."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hiso_pl.models import CausalLM, DigitsCNN


def made_of(logits: torch.Tensor, weights: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses.mean() if weights is None else (weights * losses).sum()


def test_classes():
    network = DigitsCNN(channels=2)
    batch = {"pixels": torch.rand(5, 1, 8, 8), "label": torch.tensor([1, 2, 3, 9, 0])}
    torch.testing.assert_close(made_of(*network.loss_logits(batch), batch["label"]), network.loss(batch))


@pytest.mark.parametrize("loss", ["label_words", "full_vocabulary"])
def test_label_words(folder, batch, loss):
    network = CausalLM(folder("opt"), loss=loss)
    targets = batch["label"] if loss == "label_words" else batch["label_words"][batch["label"]]
    torch.testing.assert_close(made_of(*network.loss_logits(batch), targets), network.loss(batch))


def test_answers(folder, generation_batch, texts):
    network = CausalLM(folder("opt"))
    batch = generation_batch(texts(3, 2, 6), [[5, 6, 20], [7, 20], [9, 11, 12]])
    targets = batch["answer_tokens"][batch["answer_mask"] > 0]
    torch.testing.assert_close(made_of(*network.loss_logits(batch), targets), network.loss(batch))


@pytest.mark.parametrize("means", [False, True])
def test_candidates(folder, candidate_batch, texts, means):
    network = CausalLM(folder("opt"), loss="full_vocabulary")
    batch = candidate_batch(texts(3, 2, 6), [[[5, 6], [7]], [[8], [9, 10, 11]], [[5], [7, 8]]], [0, 1, 1])
    if means:
        batch["candidate_lengths"] = batch["candidate_mask"].sum(-1)
    right = torch.arange(3), batch["label"]
    targets = batch["candidate_tokens"][right][batch["candidate_mask"][right] > 0]
    torch.testing.assert_close(made_of(*network.loss_logits(batch), targets), network.loss(batch))
