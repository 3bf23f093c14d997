"""Model or adapter, classes' names and tokenizer, as Hugging Face's own files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn

from hiso_pl.data.tasks import find_task
from hiso_pl.errors import one_line
from hiso_pl.models import CausalLM, SequenceClassifier, TransformersModel
from hiso_pl.models.heads import token_ids
from hiso_pl.models.loading import unwrapped, vocabulary_size

log = logging.getLogger(__name__)


def name_classes(network: TransformersModel, task: Any, classes: Any = None) -> None:
    """Lets a classifier's configuration say what its classes are called, where the run's task says so.

    A pretrained head that has names for them keeps these: the run's labels were numbered as it has them.

    Args:
        network: The network; the configuration of its model is changed.
        task: Name of a built-in task, the options of the user's own, or anything else, which names no classes.
        classes: What the run called them instead.
    """
    if network.labels is not None:
        return
    if classes is None and isinstance(task, Mapping):
        classes = task.get("classes")
    if classes is None and isinstance(task, str):
        try:
            classes = getattr(find_task(task), "classes", None)
        except ValueError:  # of another package, which has its own names
            return
    config = unwrapped(network.model).config
    if isinstance(network, CausalLM) or not isinstance(classes, list | tuple) or len(classes) != config.num_labels:
        return
    config.id2label = {i: str(name) for i, name in enumerate(classes)}
    config.label2id = {name: i for i, name in config.id2label.items()}


def save(
    network: TransformersModel,
    tokenizer: transformers.PreTrainedTokenizerBase | None,
    folder: Path,
    kind: str,
    dtype: torch.dtype,
) -> None:
    """Writes model or adapter, and the tokenizer where texts are its input. The network is changed on the way.

    Args:
        network: The network with its trained weights.
        tokenizer: The tokenizer; None for images.
        folder: Where to.
        kind: ``model``, ``adapter`` or ``merged``.
        dtype: What weights are stored in.

    Raises:
        ValueError: If the weights do not fit into ``dtype``, or cannot be merged.
    """
    model: Any = network.model
    if isinstance(network, SequenceClassifier) and tokenizer is not None:
        _agree_on_padding(network, unwrapped(model), tokenizer)
    if kind == "merged":
        model = _merged(model)
    for name, p in model.named_parameters():
        if p.is_floating_point() and (p.requires_grad or kind != "adapter"):
            stored = p.data.to(dtype)
            if not torch.isfinite(stored).all() and torch.isfinite(p.data).all():
                raise ValueError(f"dtype={str(dtype).removeprefix('torch.')} cannot hold {name!r}: take float32")
            p.data = stored
    if kind == "adapter":
        for config in model.peft_config.values():
            config.base_model_name_or_path = network.pretrained
            config.revision = network.revision
        # embeddings that are not trained are the base model's
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # an empty form
    else:
        cast(transformers.PreTrainedModel, model).save_pretrained(str(folder))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def _merged(adapted: Any) -> transformers.PreTrainedModel:
    """The model with its adapter merged; its head stays tied to its embedding only where they still are the same."""
    from peft.utils import ModulesToSaveWrapper  # PEFT takes seconds, and is there already if there is an adapter

    model = unwrapped(adapted)
    # What is trained whole takes its own place: PEFT would do so by way of a weight that not every such module has.
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ModulesToSaveWrapper):
                [trained] = child.modules_to_save.values()
                setattr(parent, name, trained)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if any(hasattr(module, "base_layer") for module in (embedding, head)):
        base = getattr(head, "base_layer", head)
        if isinstance(getattr(base, "weight", None), nn.Parameter):
            base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=base.weight.requires_grad)
    try:
        merged = cast(transformers.PreTrainedModel, adapted.merge_and_unload(safe_merge=True))
    except (NotImplementedError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"merge=True must be false: {one_line(error)}") from error
    embedding, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    if head is not None and getattr(head, "weight", None) is not getattr(embedding, "weight", None):
        for config in {id(c): c for c in (merged.config, merged.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    return merged


def _agree_on_padding(
    network: SequenceClassifier, model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """Says what padding is in model and tokenizer alike, and in the model only where it finds a text's end by it.

    Decoders take the last token that is not the padding's. Where none is known to mean padding, or texts themselves end
    in it, the model is left without: alone a text is then scored as in the run, and batches are refused.
    """
    config = model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        padding = network.padding
        if padding is None:
            padding = next(iter(token_ids(config.eos_token_id, vocabulary_size(model))), None)
        if padding is not None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    padding = tokenizer.pad_token_id
    if network.reads_last_token and padding is not None and tokenizer("a").input_ids[-1:] == [padding]:
        log.warning(
            "Texts end in the padding token %s, which the exported model would not read: it is left without padding, "
            "and takes one text at a time.",
            tokenizer.pad_token,
        )
        padding = None
    config.pad_token_id = model.config.pad_token_id = padding
