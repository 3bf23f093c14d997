"""Networks to measure: the shapes of published models with random weights, or models from files."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from hiso_pl.models import CausalLM, LoRA, TaskModel
from hiso_pl.models.adapters import add_adapter
from hiso_pl.models.causal_lm import why_full_logits
from hiso_pl.models.loading import vocabulary_size
from hiso_pl.models.source import check_source


def shape(hidden: int, ffn: int, layers: int, heads: int, **other: Any) -> dict[str, Any]:
    """The options of an OPT model of these sizes, without dropout."""
    sizes = {"hidden_size": hidden, "ffn_dim": ffn, "num_hidden_layers": layers, "num_attention_heads": heads}
    published = {"vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": hidden}
    return sizes | published | {"dropout": 0.0, "attention_dropout": 0.0} | other


SHAPES = {
    "opt-tiny": shape(32, 64, 2, 2, vocab_size=512, max_position_embeddings=128),
    "opt-7m": shape(256, 1024, 6, 4, vocab_size=8192, max_position_embeddings=256),
    "opt-50m": shape(512, 2048, 8, 8),
    "opt-125m": shape(768, 3072, 12, 12),
    "opt-350m": shape(1024, 4096, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
    "opt-1.3b": shape(2048, 8192, 24, 32),
    "opt-2.7b": shape(2560, 10240, 32, 32),
    "opt-6.7b": shape(4096, 16384, 32, 32),
}
"""By name; those from 125M on are the published ones, the others are in their manner."""


class RandomCausalLM(CausalLM):
    """:class:`~hiso_pl.models.CausalLM` on random fp32 weights, made on the device and never in a file.

    Its arguments are those of :func:`build_network`.
    """

    def __init__(
        self, name: str, device: torch.device, seed: int, peft: LoRA | None = None, attention: str | None = None
    ) -> None:
        TaskModel.__init__(self)  # the parent's constructor reads files
        options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
        torch.manual_seed(seed)
        with torch.device(device):
            config = transformers.OPTConfig(**SHAPES[name])
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options).eval()
            self.loss_kind = "label_words"
            self.max_positions = SHAPES[name]["max_position_embeddings"]
            self.vocabulary_size = vocabulary_size(model)
            self.model = model if peft is None else add_adapter(model, peft, "CAUSAL_LM")
        self.eval()
        self.full_logits = why_full_logits(self.model) is not None


def build_network(
    model: str, device: torch.device, seed: int, peft: LoRA | None = None, attention: str | None = None
) -> CausalLM:
    """Makes a network of a shape, or loads one from a model's folder or ``owner/name`` on the hub.

    What is drawn follows the seed, the adapter's weights included.

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
