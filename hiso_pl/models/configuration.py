"""What the files of a model may ask for in words: numbers that can be built, and nothing that is code or a place.

Only options of the command line turn on code from elsewhere. A model's ``config.json`` is looked at as it stands, with
all that is nested in it, before a class of transformers is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiso_pl.bounds import (
    CONFIG_BYTES,
    CONFIG_FREE,
    CONFIG_INTEGER,
    CONFIG_LENGTH,
    TOKENIZER_CONFIG_BYTES,
    TOKENIZER_ID,
    TOKENIZER_SPECIAL,
)
from hiso_pl.models.folder import plain_name, read_json

PLAIN = ("eager", "sdpa", "flex_attention")
"""Attention implementations that a file may ask for; the others bring code of other packages, or of the hub."""

PLAIN_EXPERTS = ("eager", "batched_mm", "grouped_mm")
"""The same of experts."""

_CODE = {
    "quantization_config": "weights must be stored as plain numbers",
    "compression_config": "weights must be stored as plain numbers",
    "fusion_config": "it replaces layers of the model",
    "kernel_config": "it replaces layers by code from elsewhere",
    "configuration_files": "it names other files",
    "use_pretrained_backbone": "it loads another model",
    "checkpoint_path": "it loads another model",
}
"""Keys of a configuration that must be absent or empty, and why."""

_LENGTHS = re.compile("position|length|len|context|window|ctx|vocab")
_FREE = re.compile("theta|base|token|seed|param|step|flop|byte|total|rate")
"""Numbers of such names make no layers, and are large in some models."""

_NEGATIVE = re.compile("layers?$|^depth|hidden_size|^n_embd$|^d_model$|intermediate_size")
_PATH_KEYS = re.compile("_file$|^gguf_file$|^vocab$|^merges$")
_NOT_OPENED = ("special_tokens_map_file", "tokenizer_config_file", "chat_template_file", "added_tokens_file")
"""Paths on the machine where a tokenizer was saved, which published ones carry and nobody opens."""


def check_config(path: Path, attention: str | None) -> dict[str, Any]:
    """Looks through a model's ``config.json``.

    Args:
        path: The file.
        attention: The attention that an option asks for, which replaces what the file asks for.

    Returns:
        What it holds.

    Raises:
        ValueError: If it asks for what a file may not ask for.
    """
    values = check_numbers(path)
    for key, value in _entries(values):
        if key in _CODE and value:
            raise ValueError(f"{path}: {key}={_said(value)} must be left out: {_CODE[key]}")
        if "attn_implementation" in key:
            # of this spelling transformers lets the option go before, of the others too late
            before = attention is not None and key == "attn_implementation"
            names = [name for name in _texts(value) if name not in (*PLAIN, attention)]
            if names and not (before and all("/" not in name for name in names)):
                raise ValueError(
                    f"{path}: {key}={_said(value)} must be one of {', '.join(PLAIN)}: a file does not turn on other "
                    "code, but attention= of the network does"
                )
        if "experts_implementation" in key and any(name not in PLAIN_EXPERTS for name in _texts(value)):
            raise ValueError(f"{path}: {key}={_said(value)} must be one of {', '.join(PLAIN_EXPERTS)}")
        if key in ("backbone", "architecture") and isinstance(value, str) and re.search("[/:]", value):
            raise ValueError(f"{path}: {key}={_said(value)} must not name another model")
        if key == "transformers_weights" and value is not None and not plain_name(value):
            raise ValueError(f"{path}: {key}={_said(value)} must be a file of the same folder")
    return values


def check_numbers(path: Path) -> dict[str, Any]:
    """Looks through the numbers of a ``config.json``, of which lists and layers are made.

    Raises:
        ValueError: If one is out of bounds.
    """
    values = read_json(path, CONFIG_BYTES)
    for key, value in _entries(values):
        if key == "configuration_files" and value:
            raise ValueError(f"{path}: {key}={_said(value)} must be left out: {_CODE[key]}")
        many = value if isinstance(value, list) else [value]
        numbers = [n for n in many if isinstance(n, int)]
        most = _most(key)
        # of a list, as of the layers of each stage, the sum is made
        if sum(map(abs, numbers)) > most:
            raise ValueError(f"{path}: {key}={_said(value)} must be at most {most}")
        if _NEGATIVE.search(key) and any(n < 0 for n in numbers):
            raise ValueError(f"{path}: {key}={_said(value)} must be at least 0")
    return values


def check_tokenizer_config(path: Path) -> None:
    """Looks through a tokenizer's ``tokenizer_config.json``, or its ``special_tokens_map.json``.

    Raises:
        ValueError: If it names files of another folder, or tokens beyond all vocabularies.
    """
    values = read_json(path, TOKENIZER_CONFIG_BYTES)
    if values.get("init_inputs"):
        raise ValueError(f"{path}: init_inputs={_said(values['init_inputs'])} must be left out")
    for key, value in _entries(values):
        if isinstance(value, list) and len(value) > TOKENIZER_SPECIAL:
            raise ValueError(f"{path}: {key} lists {len(value)} tokens, must list at most {TOKENIZER_SPECIAL}")
        names = value if key == "fast_tokenizer_files" and isinstance(value, list) else [value]
        if key == "fast_tokenizer_files" or (_PATH_KEYS.search(key) and key not in _NOT_OPENED):
            for name in names:
                if isinstance(name, str) and not plain_name(name):
                    raise ValueError(f"{path}: {key}={_said(name)} must be a file of the same folder")
        if key.endswith("_kwargs") and any("/" in text for text in _texts(value)):
            raise ValueError(f"{path}: {key}={_said(value)} must not name a place")
    decoder = values.get("added_tokens_decoder")
    for number in decoder if isinstance(decoder, dict) else ():
        if not number.isascii() or not number.isdigit() or len(number) > 9 or int(number) > TOKENIZER_ID:
            raise ValueError(
                f"{path}: added_tokens_decoder has a token {_said(number)}, must be a number of at most {TOKENIZER_ID}"
            )


def _entries(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All keys of an object and of those inside, each with its value; those of a list's items have the list's key."""
    left: list[tuple[str, Any]] = list(values.items())
    while left:
        key, value = left.pop()
        yield key, value
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((key, item) for item in value if isinstance(item, dict | list))


def _most(key: str) -> int:
    """The largest number that may stand under a key."""
    if "layer" in key or "label" in key:
        return CONFIG_INTEGER
    return CONFIG_FREE if _FREE.search(key) else CONFIG_LENGTH if _LENGTHS.search(key) else CONFIG_INTEGER


def _texts(value: Any) -> list[str]:
    """The texts in a value, or in the values of an object."""
    return [text for text in (value.values() if isinstance(value, dict) else [value]) if isinstance(text, str)]


def _said(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**100 else "a number of over 100 digits"
    return text if len(text) <= 80 else text[:77] + "..."
