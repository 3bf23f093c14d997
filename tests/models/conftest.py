"""Tiny random models with a tokenizer, saved as Hugging Face folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hiso_pl.models import TaskModel
from hiso_pl.zeroth_order import ZerothOrderOptimizer

WORDS = ["<s>", "<pad>", "<unk>", "</s>", "Ġbad", "Ġgood", "Ġterrible", "Ġgreat", "ĠIt", "Ġwas", "a", "Ġfine", "Ġfilm"]
VOCABULARY = 40


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 3}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
ENCODER = {**COMMON, **SIZES, "intermediate_size": 32}
LLAMA = {**ENCODER, "num_key_value_heads": 1, "max_position_embeddings": 32}
OPT = {**COMMON, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "init_std": 0.3}
CONFIGS: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    # as in OPT-350M: the head does not take the blocks' own output
    "opt": lambda: transformers.OPTConfig(**OPT, word_embed_proj_dim=8, max_position_embeddings=32, dropout=0.1),
    "opt-plain": lambda: transformers.OPTConfig(**OPT, word_embed_proj_dim=16, max_position_embeddings=32),
    "gpt2": lambda: transformers.GPT2Config(
        **{**COMMON, "pad_token_id": None}, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3
    ),
    "llama": lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(**LLAMA, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA, head_dim=8, tie_word_embeddings=True),
    "gemma2": lambda: transformers.Gemma2Config(**LLAMA, head_dim=8, final_logit_softcapping=30.0, sliding_window=4),
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=4),
    "phi": lambda: transformers.PhiConfig(**LLAMA),
    "bloom": lambda: transformers.BloomConfig(**COMMON, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3),
    "cohere": lambda: transformers.CohereConfig(**LLAMA, logit_scale=0.0625),
    "bert": lambda: transformers.BertConfig(**ENCODER, max_position_embeddings=32),
    # its positions begin behind the padding token's
    "roberta": lambda: transformers.RobertaConfig(**ENCODER, max_position_embeddings=34, type_vocab_size=1),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        pad_token_id=1,
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=32,
        initializer_range=0.3,
    ),
    "vit": lambda: transformers.ViTConfig(**SIZES, intermediate_size=32, image_size=12, patch_size=4, num_labels=7),  # type: ignore[call-arg]
}


@pytest.fixture(scope="session")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: transformers.PreTrainedTokenizerFast
) -> Callable[..., str]:
    """Makes the folder of a family's tiny model once, stored in 16 bits like most published ones."""
    made: dict[tuple[str, torch.dtype, int], Path] = {}

    def make(family: str, dtype: torch.dtype = torch.float16, blocks: int = 2) -> str:
        if (family, dtype, blocks) not in made:
            path = made[family, dtype, blocks] = tmp_path_factory.mktemp(family)
            config = CONFIGS[family]()
            if blocks != 2:
                config.num_hidden_layers = blocks
                if getattr(config, "layer_types", None) is not None:
                    config.layer_types = (config.layer_types * blocks)[:blocks]
            auto = transformers.AutoModelForCausalLM
            if family in ("bert", "roberta", "distilbert"):
                auto = transformers.AutoModel
            elif family == "vit":
                auto = transformers.AutoModelForImageClassification
            with torch.random.fork_rng():
                torch.manual_seed(0)
                auto.from_config(config).to(dtype).save_pretrained(path)
            tokenizer.save_pretrained(path)
        return str(made[family, dtype, blocks])

    return make


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Four right padded prompts of 3 to 8 tokens."""
    lengths = torch.tensor([8, 3, 5, 6])
    mask = (torch.arange(8) < lengths[:, None]).long()
    ids = torch.randint(4, VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(1))
    return {
        "input_ids": torch.where(mask.bool(), ids, torch.tensor(1)),
        "attention_mask": mask,
        "answer_position": lengths - 1,
        "label": torch.tensor([0, 1, 1, 0]),
        "label_words": torch.tensor([4, 5]),
    }


def _rows(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [1] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


def _filled(lists: list[list[int]], width: int) -> torch.Tensor:
    return torch.tensor([values + [0] * (width - len(values)) for values in lists])


@pytest.fixture(scope="session")
def candidate_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Makes a batch of prompts with candidates of several tokens, which share rows where they can."""

    def make(prompts: list[list[int]], candidates: list[list[list[int]]], labels: list[int], share: bool = True):
        rows: list[list[int]] = []
        starts: list[int] = []
        chosen = []
        for prompt, words in zip(prompts, candidates, strict=True):
            first = len(rows)
            places = {}
            for c in sorted(range(len(words)), key=lambda c: -len(words[c])):
                row = prompt + words[c][:-1]
                fits = [r for r in range(first, len(rows)) if share and rows[r][: len(row)] == row]
                if not fits:
                    rows.append(row)
                    starts.append(len(prompt) - 1)
                places[c] = fits[0] if fits else len(rows) - 1
            chosen.append([places[c] for c in range(len(words))])
        longest = max(len(word) for words in candidates for word in words)
        positions = [
            [min(start + i, len(row) - 1) for i in range(longest)] for row, start in zip(rows, starts, strict=True)
        ]
        return {
            **_rows(rows),
            "answer_positions": torch.tensor(positions),
            "candidate_rows": torch.tensor(chosen),
            "candidate_tokens": torch.stack([_filled(words, longest) for words in candidates]),
            "candidate_mask": torch.stack([_filled([[1] * len(w) for w in words], longest) for words in candidates]),
            "label": torch.tensor(labels),
        }

    return make


@pytest.fixture(scope="session")
def generation_batch() -> Callable[..., dict[str, torch.Tensor]]:
    """Makes a batch of prompts with the answers that they are trained on."""

    def make(prompts: list[list[int]], answers: list[list[int]], stop: tuple[int, ...] = (3, 20), most: int = 8):
        longest = max(map(len, answers))
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        positions = [
            [min(len(prompt) - 1 + i, len(row) - 1) for i in range(longest)]
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        return {
            **_rows(rows),
            "answer_positions": torch.tensor(positions),
            "answer_tokens": _filled(answers, longest),
            "answer_mask": _filled([[1] * len(answer) for answer in answers], longest),
            "label": torch.zeros(len(prompts), dtype=torch.int64),
            "stop_tokens": torch.tensor(stop, dtype=torch.int64),
            "max_new_tokens": torch.tensor(most),
        }

    return make


@pytest.fixture(scope="session")
def texts() -> Callable[..., list[list[int]]]:
    """Draws token sequences of mixed lengths."""

    def draw(count: int, shortest: int, longest: int, seed: int = 0) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
        return [torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]

    return draw


@pytest.fixture(scope="session")
def to_left() -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Moves a batch's padding to the left, as ``padding_side: left`` of the data has it."""

    def move(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        moved = dict(batch)
        for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            shift = batch["attention_mask"].shape[1] - length
            for name in ("input_ids", "attention_mask", "token_type_ids", "answer_position", "answer_positions"):
                if name in batch:
                    moved[name] = moved[name].clone()
                    row = batch[name][i]
                    moved[name][i] = row + shift if name.startswith("answer") else row.roll(shift)
        return moved

    return move


@pytest.fixture(scope="session")
def rounds() -> Callable[..., np.ndarray]:
    """Runs rounds on one batch; gives the scalars, and a loss that each round starts from."""

    def run(network: TaskModel, batch: dict[str, torch.Tensor], count: int = 2, **options) -> np.ndarray:
        parameters = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        settings = {"lr": 1e-3, "mu": 1e-2, "num_directions": 2, **options}
        optimizer = ZerothOrderOptimizer(parameters, **settings)
        optimizer.network = network
        found = []
        for _ in range(count):
            optimizer.step(lambda: network.loss(batch))
            found.append([*optimizer.report.scalars.ravel(), optimizer.report.loss])
        return np.array(found)

    return run
