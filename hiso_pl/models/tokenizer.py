"""Opens Hugging Face tokenizers, with every refusal in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from hiso_pl import hub
from hiso_pl.models.configuration import check_numbers, check_tokenizer_config
from hiso_pl.models.folder import check_folder
from hiso_pl.models.source import FIRST, check_source, finder, refusing

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")


def load_tokenizer(
    source: str, revision: str | None = None, trust_remote_code: bool = False
) -> transformers.PreTrainedTokenizerBase:
    """Loads a tokenizer.

    Args:
        source: Folder, or name on the hub.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether Python code that comes with the tokenizer may run.

    Raises:
        ValueError: If there is none. A model's folder without tokenizer files is such a case: transformers
            would answer it with an empty tokenizer of the model's family.
    """
    folder = check_source("tokenizer", source)
    if folder is not None and not _tokenizer_files(folder):
        raise ValueError(f"tokenizer={source!r}: the folder holds no tokenizer (tokenizer.json or a vocabulary file)")
    if folder is None:
        there = any(finder(source, None, revision)(name) for name in ("tokenizer_config.json", *FILES))
        hub.check_there(f"tokenizer={source!r}", there, FIRST.format(source))
    # said even where it is not wanted: not told, transformers would ask at the terminal
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    with refusing("tokenizer", source):
        if folder is not None:
            check_folder(folder)
        find = finder(source, folder, revision)
        checks = {"tokenizer_config.json": check_tokenizer_config, "special_tokens_map.json": check_tokenizer_config}
        for name, check in {**checks, "config.json": check_numbers}.items():
            path = find(name)
            if path is not None:
                check(path)
        tokenizer = _open_tokenizer(source if folder is None else str(folder), options)
        if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):  # of a pair of models, for one
            raise ValueError(f"{type(tokenizer).__name__} is no tokenizer of texts")
    if len(tokenizer) == 0:
        raise ValueError(f"tokenizer={source!r} cannot be loaded: its vocabulary is empty")
    return tokenizer


def _open_tokenizer(source: str, options: dict[str, Any]) -> transformers.PreTrainedTokenizerBase:
    """Opens a tokenizer that makes token types only where its files or its family say so, as from version 5 on.

    Before, one of no family made them always, and decoders such as GPT-2 add the embedding of token 0 for each.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    told = type(tokenizer) is not transformers.PreTrainedTokenizerFast or "model_input_names" in tokenizer.init_kwargs
    if told or "token_type_ids" not in tokenizer.model_input_names:
        return tokenizer
    names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return transformers.AutoTokenizer.from_pretrained(source, model_input_names=names, **options)


def _tokenizer_files(folder: Path) -> bool:
    return any((folder / name).exists() for name in FILES) or any(folder.glob("*.tiktoken"))
