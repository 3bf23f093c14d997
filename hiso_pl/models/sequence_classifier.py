"""Sequence classification with a head on an encoder (or on a decoder's last token)."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from hiso_pl.models.adapters import LoRA, trial, virtual_tokens
from hiso_pl.models.compiled import compile_in_place
from hiso_pl.models.loading import load_pretrained, max_positions, unwrapped, vocabulary_size
from hiso_pl.models.padding import padded_right
from hiso_pl.models.transformers_model import TransformersModel


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

    Raises:
        ValueError: If the model cannot be loaded or adapted, or nothing of it would be trained.
    """

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
        config = model.config.get_text_config()
        if config.pad_token_id is None:
            # Decoders pool the last token that is not padding, so they need a token that means padding.
            config.pad_token_id = model.config.pad_token_id = _first_id(config.eos_token_id)
        self._padding = int(config.pad_token_id)
        self.tokenizer_source = pretrained
        self.tokenizer_revision = revision
        self.tokenizer_trusted = trust_remote_code
        self.vocabulary_size = vocabulary_size(model)
        # DistilBERT takes no segments, and RoBERTa knows one only
        takes = "token_type_ids" in inspect.signature(model.forward).parameters
        self._segments = takes and getattr(config, "type_vocab_size", 2) > 1
        positions = max_positions(model)
        self._take(model, missing, pretrained, revision, peft, trainable, "SEQ_CLS")
        self.max_positions = None if positions is None else positions - virtual_tokens(self.model)
        if virtual_tokens(self.model):
            self._try_virtual_tokens()
        if compile:
            compile_in_place(unwrapped(self.model).base_model)

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits from ``input_ids``, ``attention_mask`` and, where given, ``token_type_ids``, shape ``[B, C]``."""
        batch = padded_right(batch)
        mask = batch["attention_mask"]
        inputs = {"attention_mask": mask}
        if self._segments and "token_type_ids" in batch:
            inputs["token_type_ids"] = batch["token_type_ids"]
        # The tokenizer's padding may not be the model's, and some models find a sequence's end by it.
        input_ids = batch["input_ids"].masked_fill(mask == 0, self._padding)
        return self.model(input_ids=input_ids, **inputs).logits.float()

    def _try_virtual_tokens(self) -> None:
        """Tries a short text with and without padding: a decoder that is given embeddings does not find its end.

        Raises:
            ValueError: If padding matters, or the model takes no virtual tokens.
        """
        ids = (torch.arange(1, 4) + self._padding).remainder(int(self.vocabulary_size or 0)).unsqueeze(0)
        mask = torch.ones_like(ids)
        with trial(self.model):
            plain = self.scores({"input_ids": ids, "attention_mask": mask})
            padded = self.scores({"input_ids": F.pad(ids, (0, 2)), "attention_mask": F.pad(mask, (0, 2))})
        if not torch.allclose(plain, padded, rtol=1e-3, atol=1e-4):
            kind = type(unwrapped(self.model)).__name__
            raise ValueError(
                f"peft must not put virtual tokens before a text of {kind}, which then does not find the text's end: "
                "take another adapter, or hiso_pl.models.CausalLM"
            )


def _first_id(token: int | list[int] | None) -> int:
    """A model's end token: configurations hold one, several or none."""
    if isinstance(token, list):
        token = token[0] if token else None
    return 0 if token is None else token
