"""Opens Hugging Face models and tokenizers, with every refusal in one line.

Weights are read in fp32 whatever they are stored in: probes are differences of losses, and the masters of the
update are fp32.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hiso_pl import hub
from hiso_pl.models.building import no_more_than, of_another_shape
from hiso_pl.models.configuration import check_config
from hiso_pl.models.folder import check_folder, held_by, weight_files
from hiso_pl.models.source import FIRST, check_source, finder, refusing


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
    """Loads a model in fp32 and evaluation mode.

    Args:
        auto_class: One of the ``AutoModelFor...`` classes.
        pretrained: Folder, or name on the hub.
        attention: Attention implementation, as transformers names it; None leaves the choice to it. Names of code on
            the hub are refused.
        revision: Branch, tag or commit on the hub.
        use_safetensors: Whether to read safetensors only; the alternative executes pickled data.
        trust_remote_code: Whether Python code that comes with the model may run.
        options: Further options of ``from_pretrained``.

    Returns:
        The model, and the names of the parameters that its files do not hold (new heads).

    Raises:
        ValueError: If there is nothing to load or it cannot be loaded.
    """
    folder = check_source("pretrained", pretrained)
    find = finder(pretrained, folder, revision)
    if folder is None:
        hub.check_there(f"pretrained={pretrained!r}", find("config.json") is not None, FIRST.format(pretrained))
    if find("adapter_config.json") is not None:
        # transformers would follow the path of the base model that the adapter's file names.
        raise ValueError(f"pretrained={pretrained!r} is a PEFT adapter, must be a whole model; give the adapter's base")
    if folder is not None:
        _check_model_files(pretrained, folder, use_safetensors)
    if attention is not None:
        _check_attention(attention)
        options["attn_implementation"] = attention
    if revision is not None:
        options["revision"] = revision
    transformers.utils.logging.disable_progress_bar()  # one on every rank, for what takes a second
    with refusing("pretrained", pretrained):
        if folder is not None:
            check_folder(folder)
        config = find("config.json")
        named = None if config is None else check_config(config, attention).get("transformers_weights")
        stem, suffix = ("model", ".safetensors") if use_safetensors else ("pytorch_model", ".bin")
        files = weight_files(find, stem, suffix, named)
        with no_more_than(held_by(files)) if files else nullcontext():
            model, info = auto_class.from_pretrained(
                pretrained if folder is None else str(folder),
                dtype=torch.float32,
                use_safetensors=use_safetensors,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **{**options, "ignore_mismatched_sizes": True},
            )
    # of some versions of transformers their names alone
    mismatched = {one if isinstance(one, str) else one[0]: list(one)[1:] for one in info["mismatched_keys"]}
    if mismatched and not options.get("ignore_mismatched_sizes"):
        raise ValueError(f"pretrained={pretrained!r}: {of_another_shape(model, mismatched, options.get('num_labels'))}")
    # where it is allowed a head of another size is drawn anew, like a missing one
    return model.eval(), sorted({*info["missing_keys"], *mismatched})


def max_positions(model: transformers.PreTrainedModel) -> int | None:
    """Most tokens of a sequence that a model has positions for, where it has a limit.

    RoBERTa's family counts positions from the one after that of its padding token, so the first ones are never used.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            named = model.config.get_text_config().pad_token_id
            # of a negative one, which means none, torch makes a place counted from the end
            return module.num_embeddings - (module.padding_idx if named is None or named >= 0 else named) - 1
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most if most is None or most > 0 else None  # XLNet says -1 where there is no limit


def vocabulary_size(model: transformers.PreTrainedModel) -> int:
    """Number of token ids that a model has an embedding for."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]


def unwrapped(model: nn.Module) -> transformers.PreTrainedModel:
    """The transformers model inside PEFT's wrapper, or the model itself."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return cast(transformers.PreTrainedModel, inner)


def _check_attention(attention: str) -> None:
    """Refuses what transformers has no attention for, and what it would fetch code from the hub for."""
    known = sorted({"eager", *(name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in name)})
    if attention not in known:
        raise ValueError(f"attention={attention!r} must be one of {', '.join(known)}")


def _check_model_files(pretrained: str, folder: Path, use_safetensors: bool) -> None:
    """Refuses folders that hold no model, before transformers answers in a dozen ways."""
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
