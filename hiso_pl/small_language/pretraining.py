"""Ordinary first-order pretraining of a small OPT."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from itertools import cycle

import torch
import transformers
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from hiso_pl.zeroth_order.philox import Draws, Purpose, check_seed

log = logging.getLogger(__name__)

HIDDEN, LAYERS, HEADS, POSITIONS = 64, 3, 4, 64
INIT = 0.08
"""Deviation of the initial weights: OPT's own, 0.02, is for wider models."""

BATCH_SIZE = 64
PEAK_LR = 3e-3
WARMUP = 20
POOL = 16
"""Minibatches whose documents are sorted by length, so that little of a minibatch is padding."""

_ORDER = 100  # index of the stream that orders minibatches, apart from those of the text


def new_model(vocabulary: int, seed: int) -> transformers.OPTForCausalLM:
    """A small OPT of so many tokens, with random weights."""
    config = transformers.OPTConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        ffn_dim=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        init_std=INIT,
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(check_seed(seed))
        return transformers.OPTForCausalLM(config)


def minibatches(documents: Sequence[list[int]], seed: int) -> Iterator[list[list[int]]]:
    """Minibatches of documents of similar lengths, without end, in about the order of the documents.

    A document is its token ids; the order within a pool is random.
    """
    for start in cycle(range(0, len(documents), BATCH_SIZE * POOL)):
        pool = sorted(documents[start : start + BATCH_SIZE * POOL], key=len)
        groups = [pool[i : i + BATCH_SIZE] for i in range(0, len(pool), BATCH_SIZE)]
        for i in Draws(seed, Purpose.SPLIT, owner=_ORDER, round=start).permutation(len(groups)).tolist():
            yield groups[i]


@torch.random.fork_rng(devices=[])  # OPT of transformers 4 draws in training, also where nothing is dropped
def pretrain(model: transformers.OPTForCausalLM, documents: Sequence[list[int]], steps: int, seed: int) -> list[float]:
    r"""Trains on the next token with AdamW, all weights, by the mean of :math:`-\log p(t_{i+1} | t_1 \dots t_i)`.

    The learning rate rises for ``WARMUP`` steps and falls to zero along a cosine. Documents are token ids, in the order
    of reading. The model is changed in place and left in evaluation mode; the loss of each step is returned.
    """
    padding = int(model.config.pad_token_id or 0)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98))
    model.train()
    losses: list[float] = []
    for step, documents_now in zip(range(steps), minibatches(documents, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        tokens = pad_sequence([torch.tensor(d) for d in documents_now], batch_first=True, padding_value=padding)
        logits = model(input_ids=tokens, attention_mask=tokens.ne(padding).long(), use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=padding)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            log.info("Pretraining: step %d of %d, loss %.3f.", step + 1, steps, losses[-1])
    model.eval()
    return losses
