"""Tiny random models with a tokenizer, saved as Hugging Face folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

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


def _config(family: str) -> transformers.PretrainedConfig:
    common = {"vocab_size": VOCABULARY, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 3}
    llama = {
        **common,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
    }
    if family == "opt":
        return transformers.OPTConfig(
            **common,
            hidden_size=16,
            word_embed_proj_dim=8,  # as in OPT-350M: the head does not take the blocks' own output
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            dropout=0.1,
            init_std=0.3,
        )
    if family == "gpt2":
        return transformers.GPT2Config(
            **{**common, "pad_token_id": None}, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3
        )
    if family == "llama":
        return transformers.LlamaConfig(**llama, tie_word_embeddings=False)
    if family == "gemma2":
        return transformers.Gemma2Config(**llama, head_dim=8, final_logit_softcapping=30.0)
    if family == "cohere":
        return transformers.CohereConfig(**llama, logit_scale=0.0625)
    return transformers.BertConfig(
        **common,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
    )


@pytest.fixture(scope="session")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: transformers.PreTrainedTokenizerFast
) -> Callable[[str], str]:
    """Makes the folder of a family's tiny model once, stored in fp16 like many published ones."""
    made: dict[str, Path] = {}

    def make(family: str) -> str:
        if family not in made:
            path = made[family] = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            auto = transformers.AutoModel if family == "bert" else transformers.AutoModelForCausalLM
            auto.from_config(_config(family)).half().save_pretrained(path)
            tokenizer.save_pretrained(path)
        return str(made[family])

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
