"""What is trained is said by a regular expression of names, and what was read from the named weights is known."""

from __future__ import annotations

import pytest
import torch
import yaml

from hiso_pl import presets
from hiso_pl.models import CausalLM, DigitsCNN, ImageClassifier, LoRA, SequenceClassifier


def trained(network):
    return {name.removeprefix("model.") for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("kind", "family", "expression", "expected"),
    [
        (CausalLM, "opt", r"layers\.1\.fc[12]\.bias$", {f"model.decoder.layers.1.fc{i}.bias" for i in (1, 2)}),
        (CausalLM, "llama", "lm_head", {"lm_head.weight"}),
        # tied: it goes by the head's name too
        (CausalLM, "opt", "^lm_head", {"model.decoder.embed_tokens.weight"}),
        (SequenceClassifier, "bert", "^classifier", {"classifier.weight", "classifier.bias"}),
        (ImageClassifier, "vit", "^classifier", {"classifier.weight", "classifier.bias"}),
    ],
)
def test_only_what_matches_is_trained(folder, kind, family, expression, expected):
    assert trained(kind(folder(family), trainable=expression)) == expected


FAMILIES = ("opt", "gpt2", "llama", "qwen2", "qwen3")


def by_kind(network, *kinds):
    """The names of all parameters of modules of a kind; by what the modules are, not by what they are called."""
    return {
        f"{name}.{own}".removeprefix("model.")
        for name, module in network.named_modules()
        if any(kind in type(module).__name__ for kind in kinds)
        for own, _ in module.named_parameters(recurse=False)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_presets_name_the_same_parts_in_every_family(folder, family):
    network = CausalLM(folder(family))
    all_names = {name.removeprefix("model.") for name, _ in network.named_parameters()}
    norms, biases = by_kind(network, "Norm"), {name for name in all_names if name.endswith("bias")}
    blocks = next(m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 2)
    inner = {id(p) for p in blocks[1].parameters()}
    block = {name.removeprefix("model.") for name, p in network.named_parameters() if id(p) in inner}
    assert min(map(len, (norms, block))) >= 5
    expected = {"norm": norms, "bias": biases, "norm_bias": norms | biases, "block": block}
    for name, names in expected.items():
        trainable = yaml.safe_load(presets.text(f"tuning/{name}"))["model"]["network"]["init_args"]["trainable"]
        if names:
            assert trained(CausalLM(folder(family), trainable=trainable)) == names, name
        else:  # LLaMA and Qwen3 have no biases
            with pytest.raises(ValueError, match=r"trainable='bias\$' must be found in a parameter's name, such as "):
                CausalLM(folder(family), trainable=trainable)


def test_a_round_moves_what_matches_and_nothing_else(folder, batch, rounds):
    network = CausalLM(folder("opt"), trainable="bias")
    begins = {name: p.clone() for name, p in network.named_parameters()}
    rounds(network, batch, lr=0.05)
    for name, p in network.named_parameters():
        assert torch.equal(p, begins[name]) == ("bias" not in name), name


@pytest.mark.parametrize("kind", [CausalLM, SequenceClassifier])
def test_expressions_that_cannot_be(folder, kind):
    message = r"trainable='layers\.9' must be found in a parameter's name, such as \S*embed_tokens\.weight, \S+, \S+$"
    with pytest.raises(ValueError, match=message):
        kind(folder("opt"), trainable="layers.9")
    with pytest.raises(ValueError, match=r"trainable='layers\.\(' must be a regular expression: "):
        kind(folder("opt"), trainable="layers.(")
    with pytest.raises(ValueError, match="trainable='bias' must be null with peft"):
        kind(folder("opt"), trainable="bias", peft=LoRA())


def test_names_read_from_the_weights(folder):
    torch.manual_seed(0)
    assert DigitsCNN().pretrained_names() == frozenset()
    assert DigitsCNN().weights_identity() == {}
    for network in (SequenceClassifier(folder("bert")), SequenceClassifier(folder("bert"), trainable="classifier")):
        others = {name for name, _ in network.named_parameters()} - network.pretrained_names()
        assert others == {"model.classifier.weight", "model.classifier.bias"}
    adapted = SequenceClassifier(folder("bert"), peft=LoRA(r=2))
    others = {name for name, _ in adapted.named_parameters()} - adapted.pretrained_names()
    assert others
    assert all("lora_" in name or ".classifier." in name for name in others)


def test_the_identity_of_the_weights(folder):
    network = CausalLM(folder("opt"))
    assert network.weights_identity() == {"name": folder("opt")}
    network.revision = "v1.0"
    assert network.weights_identity() == {"name": folder("opt"), "revision": "v1.0"}
    network._commit = "3d2b5f275bdf882b8775f902e1bfdb790e2cfc32"  # what transformers notes of a model from the hub
    assert network.weights_identity() == {"name": folder("opt"), "revision": network._commit}
