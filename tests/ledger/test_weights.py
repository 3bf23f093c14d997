"""Weights that have a name are found in its files by their content, without building a model."""

import os
import struct
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from hiso_pl import bounds
from hiso_pl.ledger import LedgerError, LedgerWriter, NamedWeights, header_of, initial_tensors, stored_path, weights
from hiso_pl.zeroth_order import Identity, Method

METHOD = Method(preconditioner=Identity())
FACTS = {"seed": 1, "clients": 2, "cohort": 1, "frozen_sha256": "0" * 64, "configuration": {}, "versions": {}}


@pytest.fixture(scope="module")
def opt(tmp_path_factory):
    """A tiny OPT in fp16, with its head tied to the embedding, in two files."""
    folder = tmp_path_factory.mktemp("opt")
    config = transformers.OPTConfig(
        vocab_size=40,
        hidden_size=16,
        word_embed_proj_dim=8,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        init_std=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def trained(model):
    return [(f"model.{name}", p.detach()) for name, p in model.named_parameters() if p.requires_grad]


def load(opt):
    return transformers.AutoModelForCausalLM.from_pretrained(opt, dtype=torch.float32)


def test_a_whole_model_needs_nothing_beside_the_ledger(opt, tmp_path):
    parameters = trained(load(opt))
    header = header_of(parameters, METHOD, weights=str(opt), **FACTS)
    assert header.stored == ()
    assert header.weights.name == str(opt)
    path = tmp_path / "rounds.ledger"
    LedgerWriter(path, header, dict(parameters)).close()
    assert not stored_path(path).exists()
    found = initial_tensors(path, header, NamedWeights(str(opt)))
    assert list(found) == [name for name, _ in parameters]
    for name, values in parameters:
        assert torch.equal(found[name], values)
        assert found[name].dtype == torch.float32
    with pytest.raises(ValueError, match="weights must be given: tensor 'model"):
        initial_tensors(path, header)


def test_an_adapter_is_stored_and_a_copied_head_is_found(opt, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = load(opt)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["final_layer_norm"], task_type="CAUSAL_LM")
    parameters = trained(get_peft_model(model, config))
    header = header_of(parameters, METHOD, weights=str(opt), **FACTS)
    named = [facts.name for facts in header.tensors if not facts.stored]
    assert len(named) == 6  # three norms
    assert all("final_layer_norm.modules_to_save" in name for name in named)
    path = tmp_path / "rounds.ledger"
    LedgerWriter(path, header, dict(parameters)).close()
    assert set(load_file(stored_path(path))) == {facts.name for facts in header.stored}
    found = initial_tensors(path, header, NamedWeights(str(opt)))
    assert all(torch.equal(found[name], values) for name, values in parameters)


def test_other_weights_are_refused(opt, tmp_path):
    header = header_of(trained(load(opt)), METHOD, weights=str(opt), **FACTS)
    for path in opt.glob("*.safetensors"):
        tensors = load_file(path)
        tensors = {k: v.clone() for k, v in tensors.items()}
        if "model.decoder.layers.1.fc1.weight" in tensors:
            tensors["model.decoder.layers.1.fc1.weight"][3, 3] += 0.01
        save_file(tensors, tmp_path / path.name)
    with pytest.raises(ValueError, match=r"no tensor there .*layers\.1\.fc1\.weight"):
        initial_tensors(tmp_path / "rounds.ledger", header, NamedWeights(str(tmp_path)))


def test_the_name_in_the_file_is_never_followed(opt, tmp_path, monkeypatch):
    header = header_of(trained(load(opt)), METHOD, weights=str(opt), **FACTS)
    header = replace(header, weights=replace(header.weights, name="attacker/model"))
    monkeypatch.setattr("hiso_pl.ledger.weights.snapshot_download", lambda *a, **k: pytest.fail("followed"))
    with pytest.raises(ValueError, match="weights must be given"):
        initial_tensors(tmp_path / "rounds.ledger", header)


def test_weights_without_safetensors_are_stored(tmp_path, caplog):
    header = header_of([("w", torch.ones(2))], METHOD, weights=str(tmp_path), **FACTS)
    assert header.tensors[0].stored
    assert "stores every trained tensor" in caplog.text


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "a/b/c", "~/nowhere-at-all"])
def test_a_folder_that_is_not_there(source):
    with pytest.raises(ValueError, match="no such folder"):
        NamedWeights(source)


def test_a_pickle_among_the_weights_is_not_read(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        NamedWeights(str(tmp_path))


def test_a_name_that_the_hub_does_not_give(monkeypatch):
    with pytest.raises(ValueError, match="is no folder, and the hub does not give it") as caught:
        NamedWeights("nobody/nothing", local=True)
    assert "\n" not in str(caught.value)


def test_each_tensor_of_the_weights_is_read_once_to_know_it(tmp_path, monkeypatch):
    """Also of a shape that thousands have, under names that help nobody."""
    save_file({f"a.{i}": torch.full((2,), float(i)) for i in range(400)}, tmp_path / "model.safetensors")
    named, hashed, sha256 = NamedWeights(str(tmp_path)), [], weights.tensor_sha256
    monkeypatch.setattr(weights, "tensor_sha256", lambda tensor: hashed.append(1) or sha256(tensor))
    for i in reversed(range(400)):
        wanted = torch.full((2,), float(i))
        assert torch.equal(named.find(f"b.{i}x", (2,), sha256(wanted)), wanted)
    assert named.find("a.1", (2,), "0" * 64) is None
    assert named.find("a.1", (3,), "0" * 64) is None
    assert len(hashed) == 400


def test_a_ledger_does_not_make_many_of_one_tensor(tmp_path):
    parameters = [(f"a{i}", torch.ones(1000)) for i in range(9)]
    save_file({"w": torch.ones(1000)}, tmp_path / "model.safetensors")
    header = header_of(parameters, METHOD, weights=str(tmp_path), **FACTS)
    with pytest.raises(ValueError, match=r"takes 9000 elements from .* which has 1000: it may take 8 times as many"):
        initial_tensors(tmp_path / "rounds.ledger", header, NamedWeights(str(tmp_path)))
    header = header_of(parameters[:8], METHOD, weights=str(tmp_path), **FACTS)
    found = initial_tensors(tmp_path / "rounds.ledger", header, NamedWeights(str(tmp_path)))
    for i, tensor in enumerate(found.values()):
        tensor += i  # each is there for itself
    assert [float(tensor[5]) for tensor in found.values()] == [1.0 + i for i in range(8)]


@pytest.mark.parametrize("size", [bounds.SAFETENSORS_HEADER_BYTES + 1, 1 << 63])
def test_the_header_of_a_safetensors_file_is_not_believed(tmp_path, size):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", size) + b"{")
        file.truncate(1 << 26)
    with pytest.raises(ValueError, match=f"model.safetensors is damaged .* has {size} bytes, at most 33554432 are"):
        NamedWeights(str(tmp_path))
    path = tmp_path / "rounds.ledger"
    (tmp_path / "model.safetensors").rename(stored_path(path))
    header = header_of([("w", torch.ones(2))], METHOD, **FACTS)
    with pytest.raises(LedgerError, match=f"has {size} bytes, at most"):
        initial_tensors(path, header)


def test_weights_that_are_no_file_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is no file"):
        NamedWeights(str(tmp_path))
