"""Tasks by prompts: which label word, which candidate or what text comes after a prompt."""

from __future__ import annotations

import logging
from typing import Any, Literal, get_args

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from hiso_pl.models.adapters import LoRA, adapted_call, virtual_tokens
from hiso_pl.models.answers import answer_losses, answer_rows, candidate_scores
from hiso_pl.models.compiled import compile_in_place
from hiso_pl.models.generation import generate, plain_generation
from hiso_pl.models.loading import load_pretrained, max_positions, unwrapped, vocabulary_size
from hiso_pl.models.logits import hidden_states, output_head, project
from hiso_pl.models.logits import why_full_logits as why_full_logits
from hiso_pl.models.padding import padded_right
from hiso_pl.models.task_model import Evaluation, at_positions
from hiso_pl.models.transformers_model import TransformersModel
from hiso_pl.zeroth_order.substitution import reads_rows

logger = logging.getLogger(__name__)

LossKind = Literal["label_words", "full_vocabulary"]


class CausalLM(TransformersModel):
    r"""``AutoModelForCausalLM`` in fp32, scored on what comes after a prompt.

    What a batch holds says which of three tasks it is of. All tensors are int64; rows may be padded on either side.

    1. Label words of one token: ``input_ids`` and ``attention_mask`` ``[B, T]``, ``answer_position`` ``[B]`` (the
       prompt's last token), ``label`` ``[B]`` and ``label_words`` ``[C]``. With the hidden state :math:`h` there and
       row :math:`w_v` of the output head,

       .. math:: score_c = h \cdot w_{v(c)} \qquad
           loss = -\log \frac{\exp(score_y)}{\sum_{c} \exp(score_c)}

       the sum running over the label words, or over the whole vocabulary with ``loss: full_vocabulary``.
    2. Candidates of several tokens: R rows of B examples and ``answer_positions`` ``[R, L]``, the positions before each
       token of an answer; ``candidate_rows`` ``[B, C]``, ``candidate_tokens`` and ``candidate_mask`` ``[B, C, L]``,
       ``label`` ``[B]``. A candidate's score is its log-likelihood, summed over its tokens, or their mean where the
       batch has ``candidate_lengths`` ``[B, C]``; the loss is the cross entropy over the scores, or the negative score
       of the right candidate with ``loss: full_vocabulary``.
    3. Generation: prompt and answer in one row, ``answer_positions``, ``answer_tokens`` and ``answer_mask`` ``[B, L]``,
       ``stop_tokens`` ``[S]`` and ``max_new_tokens`` (a number). The loss is the mean negative log-likelihood of the
       answer's tokens. Evaluated, the network also generates from the prompts, greedily.

    Logits of other positions are never computed: for OPT at batch 32 of 32 tokens they would be 206 MB where two
    columns are needed. Models whose logits are not that product (soft-capping, a scale, an adapted head, prompt
    learning) are recognised when built and scored through their own full logits.

    Args:
        pretrained: A model's folder, or its name on the hub.
        peft: Adapter to train instead of the whole model: the fields of ``LoRA``, or a dict with ``peft_type``.
        trainable: Regular expression searched in the names of the model's parameters, such as ``layers\.1[01]\.``;
            parameters in whose name it is not found are frozen. None trains all.
        loss: Whether the loss is normalised over the label words (or candidates) or over the full vocabulary.
        attention: Attention implementation (``sdpa``, ``eager``, ...); None leaves the choice to transformers.
        revision: Branch, tag or commit on the hub.
        use_safetensors: Whether to refuse pickled weights.
        trust_remote_code: Whether Python code that comes with the model may run.
        compile: Whether to run the decoder through ``torch.compile``: one compilation for all batch sizes and
            lengths from 2 on, and one more for batches of one example. It hardly helps on CPUs; needs a C++ compiler
            there, and ``memory: fast``. Generation runs uncompiled.

    Raises:
        ValueError: If the model cannot be loaded or adapted, lacks weights, or nothing of it would be trained.
    """

    def __init__(
        self,
        pretrained: str,
        peft: LoRA | dict[str, Any] | None = None,
        trainable: str | None = None,
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
        self.tokenizer_trusted = trust_remote_code
        self.vocabulary_size = vocabulary_size(model)
        plain_generation(model)
        positions = max_positions(model)
        self._take(model, missing, pretrained, revision, peft, trainable, "CAUSAL_LM")
        self.max_positions = None if positions is None else positions - virtual_tokens(self.model)
        reason = why_full_logits(self.model)
        self.full_logits = reason is not None
        if reason is not None:
            logger.info("%s is scored through its full logits: %s", pretrained, reason)
        if compile:
            compile_in_place(unwrapped(self.model).base_model)

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the label words, or log-likelihoods of the candidates, fp32, shape ``[B, C]``; else ``[B, 0]``."""
        if "answer_tokens" in batch:
            return torch.empty(len(batch["label"]), 0, device=batch["label"].device)
        batch = padded_right(batch)
        if "candidate_rows" in batch:
            return candidate_scores(self._logits_at(batch, "answer_positions"), batch)
        if "label_words" not in batch:
            raise ValueError(
                "CausalLM takes prompts and what may follow them: data must be hiso_pl.data.text.PromptData"
            )
        words = batch["label_words"]
        if self.full_logits:
            return self._logits_at(batch, "answer_position")[:, words]
        head = output_head(self.model)
        hidden = hidden_states(self.model, batch["input_ids"], batch["attention_mask"])
        hidden = at_positions(hidden, batch["answer_position"])
        with reads_rows():
            weight, bias = head.weight[words], None if head.bias is None else head.bias[words]
        return project(hidden, weight, bias)

    def example_losses(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each example, fp32, shape ``[B]``; nothing is generated."""
        if "answer_tokens" in batch:
            return answer_losses(self._logits_at(padded_right(batch), "answer_positions"), batch)
        return self.evaluate(batch).loss

    def evaluate(self, batch: dict[str, Tensor]) -> Evaluation:
        """Losses, predictions and scores; a class predicted is always among those of the batch.

        Raises:
            ValueError: If the prompts leave too few of the model's positions for what is to be generated.
        """
        if "answer_tokens" in batch:
            return Evaluation(self.example_losses(batch), self.generate(batch), self.scores(batch))
        if self.loss_kind == "label_words":
            return super().evaluate(batch)
        if "candidate_rows" in batch:
            scores = self.scores(batch)
            return Evaluation(-scores.gather(1, batch["label"][:, None]).squeeze(1), scores.argmax(dim=-1), scores)
        words = batch["label_words"]
        logits = self._logits_at(padded_right(batch), "answer_position")
        scores = logits[:, words]
        loss = F.cross_entropy(logits, words[batch["label"]], reduction="none")
        return Evaluation(loss, scores.argmax(dim=-1), scores)

    def loss_logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """See :class:`TaskModel`: of label words, of candidates, or of the vocabulary, a row for each token scored."""
        whole = self.loss_kind == "full_vocabulary"
        if "answer_tokens" in batch:
            logits, mask = self._logits_at(padded_right(batch), "answer_positions"), batch["answer_mask"]
            return answer_rows(logits, mask, mask.sum(dim=-1))
        if whole and "candidate_rows" in batch:
            logits, right = self._logits_at(padded_right(batch), "answer_positions"), batch["label"]
            chosen = torch.arange(len(right), device=right.device), right
            lengths = batch["candidate_lengths"][chosen] if "candidate_lengths" in batch else torch.ones_like(right)
            return answer_rows(logits[batch["candidate_rows"][chosen]], batch["candidate_mask"][chosen], lengths)
        return (self._logits_at(padded_right(batch), "answer_position"), None) if whole else (self.scores(batch), None)

    def generate(self, batch: dict[str, Tensor]) -> Tensor:
        """Continues the prompts of a batch greedily: tokens, filled up with -1, int64, shape ``[B, max_new_tokens]``.

        Raises:
            ValueError: If the prompts leave too few of the model's positions.
        """
        batch = padded_right(batch)
        lengths, most = batch["answer_positions"][:, 0] + 1, int(batch["max_new_tokens"])
        # the last token generated is read by nobody
        needed = int(lengths.max()) + most - 1
        if self.max_positions is not None and needed > self.max_positions:
            raise ValueError(
                f"max_new_tokens={most} after a prompt of {needed - most + 1} tokens must fit into the model's "
                f"{self.max_positions} positions: cut prompts shorter, or generate less"
            )
        return generate(self.model, batch["input_ids"], lengths, batch["stop_tokens"].tolist(), most)

    def _logits_at(self, batch: dict[str, Tensor], positions: str) -> Tensor:
        """Logits of every token at the positions of that name, fp32, shape ``[R, V]`` or ``[R, L, V]``."""
        mask = batch["attention_mask"]
        if not self.full_logits:
            head = output_head(self.model)
            hidden = hidden_states(self.model, batch["input_ids"], mask)
            return project(at_positions(hidden, batch[positions]), head.weight, head.bias)
        logits = adapted_call(self.model, batch["input_ids"], mask, use_cache=False).logits
        # Prompt learning may put virtual tokens in front.
        shift = logits.shape[1] - mask.shape[1]
        return at_positions(logits, batch[positions] + shift).float()
