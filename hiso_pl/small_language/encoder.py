"""A small encoder, trained first-order on a few labelled sentences and stopped while it is still poor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from hiso_pl.small_language.descent import descend
from hiso_pl.small_language.pretraining import HEADS, INIT, POSITIONS
from hiso_pl.zeroth_order.philox import check_seed

HIDDEN, LAYERS = 32, 2
BATCH_SIZE, LR = 64, 1e-3
STEPS = 200
"""Most steps; about 40 do, but it may sit still for long before it learns at all."""

UNTIL, LAST = 0.675, 4
"""The mean of so many last losses below which training stops: chance is 0.693, and what is left is for the rounds."""


def new_model(vocabulary: int, seed: int) -> transformers.BertForSequenceClassification:
    """A small BERT of so many tokens with random weights and a head for two classes, as BERT has by default."""
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        initializer_range=INIT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        return transformers.BertForSequenceClassification(config)


def train(
    model: transformers.BertForSequenceClassification, texts: Sequence[list[int]], labels: Sequence[int]
) -> list[float]:
    r"""Trains on labelled texts with AdamW, all weights, by the mean of :math:`-\log p(y | t_1 \dots t_n)`.

    Each text is read once, in order, :data:`BATCH_SIZE` at a time, until all are read or the loss is below
    :data:`UNTIL`. Texts are token ids. The model is changed in place and left in evaluation mode; the loss of each step
    is returned.
    """
    padding = int(model.config.pad_token_id or 0)

    def losses() -> Iterator[Tensor]:
        for start in range(0, len(texts), BATCH_SIZE):
            batch = [torch.tensor(text) for text in texts[start : start + BATCH_SIZE]]
            tokens = pad_sequence(batch, batch_first=True, padding_value=padding)
            logits: Tensor = model(input_ids=tokens, attention_mask=tokens.ne(padding).long()).logits
            yield F.cross_entropy(logits, torch.tensor(labels[start : start + BATCH_SIZE]))

    return descend(model, losses(), LR, UNTIL, LAST)
