"""Networks to measure: the shapes of published models with random weights, or models from files."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers

from hiso_pl.models import CausalLM, LoRA, TaskModel
from hiso_pl.models.adapters import add_adapter
from hiso_pl.models.causal_lm import why_full_logits
from hiso_pl.models.loading import check_source, vocabulary_size


class Shape(NamedTuple):
    """The sizes of an OPT model.

    Attributes:
        hidden: Width D of the hidden states.
        ffn: Width of the feed-forward layers.
        layers: Decoder layers.
        heads: Attention heads.
        vocabulary: Token ids V.
        positions: Longest sequence.
        embedding: Width of the word embeddings; that of the hidden states where they are not projected.
        norm_first: Whether layer norms stand before their blocks.
    """

    hidden: int
    ffn: int
    layers: int
    heads: int
    vocabulary: int = 50272
    positions: int = 2048
    embedding: int | None = None
    norm_first: bool = True

    def config(self) -> transformers.OPTConfig:
        """The same as a configuration of transformers, without dropout."""
        return transformers.OPTConfig(
            hidden_size=self.hidden,
            ffn_dim=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=self.positions,
            word_embed_proj_dim=self.embedding or self.hidden,
            do_layer_norm_before=self.norm_first,
            dropout=0.0,
            attention_dropout=0.0,
        )


SHAPES = {
    "opt-tiny": Shape(32, 64, 2, 2, vocabulary=512, positions=128),
    "opt-7m": Shape(256, 1024, 6, 4, vocabulary=8192, positions=256),
    "opt-50m": Shape(512, 2048, 8, 8),
    "opt-125m": Shape(768, 3072, 12, 12),
    "opt-350m": Shape(1024, 4096, 24, 16, embedding=512, norm_first=False),
    "opt-1.3b": Shape(2048, 8192, 24, 32),
    "opt-2.7b": Shape(2560, 10240, 32, 32),
    "opt-6.7b": Shape(4096, 16384, 32, 32),
}
"""By name; those from 125M on are the published ones, the others are in their manner."""


class RandomCausalLM(CausalLM):
    """:class:`~hiso_pl.models.CausalLM` on random fp32 weights, made on the device and never in a file.

    Args:
        name: Name of the shape.
        device: Where the weights are made.
        seed: Seed of the weights, the adapter's included.
        peft: Adapter to train instead of the whole model.
        attention: Attention implementation; None leaves the choice to transformers.
    """

    def __init__(
        self, name: str, device: torch.device, seed: int, peft: LoRA | None = None, attention: str | None = None
    ) -> None:
        TaskModel.__init__(self)  # the parent's constructor reads files
        options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
        torch.manual_seed(seed)
        with torch.device(device):
            model = transformers.AutoModelForCausalLM.from_config(
                SHAPES[name].config(), dtype=torch.float32, **options
            ).eval()
            self.loss_kind = "label_words"
            self.max_positions = SHAPES[name].positions
            self.vocabulary_size = vocabulary_size(model)
            self.model = model if peft is None else add_adapter(model, peft, "CAUSAL_LM")
        self.eval()
        self.full_logits = why_full_logits(self.model) is not None


def build_network(
    model: str, device: torch.device, seed: int, peft: LoRA | None = None, attention: str | None = None
) -> CausalLM:
    """Makes or loads a network.

    Args:
        model: Name of a shape, a model's folder, or ``owner/name`` on the hub.
        device: Where it is to live.
        seed: Seed of what is drawn.
        peft: Adapter to train instead of the whole model.
        attention: Attention implementation; None leaves the choice to transformers.

    Raises:
        ValueError: If there is no such model, or it cannot be loaded or adapted.
    """
    if model in SHAPES:
        return RandomCausalLM(model, device, seed, peft, attention)
    if check_source("model", model) is None and "/" not in model:
        # a misspelt shape would be looked for on the hub, with retries
        raise ValueError(
            f"model={model!r} must be one of {', '.join(SHAPES)}, a model's folder, or owner/name on the hub"
        )
    torch.manual_seed(seed)
    network = CausalLM(model, peft=peft, attention=attention)
    network.to(device)
    return network
