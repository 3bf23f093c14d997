"""Label-word scores and losses equal what the full logits give, whatever the family."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from hiso_pl.models import CausalLM, LoRA, SequenceClassifier
from hiso_pl.models.tokenizer import load_tokenizer

PLAIN = ["opt", "gpt2", "llama"]
CHANGED = ["gemma2", "cohere"]  # soft-capped logits, scaled logits


def full_logits(folder, batch):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[torch.arange(len(logits)), batch["answer_position"]]


@pytest.mark.parametrize("family", PLAIN + CHANGED)
def test_scores_are_the_full_logits_of_the_label_words(folder, batch, family):
    network = CausalLM(folder(family))
    assert network.full_logits == (family in CHANGED)
    with torch.no_grad():
        scores = network.scores(batch)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, full_logits(folder(family), batch)[:, [4, 5]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["opt", "gemma2"])
def test_full_vocabulary_loss_is_minus_log_softmax_of_the_label_word(folder, batch, family):
    network = CausalLM(folder(family), loss="full_vocabulary")
    with torch.no_grad():
        evaluation = network.evaluate(batch)
        mean = network.loss(batch)
    logits = full_logits(folder(family), batch)
    expected = -logits.double().log_softmax(dim=-1)[torch.arange(4), batch["label"] + 4]
    torch.testing.assert_close(evaluation.loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean.double(), expected.mean(), rtol=1e-5, atol=1e-5)
    assert evaluation.prediction.tolist() == logits[:, [4, 5]].argmax(dim=-1).tolist()


def test_label_words_loss_is_cross_entropy_over_the_label_words(folder, batch):
    network = CausalLM(folder("opt"))
    with torch.no_grad():
        evaluation = network.evaluate(batch)
    expected = F.cross_entropy(full_logits(folder("opt"), batch)[:, [4, 5]], batch["label"], reduction="none")
    torch.testing.assert_close(evaluation.loss, expected, rtol=1e-5, atol=1e-5)
    assert evaluation.loss.shape == evaluation.prediction.shape == (4,)
    assert evaluation.scores.shape == (4, 2)


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("loss", ["label_words", "full_vocabulary"])
def test_losses_do_not_depend_on_padding(folder, batch, family, loss):
    network = CausalLM(folder(family), loss=loss)
    wide = dict(batch)
    wide["input_ids"] = F.pad(batch["input_ids"], (0, 7), value=2)
    wide["attention_mask"] = F.pad(batch["attention_mask"], (0, 7))
    with torch.no_grad():
        together = network.example_losses(batch)
        torch.testing.assert_close(network.example_losses(wide), together, rtol=0, atol=1e-5)
        for i, length in enumerate((batch["answer_position"] + 1).tolist()):
            alone = {name: value[i : i + 1] for name, value in batch.items() if name != "label_words"}
            alone |= {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
            loss_alone = network.example_losses({**alone, "label_words": batch["label_words"]})
            torch.testing.assert_close(loss_alone, together[i : i + 1], rtol=0, atol=1e-5)


def test_losses_do_not_depend_on_padding_buckets(folder):
    from hiso_pl.data.tokenized import TokenizedExamples

    network = CausalLM(folder("opt"))
    sequences = [[0, 10, 11, 12, 8, 9], [0, 10, 8, 9], [0, 7, 12, 8, 9]]
    plain, padded = (TokenizedExamples(sequences, [1, 0, 1], ("0", "1"), 1, label_words=[4, 5]) for _ in range(2))
    padded.pad_to_multiples(8, most=32)
    batches = [examples.collate(np.arange(3)) for examples in (plain, padded)]
    assert [batch["input_ids"].shape[1] for batch in batches] == [6, 8]
    with torch.no_grad():
        short, long = (network.example_losses(batch) for batch in batches)
    torch.testing.assert_close(long, short, rtol=0, atol=1e-5)


def test_all_parameters_are_fp32_trainable_and_tied_ones_appear_once(folder):
    network = CausalLM(folder("opt"))
    parameters = dict(network.named_parameters())
    assert all(p.dtype == torch.float32 and p.requires_grad for p in parameters.values())
    assert not any("lm_head" in name for name in parameters)
    assert network.model.lm_head.weight is network.model.model.decoder.embed_tokens.weight
    untied = CausalLM(folder("llama"))
    assert "model.lm_head.weight" in dict(untied.named_parameters())


def test_it_stays_in_evaluation_mode(folder, batch):
    network = CausalLM(folder("opt"))  # its configuration has dropout
    network.train()
    assert not any(module.training for module in network.modules())
    with torch.no_grad():
        assert torch.equal(network.loss(batch), network.loss(batch))


def test_lora_trains_its_own_parameters_only(folder, batch):
    network = CausalLM(folder("opt"), peft=LoRA(r=2, alpha=4, target_modules=["q_proj", "v_proj"]))
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    assert len(trainable) == 8  # A and B for two modules in two layers
    assert all("lora_" in name for name in trainable)
    assert not any(module.training for module in network.modules())
    assert not any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in network.modules())
    assert not network.full_logits
    with torch.no_grad():
        base = network.scores(batch)
        for name, p in network.named_parameters():
            if "lora_B" in name:
                p.add_(0.1)
        moved = network.scores(batch)
        positions = torch.arange(4), batch["answer_position"]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        expected = network.model(**inputs).logits[positions][:, [4, 5]]
    assert not torch.allclose(base, moved)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)


def test_an_adapted_head_is_scored_through_full_logits(folder, batch):
    network = CausalLM(folder("llama"), peft=LoRA(r=2, target_modules=["lm_head"]))
    assert network.full_logits
    with torch.no_grad():
        before = network.scores(batch)
        for name, p in network.named_parameters():
            if "lora_B" in name:
                p.add_(0.1)
        assert not torch.allclose(before, network.scores(batch))


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
def test_prompt_learning_is_scored_at_the_shifted_position(folder, batch, kind):
    torch.manual_seed(0)
    network = CausalLM(folder("llama"), peft={"peft_type": kind, "num_virtual_tokens": 3})
    assert network.full_logits
    with torch.no_grad():
        together = network.example_losses(batch)
        alone = {
            "input_ids": batch["input_ids"][1:2, :3],
            "attention_mask": batch["attention_mask"][1:2, :3],
            "answer_position": torch.tensor([2]),
            "label": batch["label"][1:2],
            "label_words": batch["label_words"],
        }
        torch.testing.assert_close(network.example_losses(alone), together[1:2], rtol=0, atol=1e-5)
        logits = network.model(**{name: alone[name] for name in ("input_ids", "attention_mask")}).logits
        torch.testing.assert_close(network.scores(alone), logits[:, -1, batch["label_words"]], rtol=1e-5, atol=1e-5)


def test_ia3_is_reached_by_a_dict(folder, batch):
    network = CausalLM(folder("opt"), peft={"peft_type": "IA3"})
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trainable
    assert all("ia3_" in name for name in trainable)
    assert network.scores(batch).shape == (4, 2)


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"peft_type": "LORA", "lora_dropout": 0.1}, "peft.lora_dropout=0.1 must be 0"),
        ({"peft_type": "LORE"}, "peft.peft_type='LORE' must be one of"),
        ({"r": 4}, "peft.peft_type='' must be one of"),
        ({"peft_type": "LORA", "ranks": 4}, "peft=LORA: .*ranks"),
        ({"peft_type": "LORA", "target_modules": ["nowhere"]}, "peft=LORA: .*nowhere"),
    ],
)
def test_a_wrong_adapter_is_refused(folder, peft, message):
    with pytest.raises(ValueError, match=message) as caught:
        CausalLM(folder("opt"), peft=peft)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("r", 0), ("alpha", -1)])
def test_lora_sizes_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"peft\.{name}={value} must be at least 1"):
        LoRA(**{name: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: shutil.rmtree(path), "no such folder"),
        (lambda path: (path / "config.json").unlink(), "holds no config.json"),
        (lambda path: (path / "model.safetensors").unlink(), "holds no weights"),
        (lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), "has pickled weights only"),
        (lambda path: (path / "model.safetensors").write_bytes(b"{}"), "cannot be loaded"),
        (lambda path: (path / "config.json").write_text("{"), "cannot be loaded"),
        (lambda path: (path / "adapter_config.json").write_text(json.dumps({})), "is a PEFT adapter"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(folder, tmp_path: Path, spoil, message):
    path = tmp_path / "model"
    shutil.copytree(folder("opt"), path)
    spoil(path)
    with pytest.raises(ValueError, match=message) as caught:
        CausalLM(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("part", ["model", "tokenizer"])
@pytest.mark.parametrize("own_type", [True, False])
def test_code_that_comes_with_a_model_is_not_run_unless_asked(folder, tmp_path: Path, monkeypatch, part, own_type):
    """Of a type that transformers knows its own code is used; of another one it is refused, and nobody is asked."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    path, planted = tmp_path / "model", tmp_path / "planted"
    shutil.copytree(folder("opt"), path)
    name = {"model": "config.json", "tokenizer": "tokenizer_config.json"}[part]
    config = json.loads((path / name).read_text()) if (path / name).exists() else {}
    if part == "model":
        config["auto_map"] = {"AutoConfig": "planting.Config", "AutoModelForCausalLM": "planting.Model"}
        config |= {"model_type": "planted"} if own_type else {}
    else:
        config["auto_map"] = {"AutoTokenizer": ["planting.Tokenizer", "planting.Tokenizer"]}
        config |= {"tokenizer_class": "Tokenizer"} if own_type else {}
    (path / name).write_text(json.dumps(config))
    (path / "planting.py").write_text(f"open({str(planted)!r}, 'w').close()\n")
    load = CausalLM if part == "model" else load_tokenizer
    try:
        load(str(path))
    except ValueError as error:
        refused = str(error)
        assert own_type
        assert "trust_remote_code" in refused
        assert "\n" not in refused
    else:
        assert part == "tokenizer" or not own_type
    assert not planted.exists()
    with suppress(ValueError):  # the code is no model's; it is enough that it has run
        load(str(path), trust_remote_code=True)
    assert planted.exists()


def test_an_encoder_is_refused(folder):
    with pytest.raises(ValueError, match=r"lacks \d+ tensors of BertLMHeadModel"):
        CausalLM(folder("bert"))


def test_an_unknown_loss_is_refused(folder):
    with pytest.raises(ValueError, match="loss='words' must be one of label_words, full_vocabulary"):
        CausalLM(folder("opt"), loss="words")  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("kind", "family"), [(CausalLM, "opt"), (SequenceClassifier, "bert")])
def test_attention_is_the_one_asked_for(folder, batch, kind, family, attention, monkeypatch):
    torch.manual_seed(0)
    network = kind(folder(family), attention=attention)
    torch.manual_seed(0)
    expected = kind(folder(family))
    used = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: used.append("sdpa") or fused(*a, **k))
    with torch.no_grad():
        scores = network.scores(batch)
        assert bool(used) == (attention == "sdpa")
        torch.testing.assert_close(scores, expected.scores(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["fused", "", "someone/kernels"])
@pytest.mark.parametrize(("kind", "family"), [(CausalLM, "opt"), (SequenceClassifier, "bert")])
def test_an_unknown_attention_is_refused_in_one_line(folder, kind, family, attention):
    with pytest.raises(ValueError, match=f"attention='{attention}' must be one of eager, .*sdpa") as caught:
        kind(folder(family), attention=attention)
    assert "\n" not in str(caught.value)


def test_limits_are_known_to_the_data_module(folder):
    network = CausalLM(folder("gpt2"))
    assert (network.tokenizer_source, network.max_positions, network.vocabulary_size) == (folder("gpt2"), 32, 40)
