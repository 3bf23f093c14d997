"""Adapters: drawn alike under one seed, alone trained, moved by rounds, and refused where they cannot work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hiso_pl.models import CausalLM, SequenceClassifier

VIRTUAL = {"PROMPT_TUNING": "prompt_encoder", "P_TUNING": "prompt_encoder", "PREFIX_TUNING": "prompt_encoder"}
KINDS = {"LORA": "lora_", "IA3": "ia3_", **VIRTUAL, "VERA": "vera_lambda", "LN_TUNING": "LayerNorm"}


def options(kind):
    more = {"num_virtual_tokens": 3} if kind in VIRTUAL else {}
    more |= {"target_modules": ["LayerNorm"]} if kind == "LN_TUNING" else {}
    return {"peft_type": kind, **more, **({"r": 2} if kind == "LORA" else {})}


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "LN_TUNING"])
def test_an_adapter_alone_is_trained(folder, batch, rounds, family, kind):
    networks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        networks.append(CausalLM(folder(family), peft=options(kind)))
    drawn = [{n: p.clone() for n, p in network.named_parameters() if p.requires_grad} for network in networks]
    first, again, other = drawn
    assert all(KINDS[kind] in name for name in first)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert kind in ("IA3", "VERA") or any(not torch.equal(first[name], other[name]) for name in first)
    network = networks[0]
    assert network.full_logits == (kind in VIRTUAL)
    assert network.max_positions == 32 - 3 * (kind in VIRTUAL)
    assert not any(module.training for module in network.modules())
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    assert network.pretrained_names() <= set(frozen)
    base = {f"model.{name}" for name, _ in CausalLM(folder(family)).model.named_parameters()}
    assert len(network.pretrained_names()) == len(base)

    scalars = rounds(network, batch, lr=0.05)
    assert np.isfinite(scalars).all()
    assert np.abs(scalars).min() > 0
    now = dict(network.named_parameters())
    assert all(not torch.equal(now[name], value) for name, value in first.items())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    np.testing.assert_array_equal(rounds(networks[1], batch, lr=0.05, memory="low"), scalars)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_compute_in_half_precision_and_many_points_at_once(folder, batch, rounds, kind):
    def run(**more):
        torch.manual_seed(0)
        return rounds(CausalLM(folder("llama"), peft=options(kind)), batch, **more)

    plain = run()
    np.testing.assert_allclose(run(directions_per_forward=3), plain, rtol=0, atol=2e-6 / 1e-2)
    torch.manual_seed(0)
    network = CausalLM(folder("llama"), peft=options(kind))
    for p in network.parameters():
        if not p.requires_grad:
            p.data = p.data.bfloat16()
    half = rounds(network, batch, mu=0.1, compute_dtype="bfloat16")
    np.testing.assert_allclose(half[0, -1], plain[0, -1], rtol=5e-2)


@pytest.mark.parametrize("kind", ["LORA", "IA3", *VIRTUAL, "LN_TUNING"])
def test_an_encoder_is_adapted_with_its_head(folder, batch, rounds, kind):
    torch.manual_seed(0)
    network = SequenceClassifier(folder("bert"), peft=options(kind))
    trained = {name: p.clone() for name, p in network.named_parameters() if p.requires_grad}
    named = KINDS[kind]
    assert any(named in name for name in trained)
    assert all(named in name or "classifier" in name for name in trained)
    assert network.max_positions == 32 - 3 * (kind in VIRTUAL)
    assert not network.pretrained_names() & set(trained)
    rounds(network, batch, lr=0.05)
    now = dict(network.named_parameters())
    assert all(not torch.equal(now[name], value) for name, value in trained.items() if "classifier" not in name)


def test_a_decoders_head_does_not_see_where_embeddings_end(folder):
    with pytest.raises(ValueError, match="virtual tokens before a text of LlamaForSequenceClassification") as caught:
        SequenceClassifier(folder("llama"), peft=options("PROMPT_TUNING"))
    assert "\n" not in str(caught.value)
    SequenceClassifier(folder("llama"), peft=options("PREFIX_TUNING"))


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_an_adapter_that_changes_the_models_own_weights_is_refused(folder, kind):
    peft = {"peft_type": "LORA", "r": 2, "init_lora_weights": kind}
    with pytest.raises(ValueError, match=r"must leave the model's own weights as they are, .* changes 4 of them"):
        CausalLM(folder("opt"), peft=peft)


def test_an_adapter_that_cannot_run_is_refused_in_one_line(folder):
    with pytest.raises(ValueError, match=r"peft.*LlamaForCausalLM: ") as caught:
        CausalLM(folder("llama"), peft={**options("PROMPT_TUNING"), "token_dim": 6})
    assert "\n" not in str(caught.value)
