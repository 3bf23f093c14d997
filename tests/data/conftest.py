"""A tokenizer of a dozen words, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["<s>", "<pad>", "<unk>", "</s>", "Ġbad", "Ġgood", "Ġterrible", "Ġgreat", "ĠIt", "Ġwas", "a", "Ġfine", "Ġfilm"]


@pytest.fixture
def make_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., transformers.PreTrainedTokenizerFast]:
    """Makes a word-level tokenizer; ``single`` and ``pair`` say where special tokens go."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(
        single: str = "<s> $A", pair: str | None = None, **options: list[str]
    ) -> transformers.PreTrainedTokenizerFast:
        core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 3)]
        )
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token="<s>",
            pad_token="<pad>",
            unk_token="<unk>",
            eos_token="</s>",
            **options,
        )

    return make


@pytest.fixture
def tokenizer_folder(tmp_path: Path, make_tokenizer: Callable[..., transformers.PreTrainedTokenizerFast]) -> str:
    """The default tokenizer, saved as a folder."""
    folder = tmp_path / "tokenizer"
    make_tokenizer().save_pretrained(folder)
    return str(folder)
