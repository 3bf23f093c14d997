"""Classification by a language model: which label word comes after the prompt."""

from __future__ import annotations

import logging
from typing import Any, Literal, cast, get_args

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from hiso_pl.models.adapters import LoRA, add_adapter
from hiso_pl.models.compiled import compile_in_place
from hiso_pl.models.loading import load_pretrained, unwrapped, vocabulary_size
from hiso_pl.models.task_model import Evaluation, TaskModel, at_positions
from hiso_pl.zeroth_order.substitution import reads_rows

logger = logging.getLogger(__name__)

LossKind = Literal["label_words", "full_vocabulary"]


class CausalLM(TaskModel):
    r"""``AutoModelForCausalLM`` in fp32, scored on the label words at one position.

    With the hidden state :math:`h` of a prompt's last token and row :math:`w_v` of the output head,

    .. math:: score_c = h \cdot w_{v(c)} \qquad
        loss = -\log \frac{\exp(score_y)}{\sum_{c} \exp(score_c)}

    the sum running over the label words, or over the whole vocabulary with ``loss: full_vocabulary``. Logits of
    other positions are never computed: for OPT at batch 32 of 32 tokens they would be 206 MB where two columns are
    needed. Models whose logits are not that product (soft-capping, a scale, an adapted head, prompt learning) are
    recognised when built and scored through their own full logits.

    A batch holds ``input_ids`` and ``attention_mask`` (int64, right padded, ``[B, T]``), ``answer_position`` (int64
    ``[B]``, the prompt's last token), ``label`` (int64 ``[B]``) and ``label_words`` (int64 ``[C]``, token ids).

    Args:
        pretrained: A model's folder, or its name on the hub.
        peft: Adapter to train instead of the whole model: the fields of ``LoRA``, or a dict with ``peft_type``.
        loss: Whether the loss is normalised over the label words or over the full vocabulary.
        attention: Attention implementation (``sdpa``, ``eager``, ...); None leaves the choice to transformers.
        revision: Branch, tag or commit on the hub.
        use_safetensors: Whether to refuse pickled weights.
        trust_remote_code: Whether Python code that comes with the model may run.
        compile: Whether to run the decoder through ``torch.compile``: one compilation for all batch sizes and
            lengths from 2 on, and one more for batches of one example. It hardly helps on CPUs; needs a C++ compiler
            there, and ``memory: fast``.

    Raises:
        ValueError: If the model cannot be loaded or adapted, or lacks weights.
    """

    def __init__(
        self,
        pretrained: str,
        peft: LoRA | dict[str, Any] | None = None,
        loss: LossKind = "label_words",
        attention: str | None = None,
        revision: str | None = None,
        use_safetensors: bool = True,
        trust_remote_code: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if loss not in get_args(LossKind):
            raise ValueError(f"loss={loss!r} must be one of {', '.join(get_args(LossKind))}")
        model, missing = load_pretrained(
            transformers.AutoModelForCausalLM,
            pretrained,
            attention=attention,
            revision=revision,
            use_safetensors=use_safetensors,
            trust_remote_code=trust_remote_code,
        )
        if missing:
            raise ValueError(
                f"pretrained={pretrained!r} lacks {len(missing)} tensors of {type(model).__name__} "
                f"({', '.join(missing[:3])}...): must be a causal language model"
            )
        self.loss_kind = loss
        self.tokenizer_source = pretrained
        self.tokenizer_revision = revision
        self.max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.vocabulary_size = vocabulary_size(model)
        self.model = model if peft is None else add_adapter(model, peft, "CAUSAL_LM")
        self.eval()
        reason = why_full_logits(self.model)
        self.full_logits = reason is not None
        if reason is not None:
            logger.info("%s is scored through its full logits: %s", pretrained, reason)
        if compile:
            compile_in_place(unwrapped(self.model).base_model)

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the label words after the prompt, fp32, shape ``[B, C]``."""
        words = batch["label_words"]
        if self.full_logits:
            return self._vocabulary_logits(batch)[:, words]
        head = _head(self.model)
        hidden = self._hidden(batch)
        with reads_rows():
            weight, bias = head.weight[words], None if head.bias is None else head.bias[words]
        return _project(hidden, weight, bias)

    def evaluate(self, batch: dict[str, Tensor]) -> Evaluation:
        """Losses, predictions and scores from one forward pass; the prediction is always among the label words."""
        if self.loss_kind == "label_words":
            return super().evaluate(batch)
        words = batch["label_words"]
        logits = self._vocabulary_logits(batch)
        scores = logits[:, words]
        loss = F.cross_entropy(logits, words[batch["label"]], reduction="none")
        return Evaluation(loss, scores.argmax(dim=-1), scores)

    def _vocabulary_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of every token at the answer's position, fp32, shape ``[B, V]``."""
        if not self.full_logits:
            head = _head(self.model)
            return _project(self._hidden(batch), head.weight, head.bias)
        mask = batch["attention_mask"]
        logits = self.model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
        # Prompt learning may put virtual tokens in front.
        shift = logits.shape[1] - mask.shape[1]
        return at_positions(logits, batch["answer_position"] + shift).float()

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """The last hidden state at the answer's position, shape ``[B, D]``."""
        return at_positions(
            _hidden_states(self.model, batch["input_ids"], batch["attention_mask"]), batch["answer_position"]
        )


def why_full_logits(model: nn.Module) -> str | None:
    """Finds out whether a model's logits are its last hidden state times the rows of its head, and nothing more.

    A short forward pass is watched at the head. Its output is enlarged on the way, since soft-capping does not show
    on the small logits of an arbitrary input.

    Args:
        model: A causal language model, or PEFT's wrapper around one.

    Returns:
        None if the logits are that product, else the reason why not.
    """
    for config in getattr(model, "peft_config", {}).values():
        if config.is_prompt_learning:
            return "the adapter changes the input"
    head = _head(model)
    if type(head) is not nn.Linear:
        return f"its output head is a {type(head).__name__}"
    seen: dict[str, Tensor] = {}

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["hidden"], seen["plain"] = inputs[0], output
        seen["enlarged"] = output * (1000.0 / output.abs().max().clamp(min=1e-6))
        return seen["enlarged"]

    ids = torch.arange(1, 5, device=head.weight.device).remainder(head.weight.shape[0]).unsqueeze(0)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        handle = head.register_forward_hook(watch)
        try:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        finally:
            handle.remove()
        if "enlarged" not in seen:
            return "its output head is not called"
        if logits.shape != seen["enlarged"].shape or not torch.allclose(logits, seen["enlarged"], rtol=1e-5):
            return "it changes the logits after the output head"
        hidden = _hidden_states(model, ids, mask)
        if hidden.shape != seen["hidden"].shape:
            return "its output head takes something else than the last hidden state"
        difference = (_project(hidden, head.weight, head.bias) - seen["plain"]).abs().max()
        if not difference <= 1e-4 * seen["plain"].abs().max():
            return "it changes the last hidden state before the output head"
    return None


def _hidden_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The last hidden states, shape ``[B, T, D]``; adapters other than prompt learning live inside the decoder."""
    decoder = unwrapped(model).base_model
    return decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state


def _head(model: nn.Module) -> nn.Linear:
    """The output head; that it is linear has been seen to before its weight is used."""
    return cast(nn.Linear, unwrapped(model).get_output_embeddings())


def _project(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits in fp32 from operands in fp32, whatever the forward pass computed in."""
    return F.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
