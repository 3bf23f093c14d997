"""A model's files ask for nothing but numbers: no code, no other place, and no more than they hold."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from hiso_pl.models import CausalLM, ImageClassifier, SequenceClassifier
from hiso_pl.models.building import no_more_than
from hiso_pl.models.folder import Held, held_by
from hiso_pl.models.tokenizer import load_tokenizer
from tests.isolated import isolated

KINDS: dict[str, tuple[Any, str]] = {
    "causal": (CausalLM, "llama"),
    "adapted": (lambda path: CausalLM(path, peft={"peft_type": "LORA", "target_modules": ["q_proj"]}), "llama"),
    "sequence": (SequenceClassifier, "bert"),
    "image": (ImageClassifier, "vit"),
}


@pytest.fixture
def copy(folder, tmp_path):
    """A folder of a family's model that may be changed, and the values of its config.json."""

    def make(family: str) -> Path:
        path = tmp_path / "model"
        shutil.copytree(folder(family), path)
        return path

    return make


def change(path: Path, name: str = "config.json", **values: Any) -> None:
    file = path / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refusal(build: Any, path: Path) -> str:
    with pytest.raises(ValueError, match=str(path)) as caught:
        build(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values",
    [
        {"_attn_implementation": "some/repository"},
        {"attn_implementation": "some/repository@main:kernel"},
        {"attn_implementation": {"": "some/repository"}},
        {"_attn_implementation_internal": "some/repository"},
        {"text_config": {"_attn_implementation": "some/repository"}},
        {"list": [[{"attn_implementation": "paged|some/repository"}]]},
        {"_attn_implementation": "flash_attention_2"},
        {"experts_implementation": "sonicmoe"},
        {"_experts_implementation": {"text_config": "deepgemm"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"fusion_config": {"anything": True}},
        {"configuration_files": ["../config.4.0.0.json"]},
        {"transformers_weights": "../outside.safetensors"},
        {"transformers_weights": "/outside.safetensors"},
        {"backbone": "some/model", "use_pretrained_backbone": False},
        {"use_pretrained_backbone": True},
        {"architecture": "hf-hub:some/model"},
        {"model_args": {"checkpoint_path": "/outside"}},
    ],
)
def test_a_configuration_turns_on_no_code_and_names_no_place(copy, kind, values, monkeypatch):
    build, family = KINDS[kind]
    path = copy(family)
    change(path, **values)
    for name in ("lazy_load_kernel", "load_and_register_attn_kernel", "get_kernel"):
        target = f"transformers.integrations.hub_kernels.{name}"
        monkeypatch.setattr(target, lambda *_, **__: pytest.fail("a kernel was asked for"), raising=False)
    assert "config.json: " in refusal(build, path)


def test_an_option_decides_on_attention_instead_of_the_file(copy):
    path = copy("llama")
    change(path, attn_implementation="flash_attention_2")
    assert CausalLM(str(path), attention="eager").model.config._attn_implementation == "eager"
    for values in ({"attn_implementation": "some/repository"}, {"_attn_implementation": "flash_attention_2"}):
        change(path, **{"attn_implementation": None, **values})
        with pytest.raises(ValueError, match="a file does not turn on other code"):
            CausalLM(str(path), attention="eager")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "number"),
    [("num_hidden_layers", n) for n in (10**9, 2**40, 10**30, 100_000)] + [("hidden_size", n) for n in (10**9, 10**30)],
)
def test_what_a_configuration_asks_for_is_bounded(copy, kind, name, number):
    build, family = KINDS[kind]
    path = copy(family)
    change(path, **{name: number})
    assert "must be at most 262144" in (said := refusal(build, path)) or "its weight files hold" in said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1 must be at least 0"),
        ({"num_labels": 10**9}, "num_labels=1000000000"),
        ({"vocab_size": 10**9}, "vocab_size=1000000000"),
        ({"vocab_size": 10**8}, "weight files hold"),
        ({"depths": [2**17] * 4}, "depths="),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers=1000000000"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"hidden_size": None}, ""),
        ({"num_attention_heads": 0}, ""),
        ({"model_type": ["llama"]}, ""),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_one_line(copy, values, words):
    path = copy("llama")
    change(path, **values)
    assert words in refusal(CausalLM, path)


def test_a_tokenizer_does_not_make_a_configuration_of_any_size(copy):
    path = copy("qwen2")
    change(path, num_hidden_layers=10**9)
    assert "num_hidden_layers=1000000000" in refusal(load_tokenizer, path)


def test_a_number_that_makes_nothing_may_be_large(copy):
    path = copy("llama")
    change(path, rope_theta=10**9, max_position_embeddings=10**7, trained_tokens=15 * 10**12)
    CausalLM(str(path))


def test_what_is_made_is_counted_and_then_no_longer():
    with pytest.raises(ValueError, match="over 1000 tensors, its weight files hold 0"), no_more_than(Held(0, 0)):
        [torch.nn.Linear(1, 1) for _ in range(501)]
    with pytest.raises(ValueError, match="numbers, its weight files hold 1"), no_more_than(Held(0, 1)):
        torch.nn.Embedding(1 << 20, 1 << 20, device="meta")
    with pytest.raises(ValueError, match="numbers"), no_more_than(Held(0, 1)):
        torch.nn.Module().register_buffer("mask", torch.empty(1 << 20, 1 << 20, device="meta"))
    torch.nn.Embedding(1 << 20, 1 << 20, device="meta")


# Files


def split_up(path: Path, **shards: str) -> None:
    """Puts an index in place of the weights, which names shards."""
    (path / "model.safetensors").rename(path / "a.safetensors")
    where = {"lm_head.weight": "a.safetensors", **shards}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_shards_lie_inside_the_folder(copy):
    path = copy("llama")
    outside = path.parent / "outside.safetensors"
    shutil.copy(path / "model.safetensors", outside)
    split_up(path)
    CausalLM(str(path))
    index = path / "model.safetensors.index.json"
    for name in ("../outside.safetensors", str(outside), "./a.safetensors", "..", "", "a.bin", "b.safetensors", 3):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": "a.safetensors", "y": name}}))
        assert "model.safetensors.index.json names" in refusal(CausalLM, path)
    (path / "b.safetensors").symlink_to(outside)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"x": "b.safetensors"}}))
    assert "b.safetensors is a link to" in refusal(CausalLM, path)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"weight_map": {}}', '{"metadata": 1, "weight_map": {"a": "b"}}', "[" * 10**5]
)
def test_an_index_that_is_none(copy, text):
    path = copy("llama")
    split_up(path)
    (path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refusal(CausalLM, path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["link", "fifo", "device"])
def test_files_are_regular_and_inside(copy, name, kind):
    path = copy("llama")
    outside = path.parent / name
    (path / name).rename(outside)
    if kind == "fifo":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to(outside if kind == "link" else "/dev/zero")
    for build in (CausalLM, load_tokenizer):
        assert f"{name} " in refusal(build, path)


def test_a_snapshot_of_the_hubs_cache_is_links_to_its_blobs(copy, tmp_path, monkeypatch):
    home = tmp_path / "models--some--model"
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    for file in copy("llama").iterdir():
        file.rename(home / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for source in (str(snapshot), "some/model"):
        CausalLM(source)
        load_tokenizer(source)
    change(home / "blobs", num_hidden_layers=10**9)
    for source in (str(snapshot), "some/model"):
        with pytest.raises(ValueError, match="num_hidden_layers=1000000000"):
            CausalLM(source)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "elsewhere.json")
    (tmp_path / "elsewhere.json").write_text("{}")
    assert "is a link to" in refusal(CausalLM, snapshot)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{" * 100,
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [10, 10], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1099511627776, 1099511627776], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 80]}}',
        b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 4000 + b'], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"1," * 100 + b'1], "data_offsets": [0, 4]}}',
    ],
)
def test_a_header_of_weights_is_checked_before_it_is_believed(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="is not safetensors, or damaged"):
        held_by([path])
    path.write_bytes((1 << 60).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="its header has 1152921504606846976 bytes"):
        held_by([path])


def test_a_distributed_checkpoint_is_not_read(copy):
    path = copy("llama")
    (path / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    assert "distributed checkpoint" in refusal(CausalLM, path)


# Tokenizers


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tokenizer_file": "/etc/passwd"}, "tokenizer_file="),
        ({"vocab_file": "../vocab.txt"}, "vocab_file="),
        ({"gguf_file": "../x.gguf"}, "gguf_file="),
        ({"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]}, "fast_tokenizer_files="),
        ({"init_inputs": ["/etc/passwd"]}, "init_inputs="),
        ({"sp_model_kwargs": {"model_file": "/etc/passwd"}}, "must not name a place"),
        ({"mecab_kwargs": {"mecab_option": "-r /etc/passwd"}}, "must not name a place"),
        ({"added_tokens_decoder": {"1000000000": {"content": "x"}}}, "added_tokens_decoder has a token '1000000000'"),
        ({"extra_special_tokens": ["x"] * 20_000}, "lists 20000 tokens"),
        ({"tokenizer_class": "RagTokenizer"}, "RagTokenizer is no tokenizer of texts"),
        ({"tokenizer_class": 3}, ""),
    ],
)
def test_a_tokenizers_configuration_names_no_other_file(copy, values, words):
    path = copy("llama")
    change(path, "tokenizer_config.json", **values)
    assert words in refusal(load_tokenizer, path)


def test_paths_that_published_tokenizers_carry_do_no_harm(copy):
    path = copy("llama")
    change(path, "tokenizer_config.json", special_tokens_map_file="/root/x.json", tokenizer_file=None, init_inputs=[])
    assert len(load_tokenizer(str(path))) == 13


def test_a_text_has_a_bound(copy, monkeypatch):
    path = copy("llama")
    monkeypatch.setattr("hiso_pl.models.folder.MODEL_TEXT_BYTES", 100)
    assert "bytes, must have at most 100" in refusal(load_tokenizer, path)


def test_nothing_outside_the_folder_is_opened(copy, tmp_path):
    """Seen from inside the interpreter: files opened, modules of no package, connections, processes."""
    models = {}
    for kind, (_, family) in KINDS.items():
        models[kind] = str(copy(family).rename(tmp_path / kind))
        change(Path(models[kind]), auto_map={"AutoModel": "some/repository--code.Model"}, name_or_path="some/other")
        change(Path(models[kind]), architectures=["os.system"], base_model_name_or_path="/etc")
        (Path(models[kind]) / "custom_generate").mkdir()
        (Path(models[kind]) / "custom_generate" / "generate.py").write_text("raise SystemExit('run')")
        (Path(models[kind]) / "generation_config.json").write_text('{"custom_generate": "some/repository"}')
        if kind != "image":
            change(Path(models[kind]), "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]})
    code = f"""
        import os, sys
        from hiso_pl.models import CausalLM, ImageClassifier, SequenceClassifier
        from hiso_pl.models.tokenizer import load_tokenizer
        seen = []
        inside = ({str(tmp_path)!r}, sys.prefix, sys.base_prefix, "/proc", "/sys", "/usr", "/dev/null")
        def watch(event, args):
            if event == "open" and isinstance(args[0], str) and not os.path.realpath(args[0]).startswith(inside):
                if not args[0].startswith({str(Path(__file__).parents[2] / "hiso_pl")!r}):
                    seen.append(args[0])
            elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"):
                seen.append(event)
        sys.addaudithook(watch)
        for kind, build in (("causal", CausalLM), ("sequence", SequenceClassifier), ("image", ImageClassifier)):
            build(os.path.join({str(tmp_path)!r}, kind))
        CausalLM(os.path.join({str(tmp_path)!r}, "adapted"), peft={{"peft_type": "LORA", "target_modules": ["q_proj"]}})
        for kind in ("causal", "sequence"):
            load_tokenizer(os.path.join({str(tmp_path)!r}, kind))
        assert not any(name.startswith("transformers_modules.") for name in sys.modules)
        print(seen)
    """
    assert isolated(textwrap.dedent(code)).splitlines()[-1] == "[]"
