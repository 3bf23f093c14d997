"""Whatever a model's files hold, it is built or refused in one line, and no code is fetched for it."""

from __future__ import annotations

import copy
import json
import logging
import random
import shutil
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from hiso_pl.models import CausalLM, ImageClassifier, SequenceClassifier
from hiso_pl.models.tokenizer import load_tokenizer
from tests.isolated import fuzz

pytestmark = pytest.mark.timeout(0)

BUILD: dict[str, Any] = {
    "causal": CausalLM,
    "sequence": SequenceClassifier,
    "image": ImageClassifier,
    "tokenizer": load_tokenizer,
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NASTY: list[Any] = [
    *(
        None,
        True,
        False,
        "",
        "x",
        "some/repository",
        "../x",
        "/etc/passwd",
        "auto",
        [],
        {},
        [[]],
        {"": "a/b"},
        {"a": None},
    ),
    *(0, 1, -1, 2, 3, 17, 1000, 2**18, 2**31, 2**63, 10**9, 10**30, 0.5, -0.0, 1e300, float("nan"), float("inf")),
    *([1] * 1000, [2**17] * 3, ["full_attention"] * 3, {"0": "a", "1": "b"}, {"rope_type": "linear", "factor": 2.0}),
]
KEYS = [
    *("attn_implementation", "_attn_implementation", "experts_implementation", "quantization_config", "auto_map"),
    *("num_labels", "id2label", "torch_dtype", "dtype", "layer_types", "rope_scaling", "rope_parameters", "head_dim"),
    *(
        "text_config",
        "vision_config",
        "transformers_weights",
        "tie_word_embeddings",
        "is_decoder",
        "use_cache",
        "depths",
    ),
    *("backbone", "sub_configs", "problem_type", "pruned_heads", "per_layer_config", "tokenizer_class"),
]
TYPES = [
    "llama",
    "qwen2",
    "gemma2",
    "opt",
    "gpt2",
    "bert",
    "vit",
    "swin",
    "bloom",
    "mixtral",
    "mamba",
    "t5",
    "timm_wrapper",
]


@cache
def originals() -> tuple[Path, Path]:
    """A language model with a tokenizer, and a model of images."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    home = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=40, num_key_value_heads=1, max_position_embeddings=32, **SIZES)
    transformers.LlamaForCausalLM(config).save_pretrained(home / "text")
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>").save_pretrained(home / "text")
    images = transformers.ViTConfig(image_size=12, patch_size=4, **SIZES)  # type: ignore[call-arg]
    transformers.ViTForImageClassification(images).save_pretrained(home / "images")

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"):
            raise SystemExit(f"{event} {args}")
        if event == "open" and isinstance(args[0], str) and args[0].startswith("/etc/passwd"):
            raise SystemExit(f"opened {args[0]}")

    sys.addaudithook(watch)
    return home / "text", home / "images"


def entangled(values: dict[str, Any], draw: random.Random) -> None:
    """Changes an object, or one inside it, at some keys."""
    for _ in range(draw.randrange(1, 4)):
        place = values
        inside = [value for value in values.values() if isinstance(value, dict)]
        if inside and draw.random() < 0.3:
            place = draw.choice(inside)
        key = draw.choice([*place, *KEYS]) if draw.random() < 0.8 else draw.choice(KEYS)
        if key == "model_type" and draw.random() < 0.9:
            place[key] = draw.choice(TYPES)
        elif draw.random() < 0.1:
            place.pop(key, None)
        else:
            place[key] = copy.deepcopy(draw.choice(NASTY))


def altered(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(min(len(changed), 4000) or 1)
        changed[place : place + draw.randrange(3)] = bytes(draw.randrange(256) for _ in range(draw.randrange(4)))
    return bytes(changed[: draw.randrange(len(changed) + 1)] if draw.random() < 0.1 else changed)


def one_model(number: int) -> None:
    draw = random.Random(number)
    text, images = originals()
    kind = list(BUILD)[number % 4]
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "model"
        shutil.copytree(images if kind == "image" else text, folder)
        if draw.random() < 0.3:
            (folder / "model.safetensors").rename(folder / "a.safetensors")
            index = {
                "metadata": {"total_size": 1},
                "weight_map": {"lm_head.weight": "a.safetensors", "x": "a.safetensors"},
            }
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        names = sorted(path.name for path in folder.iterdir())
        name = draw.choice(["config.json"] * 4 + names + [n for n in names if n.endswith("index.json")] * 4)
        file = folder / name
        if name.endswith(".json") and draw.random() < 0.7:
            values = json.loads(file.read_text())
            entangled(values, draw)
            file.write_text(json.dumps(values))
        else:
            file.write_bytes(altered(file.read_bytes(), draw))
        build = {
            "causal": CausalLM,
            "sequence": SequenceClassifier,
            "image": ImageClassifier,
            "tokenizer": load_tokenizer,
        }
        try:
            build[kind](str(folder))  # type: ignore[operator]
        except ValueError as error:
            plain = type(error) is ValueError and str(folder) in str(error) and "\n" not in str(error)
            assert plain, repr(error)  # noqa: PT017  # either outcome is right


def test_altered_models_in_bounded_memory():
    fuzz("tests.models.test_folder_fuzz", "one_model", cases=150, memory=4 << 30, seconds=60)
