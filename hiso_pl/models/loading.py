"""Opens Hugging Face models and tokenizers, with every refusal in one line.

Weights are read in fp32 whatever they are stored in: probes are differences of losses, and the masters of the
update are fp32.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hiso_pl.errors import one_line

logger = logging.getLogger(__name__)


def _refusal(error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return "comes with Python code of its own: read it, and run it by trust_remote_code=true of the network"
    return f"cannot be loaded: {one_line(error)}"


def check_source(name: str, source: str) -> Path | None:
    """Tells a local folder from ``owner/name`` or ``name`` on the hub, for which it returns None.

    Raises:
        ValueError: If it can only be a folder and there is none; it calls ``source`` by ``name``.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{name}={source!r} is a file, must be a model's folder or its name on the hub")
    if not source or source.startswith((".", "~", "/")) or source.count("/") > 1 or "\\" in source:
        raise ValueError(f"{name}={source!r}: no such folder; give a model's folder or its name on the hub")
    return None


def load_pretrained(
    auto_class: Any,
    pretrained: str,
    *,
    attention: str | None = None,
    revision: str | None = None,
    use_safetensors: bool = True,
    trust_remote_code: bool = False,
    **options: Any,
) -> tuple[transformers.PreTrainedModel, list[str]]:
    """Loads a model in fp32 and evaluation mode, by one of the ``AutoModelFor...`` classes of transformers.

    The named arguments are those of the networks, and further options of ``from_pretrained``. Attention implementations
    whose name is of code on the hub are refused; what is no safetensors file executes pickled data.

    Returns:
        The model, and the names of the parameters that its files do not hold (new heads).

    Raises:
        ValueError: If there is nothing to load or it cannot be loaded.
    """
    folder = check_source("pretrained", pretrained)
    if folder is not None:
        _check_model_files(pretrained, folder, use_safetensors)
    if attention is not None:
        _check_attention(attention)
        options["attn_implementation"] = attention
    if revision is not None:
        options["revision"] = revision
    transformers.utils.logging.disable_progress_bar()  # one on every rank, for what takes a second
    try:
        model, info = auto_class.from_pretrained(
            pretrained if folder is None else str(folder),
            dtype=torch.float32,
            use_safetensors=use_safetensors,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # a broken file raises whatever its reader does: OSError, SafetensorError, KeyError
        raise ValueError(f"pretrained={pretrained!r} {_refusal(error)}") from error
    # with ignore_mismatched_sizes a head of another size is drawn anew, like a missing one
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    return model.eval(), sorted({*info["missing_keys"], *mismatched})


def max_positions(model: transformers.PreTrainedModel) -> int | None:
    """Most tokens of a sequence that a model has positions for, where it has a limit.

    RoBERTa's family counts positions from the one after that of its padding token, so the first ones are never used.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def vocabulary_size(model: transformers.PreTrainedModel) -> int:
    """Number of token ids that a model has an embedding for."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]


def unwrapped(model: nn.Module) -> transformers.PreTrainedModel:
    """The transformers model inside PEFT's wrapper, or the model itself."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return cast(transformers.PreTrainedModel, inner)


def load_tokenizer(
    source: str, revision: str | None = None, trust_remote_code: bool = False
) -> transformers.PreTrainedTokenizerBase:
    """Loads a tokenizer from a folder, or by name from the hub, at a branch, tag or commit there.

    Raises:
        ValueError: If there is none. A model's folder without tokenizer files is such a case: transformers
            would answer it with an empty tokenizer of the model's family.
    """
    folder = check_source("tokenizer", source)
    if folder is not None and not _tokenizer_files(folder):
        raise ValueError(f"tokenizer={source!r}: the folder holds no tokenizer (tokenizer.json or a vocabulary file)")
    # said even where it is not wanted: not told, transformers would ask at the terminal
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source if folder is None else str(folder), **options)
    except Exception as error:  # a broken file raises whatever its reader does: OSError, SafetensorError, KeyError
        raise ValueError(f"tokenizer={source!r} {_refusal(error)}") from error
    if len(tokenizer) == 0:
        raise ValueError(f"tokenizer={source!r} cannot be loaded: its vocabulary is empty")
    return tokenizer


def _check_attention(attention: str) -> None:
    """Refuses what transformers has no attention for, and what it would fetch code from the hub for."""
    known = sorted({"eager", *(name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in name)})
    if attention not in known:
        raise ValueError(f"attention={attention!r} must be one of {', '.join(known)}")


def _check_model_files(pretrained: str, folder: Path, use_safetensors: bool) -> None:
    """Refuses folders that hold no model, before transformers answers in a dozen ways."""
    if (folder / "adapter_config.json").exists():
        # transformers would follow the path of the base model that the adapter's file names.
        raise ValueError(f"pretrained={pretrained!r} is a PEFT adapter, must be a whole model; give the adapter's base")
    if not (folder / "config.json").exists():
        raise ValueError(f"pretrained={pretrained!r}: the folder holds no config.json, so it is not a model's folder")
    if any(folder.glob("*.safetensors")):
        return
    if use_safetensors and any(folder.glob("*.bin")):
        raise ValueError(
            f"pretrained={pretrained!r} has pickled weights only, must have *.safetensors "
            "(or set use_safetensors to false, which runs what the pickle says)"
        )
    if not any(folder.glob("*.bin")):
        raise ValueError(f"pretrained={pretrained!r}: the folder holds no weights (*.safetensors)")


def _tokenizer_files(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
    return any((folder / name).exists() for name in names) or any(folder.glob("*.tiktoken"))
