"""A classifier's head: what its outputs are called, and where it reads a text.

That is at the last token that the mask shows, whichever token it is.

Heads on decoders look for the last token that is not the padding's by its id. A text that ends in that token, as where
a model's files name none and any must do, would be read too early, and differently from the same text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

from hiso_pl.class_names import says_something
from hiso_pl.models.loading import vocabulary_size

FAILURES = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""What a model may raise of a text or an adapter that it does not take."""


def token_id(value: Any, size: int) -> int | None:
    """A token id of a configuration; None for what is none: absent, negative, or beyond the vocabulary.

    Args:
        value: What the configuration holds.
        size: Number of token ids.
    """
    return value if type(value) is int and 0 <= value < size else None


def token_ids(value: Any, size: int) -> list[int]:
    """The same of a key that may hold several, such as the ends of a sequence."""
    many = value if isinstance(value, list | tuple) else [value]
    return [token for token in many if token_id(token, size) is not None]


def filling_token(model: transformers.PreTrainedModel) -> int:
    """A token id to stand where the mask hides: the model's padding, or one that no head takes for a text's end."""
    config, size = model.config.get_text_config(), vocabulary_size(model)
    ends = token_ids(config.eos_token_id, size)
    padding = token_id(config.pad_token_id, size)
    if padding is not None and padding not in ends:
        return padding
    return next((token for token in range(size) if token not in ends), 0)


def text_of_the_vocabulary(model: transformers.PreTrainedModel) -> Tensor:
    """A short text without padding that ends as texts do, int64, shape ``[1, 3 or 4]``: to try a model with."""
    config, size = model.config.get_text_config(), vocabulary_size(model)
    ends = token_ids(config.eos_token_id, size)
    special = {*ends, *token_ids(config.pad_token_id, size), *token_ids(getattr(config, "bos_token_id", None), size)}
    words = [token for token in range(size) if token not in special][:3]
    return torch.tensor([[*words, *(token for token in ends[:1] if token != config.pad_token_id)]])


def head_labels(model: transformers.PreTrainedModel, missing: Sequence[str]) -> tuple[str, ...] | None:
    """What a pretrained classifier's outputs are called, in their order.

    Args:
        model: The classifier.
        missing: Names of its parameters that its files do not hold.

    Returns:
        The names; None where its head is new, or its configuration names no classes.
    """
    if any(not name.startswith(f"{model.base_model_prefix}.") for name in missing):
        return None
    names: dict[int, str] = cast(Any, model.config).id2label or {}
    told = tuple(str(names.get(i, "")) for i in range(len(names)))
    return told if says_something(told) else None


class LastToken:
    """Lets a head's scores of every token be read at each row's last token.

    Inside :meth:`of` the scores ``[B, T, C]`` that the head gives are everywhere those of the last token, so that
    wherever a model looks for it, it finds it.

    Args:
        head: The head, which scores every token.
    """

    def __init__(self, head: nn.Module) -> None:
        self._mask: Tensor | None = None
        head.register_forward_hook(self._spread)

    @contextmanager
    def of(self, mask: Tensor) -> Iterator[None]:
        """While the block lasts, the last tokens are those of a mask, int64 ``[B, T]``, padded on the right."""
        self._mask = mask
        try:
            yield
        finally:
            self._mask = None

    def _spread(self, _: nn.Module, __: tuple[Any, ...], scores: Tensor) -> Tensor:
        if self._mask is None:
            return scores
        # what has no place in the mask, such as virtual tokens, stands in front
        last = self._mask.sum(dim=1) - 1 + scores.shape[1] - self._mask.shape[1]
        rows = torch.arange(scores.shape[0], device=scores.device)
        return scores[rows, last][:, None].expand_as(scores)


def linear_head(model: transformers.PreTrainedModel) -> str | None:
    """The name of a head that is one linear map, where the model has one beside its body."""
    body = getattr(model, model.base_model_prefix, None)
    for name, module in model.named_children():
        if module is not body and type(module) is nn.Linear and module.out_features == model.config.num_labels:
            return name
    return None


def reads_last_token(model: transformers.PreTrainedModel, head: nn.Module) -> bool:
    """Whether a model's scores of a text are those that its head gives of the last token, by a trial.

    Args:
        model: The model, in evaluation mode.
        head: Its head.
    """
    ids = text_of_the_vocabulary(model).to(model.device)
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda _, __, scores: seen.append(scores))
    try:
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except FAILURES:  # one that takes no text as short as this
        return False
    finally:
        handle.remove()
    return len(seen) == 1 and seen[0].dim() == 3 and torch.equal(found, seen[0][:, -1])
