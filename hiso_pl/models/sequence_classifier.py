"""Sequence classification with a head on an encoder (or on a decoder's last token)."""

from __future__ import annotations

import logging
from typing import Any

import transformers
from torch import Tensor

from hiso_pl.models.adapters import LoRA, add_adapter
from hiso_pl.models.compiled import compile_in_place
from hiso_pl.models.loading import load_pretrained, unwrapped, vocabulary_size
from hiso_pl.models.task_model import TaskModel

logger = logging.getLogger(__name__)


class SequenceClassifier(TaskModel):
    """``AutoModelForSequenceClassification`` in fp32.

    A head that the files do not hold is drawn from torch's global generator, which the CLI seeds alike on all ranks.

    Args:
        pretrained: A model's folder, or its name on the hub.
        num_labels: Number of classes.
        peft: Adapter to train instead of the whole model: the fields of ``LoRA``, or a dict with ``peft_type``.
        attention: Attention implementation (``sdpa``, ``eager``, ...); None leaves the choice to transformers.
        revision: Branch, tag or commit on the hub.
        use_safetensors: Whether to refuse pickled weights.
        trust_remote_code: Whether Python code that comes with the model may run.
        compile: Whether to run the encoder (or decoder) through ``torch.compile``: one compilation for all batch sizes
            and lengths from 2 on, and one more for batches of one example. It hardly helps on CPUs; needs a C++
            compiler there, and ``memory: fast``.

    Raises:
        ValueError: If the model cannot be loaded or adapted.
    """

    def __init__(
        self,
        pretrained: str,
        num_labels: int = 2,
        peft: LoRA | dict[str, Any] | None = None,
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
        config = model.config.get_text_config()
        if config.pad_token_id is None:
            # Decoders pool the last token that is not padding, so they need a token that means padding.
            config.pad_token_id = model.config.pad_token_id = _first_id(config.eos_token_id)
        self._padding = int(config.pad_token_id)
        self.tokenizer_source = pretrained
        self.tokenizer_revision = revision
        self.max_positions = getattr(config, "max_position_embeddings", None)
        self.vocabulary_size = vocabulary_size(model)
        self.model = model if peft is None else add_adapter(model, peft, "SEQ_CLS")
        self.eval()
        if compile:
            compile_in_place(unwrapped(self.model).base_model)

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits from ``input_ids``, ``attention_mask`` and, where given, ``token_type_ids``, shape ``[B, C]``."""
        mask = batch["attention_mask"]
        inputs = {"attention_mask": mask}
        if "token_type_ids" in batch:
            inputs["token_type_ids"] = batch["token_type_ids"]
        # The tokenizer's padding may not be the model's, and some models find a sequence's end by it.
        input_ids = batch["input_ids"].masked_fill(mask == 0, self._padding)
        return self.model(input_ids=input_ids, **inputs).logits.float()


def _first_id(token: int | list[int] | None) -> int:
    """A model's end token: configurations hold one, several or none."""
    if isinstance(token, list):
        token = token[0] if token else None
    return 0 if token is None else token
