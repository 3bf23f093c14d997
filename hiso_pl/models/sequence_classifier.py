"""Sequence classification with a head on an encoder (or on a decoder's last token)."""

from __future__ import annotations

import inspect
import logging
from contextlib import nullcontext
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from hiso_pl.errors import one_line
from hiso_pl.models.adapters import LoRA, adapted_call, has_prefix, virtual_tokens
from hiso_pl.models.compiled import compile_in_place
from hiso_pl.models.heads import (
    FAILURES,
    LastToken,
    filling_token,
    head_labels,
    linear_head,
    reads_last_token,
    text_of_the_vocabulary,
    token_id,
)
from hiso_pl.models.loading import load_pretrained, max_positions, unwrapped, vocabulary_size
from hiso_pl.models.padding import padded_right
from hiso_pl.models.transformers_model import TransformersModel

logger = logging.getLogger(__name__)


class SequenceClassifier(TransformersModel):
    """``AutoModelForSequenceClassification`` in fp32.

    A head that the files do not hold is drawn from torch's global generator, which the CLI seeds alike on all ranks.

    Args:
        pretrained: A model's folder, or its name on the hub.
        num_labels: Number of classes.
        peft: Adapter to train instead of the whole model: the fields of ``LoRA``, or a dict with ``peft_type``.
        trainable: Regular expression searched in the names of the model's parameters; parameters in whose name it is
            not found are frozen, a new head too. None trains all.
        attention: Attention implementation (``sdpa``, ``eager``, ...); None leaves the choice to transformers.
        revision: Branch, tag or commit on the hub.
        use_safetensors: Whether to refuse pickled weights.
        trust_remote_code: Whether Python code that comes with the model may run.
        compile: Whether to run the encoder (or decoder) through ``torch.compile``: one compilation for all batch sizes
            and lengths from 2 on, and one more for batches of one example. It hardly helps on CPUs; needs a C++
            compiler there, and ``memory: fast``.

    Attributes:
        padding: The padding token that the model's files name, where they name one of its vocabulary.

    Raises:
        ValueError: If the model cannot be loaded or adapted, nothing of it would be trained, or its scores of a text
            depend on the padding beside it.
    """

    _last_token: LastToken | None = None

    def __init__(
        self,
        pretrained: str,
        num_labels: int = 2,
        peft: LoRA | dict[str, Any] | None = None,
        trainable: str | None = None,
        attention: str | None = None,
        revision: str | None = None,
        use_safetensors: bool = True,
        trust_remote_code: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if num_labels < 2:
            raise ValueError(f"num_labels={num_labels} must be at least 2")
        model, missing = load_pretrained(
            transformers.AutoModelForSequenceClassification,
            pretrained,
            attention=attention,
            revision=revision,
            use_safetensors=use_safetensors,
            trust_remote_code=trust_remote_code,
            num_labels=num_labels,
        )
        if missing:
            logger.info("new in %s: %s", pretrained, ", ".join(missing))
        self.num_labels, self.labels = num_labels, head_labels(model, missing)
        config = model.config.get_text_config()
        self._filling = filling_token(model)
        self.padding = token_id(config.pad_token_id, vocabulary_size(model))
        if config.pad_token_id is None:
            # without one, heads on decoders take no batches; where they look does not matter, see LastToken
            config.pad_token_id = model.config.pad_token_id = self._filling
        self.tokenizer_source = pretrained
        self.tokenizer_revision = revision
        self.tokenizer_trusted = trust_remote_code
        self.vocabulary_size = vocabulary_size(model)
        # DistilBERT takes no segments, and RoBERTa knows one only
        takes = "token_type_ids" in inspect.signature(model.forward).parameters
        self._segments = takes and getattr(config, "type_vocab_size", 2) > 1
        positions, head = max_positions(model), linear_head(model)
        self._take(model, missing, pretrained, revision, peft, trainable, "SEQ_CLS")
        self.max_positions = None if positions is None else positions - virtual_tokens(self.model)
        if head is not None and reads_last_token(model, getattr(model, head)):
            if virtual_tokens(self.model) and not has_prefix(self.model):
                # which could be put right here, but not where the adapter is taken to
                raise ValueError(
                    f"peft must not put virtual tokens before a text of {type(model).__name__}, which then does not "
                    "find the text's end: take another adapter, or hiso_pl.models.CausalLM"
                )
            self._last_token = LastToken(getattr(model, head))
        if head is not None or virtual_tokens(self.model):
            self._try_padding()
        if compile:
            compile_in_place(unwrapped(self.model).base_model)

    @property
    def reads_last_token(self) -> bool:
        """Whether its head is on a decoder, and reads a text's last token."""
        return self._last_token is not None

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits from ``input_ids``, ``attention_mask`` and, where given, ``token_type_ids``, shape ``[B, C]``."""
        batch = padded_right(batch)
        mask = batch["attention_mask"]
        segments = {}
        if self._segments and "token_type_ids" in batch:
            segments["token_type_ids"] = batch["token_type_ids"]
        # The tokenizer's padding may not be the model's, and some models find a sequence's end by it.
        input_ids = batch["input_ids"].masked_fill(mask == 0, self._filling)
        with nullcontext() if self._last_token is None else self._last_token.of(mask):
            return adapted_call(self.model, input_ids, mask, **segments).logits.float()

    def _try_padding(self) -> None:
        """Tries a short text with and without padding, which a head that reads the last place of a row would read.

        Raises:
            ValueError: If padding matters, or the model takes no virtual tokens.
        """
        kind = type(unwrapped(self.model)).__name__
        ids = text_of_the_vocabulary(unwrapped(self.model))
        mask = torch.ones_like(ids)
        try:
            with torch.no_grad():
                plain = self.scores({"input_ids": ids, "attention_mask": mask})
                padded = self.scores({"input_ids": F.pad(ids, (0, 2)), "attention_mask": F.pad(mask, (0, 2))})
        except FAILURES as error:
            if not virtual_tokens(self.model):  # one that takes no text as short as this
                return
            raise ValueError(f"peft does not fit {kind}: {one_line(error)}") from error
        if not torch.allclose(plain, padded, rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"pretrained={self.pretrained!r} must be of another family: {kind} reads the padding at the end of a "
                "batch's rows as well, so that a text's scores would depend on the others of its batch"
            )
