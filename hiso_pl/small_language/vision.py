"""A small vision transformer for the digits, trained first-order for a few steps and stopped while it is still poor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from hiso_pl.data.digits import DigitsData
from hiso_pl.models.digits import CLASSES, SIDE
from hiso_pl.small_language.descent import descend
from hiso_pl.zeroth_order.philox import Draws, Purpose, check_seed

HIDDEN, LAYERS, HEADS, PATCH = 24, 2, 2, 2
BATCH_SIZE, LR = 64, 3e-3
STEPS = 400
"""Most steps; about 30 do."""

UNTIL, LAST = 1.8, 4
"""The mean of so many last losses below which training stops: chance is 2.303, and what is left is for the rounds."""


def new_model(seed: int) -> transformers.ViTForImageClassification:
    """A small ViT over patches of 2 by 2 pixels, with random weights."""
    config = transformers.ViTConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        num_channels=1,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={i: str(i) for i in range(CLASSES)},
        label2id={str(i): i for i in range(CLASSES)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        return transformers.ViTForImageClassification(config)


def train(model: transformers.ViTForImageClassification, steps: int, seed: int) -> list[float]:
    """Trains on the digits' training examples with AdamW, all weights, until the loss is below :data:`UNTIL`.

    The model is changed in place and left in evaluation mode; the loss of each step is returned.
    """
    examples = DigitsData().load().train

    def losses() -> Iterator[Tensor]:
        for step in range(steps):
            drawn = Draws(seed, Purpose.SPLIT, round=step).permutation(len(examples))[:BATCH_SIZE]
            batch = examples.collate(drawn)
            yield F.cross_entropy(model(pixel_values=batch["pixels"]).logits, batch["label"])

    return descend(model, losses(), LR, UNTIL, LAST)
