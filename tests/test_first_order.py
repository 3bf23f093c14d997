"""The prompts carry what a task is about: ordinary training by gradients learns SST-2 from them.

It is a plain loop, with no method of the package in it; it tells a wrong pipeline from a weak model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hiso_pl.data import PromptData
from hiso_pl.models import CausalLM
from hiso_pl.zeroth_order.philox import Draws, Purpose

SHARED = Path(__file__).parents[2] / "shared"
STEPS = 300


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (SHARED / "models" / "opt-7m").is_dir(), reason="needs a pretrained model and SST-2")
def test_a_small_pretrained_model_learns_sst2_from_the_prompts(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pretrained = str(SHARED / "models" / "opt-7m")
    data = PromptData(
        task="sst2",
        train_file=str(SHARED / "data" / "sst2" / "train.tsv"),
        validation_file=str(SHARED / "data" / "sst2" / "dev.tsv"),
        train_examples=20_000,
        tokenizer=pretrained,
        max_length=128,
    )
    train, dev, _ = data.load()
    network = CausalLM(pretrained)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    draws = Draws(1, Purpose.SPLIT, owner=9)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(STEPS):
            optimizer.zero_grad()
            network.loss(train.collate(draws.sample(len(train), 32))).backward()
            optimizer.step()
            decay.step()
        correct = 0
        with torch.inference_mode():
            for part in np.array_split(np.arange(len(dev)), 14):
                batch = dev.collate(part)
                correct += int((network.evaluate(batch).prediction == batch["label"]).sum())
    finally:
        torch.set_num_threads(threads)
    assert correct / len(dev) >= 0.70
