"""Every family loads in fp32, is perturbed whole with tied weights once, and repeats to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from hiso_pl.models import CausalLM
from hiso_pl.zeroth_order.streams import Site, direction

FAMILIES = ["opt", "opt-plain", "gpt2", "llama", "qwen2", "gemma2", "mistral", "phi", "bloom"]
UNTIED = {"llama", "mistral", "phi"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masters_are_the_files_values_in_fp32_and_tied_ones_come_once(folder, family, dtype):
    path = folder(family, dtype)
    network = CausalLM(path)
    stored = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    names = dict(network.named_parameters())
    assert all(p.dtype == torch.float32 and p.requires_grad for p in names.values())
    for name, p in stored.named_parameters():
        assert torch.equal(names[f"model.{name}"], p.float())
    assert (network.model.get_output_embeddings().weight is network.model.get_input_embeddings().weight) == (
        family not in UNTIED
    )
    assert sum(p.numel() for p in names.values()) == stored.num_parameters()
    assert network.max_positions == (None if family == "bloom" else 32)
    assert network.pretrained_names() == set(names)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_moves_every_weight_and_repeats_to_the_bit(folder, batch, rounds, family):
    ends = []
    for memory in ("fast", "fast", "low"):
        network = CausalLM(folder(family))
        begins = {name: p.clone() for name, p in network.named_parameters()}
        scalars = rounds(network, batch, lr=0.05, memory=memory)
        for name, p in network.named_parameters():
            assert not torch.equal(p, begins[name]), name
        ends.append((scalars, [p.clone() for p in network.parameters()]))
    assert np.isfinite(ends[0][0]).all()
    assert np.abs(ends[0][0][:, :2]).min() > 0
    for scalars, values in ends[1:]:
        np.testing.assert_array_equal(scalars, ends[0][0])
        assert all(map(torch.equal, values, ends[0][1]))


@pytest.mark.parametrize("family", ["opt", "gpt2", "gemma2", "bloom"])
def test_a_tied_weight_is_displaced_at_both_its_places(folder, batch, rounds, family):
    network = CausalLM(folder(family), trainable=r"(embed_tokens|wte|word_embeddings)\.weight")
    [p] = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():
        moved = p + 0.1 * torch.from_numpy(direction(Site(0, "normal", 0, 0), 0, 0, 0, p.numel())).view_as(p)
        losses = []
        for values in (moved, p.clone()):
            p.copy_(values)
            logits = network.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            scores = logits[torch.arange(4), batch["answer_position"]][:, batch["label_words"]]
            losses.append(F.cross_entropy(scores.double(), batch["label"]).item())
    [[scalar, loss]] = rounds(network, batch, count=1, mu=0.1, num_directions=1)
    assert loss == pytest.approx(losses[1], rel=1e-5)
    assert scalar == pytest.approx((losses[0] - losses[1]) / 0.1, rel=1e-3)
