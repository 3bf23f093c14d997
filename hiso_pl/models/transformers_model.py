"""What all networks around a model of transformers share: which of its weights are trained, and where they are from."""

from __future__ import annotations

import logging
import re
from typing import Any

import transformers
from torch import nn

from hiso_pl.errors import one_line
from hiso_pl.models.adapters import LoRA, add_adapter
from hiso_pl.models.task_model import TaskModel

log = logging.getLogger(__name__)


class TransformersModel(TaskModel):
    """A network around one model of transformers.

    Attributes:
        model: The model, or PEFT's wrapper around it.
        pretrained: Folder or hub name that its weights are from.
        revision: Branch, tag or commit on the hub, as it was given.
    """

    model: nn.Module
    pretrained: str | None = None
    revision: str | None = None
    _commit: str | None = None
    _read: frozenset[str] = frozenset()

    def _take(
        self,
        model: transformers.PreTrainedModel,
        missing: list[str],
        pretrained: str,
        revision: str | None,
        peft: LoRA | dict[str, Any] | None,
        trainable: str | None,
        task: str | None,
    ) -> None:
        """Takes a loaded model, adapted for PEFT's ``task``, or with all frozen but what is ``trainable``.

        Its files do not hold the parameters that are ``missing``.

        Raises:
            ValueError: If both an adapter and an expression are given, or one of them does not fit.
        """
        if missing:
            log.info("new in %s: %s", pretrained, ", ".join(missing))
        if peft is not None and trainable is not None:
            raise ValueError(f"trainable={trainable!r} must be null with peft, which itself says what is trained")
        if trainable is not None:
            train_only(model, trainable)
        self.pretrained, self.revision = pretrained, revision
        self._commit = getattr(model.config, "_commit_hash", None)
        read = {id(p) for name, p in model.named_parameters() if name not in missing}
        self.model = model if peft is None else add_adapter(model, peft, task)
        self._read = frozenset(name for name, p in self.named_parameters() if id(p) in read)
        self.eval()

    def pretrained_names(self) -> frozenset[str]:
        """All parameters but new heads, adapters, and the copies that adapters make of whole modules."""
        return self._read

    def weights_identity(self) -> dict[str, str]:
        """The name, and the commit that was loaded from the hub, or else the revision that was asked for."""
        if self.pretrained is None:
            return {}
        revision = self._commit or self.revision
        return {"name": self.pretrained} | ({} if revision is None else {"revision": revision})


def train_only(model: nn.Module, expression: str) -> None:
    """Freezes all parameters but those in whose name a regular expression is found.

    A tied weight goes by any of its names.

    Raises:
        ValueError: If it is no regular expression, or found in no name.
    """
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"trainable={expression!r} must be a regular expression: {one_line(error)}") from error
    named = list(model.named_parameters(remove_duplicate=False))
    chosen = {id(p) for name, p in named if pattern.search(name)}
    if not chosen:
        some = ", ".join(name for name, _ in (named[0], named[len(named) // 2], named[-1]))
        raise ValueError(f"trainable={expression!r} must be found in a parameter's name, such as {some}")
    for _, p in named:
        p.requires_grad_(id(p) in chosen)
