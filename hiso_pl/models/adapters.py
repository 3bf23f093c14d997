"""Parameter-efficient fine-tuning: which few parameters are trained instead of all.

The adapter is put on by PEFT; here is only its configuration from YAML and what a zeroth-order method demands of
it: no dropout, evaluation mode, and nothing else trainable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn

from hiso_pl.models.loading import one_line


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters: ``W + (alpha / r) B A`` with ``A`` of shape ``[r, in]`` and ``B`` of shape ``[out, r]``.

    ``B`` starts at zero, so the first round moves ``B`` alone. There is no dropout: a probe must repeat to the bit.

    Args:
        r: Rank of an adapter.
        alpha: Scale of the adapters, divided by ``r``.
        target_modules: Names of the modules adapted, or a regular expression, or ``all-linear``; None takes PEFT's
            choice for the model's family.
        modules_to_save: Names of modules trained whole beside the adapters, such as a new head.
        rank_stabilized: Whether to scale by ``alpha / sqrt(r)`` instead.
    """

    r: int = 8
    alpha: int = 16
    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        """Checks the sizes.

        Raises:
            ValueError: If the rank or the scale is not positive.
        """
        for name in ("r", "alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"peft.{name}={getattr(self, name)} must be at least 1")

    def options(self) -> dict[str, Any]:
        """The same in PEFT's words."""
        return {
            "peft_type": "LORA",
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": self.target_modules,
            "modules_to_save": self.modules_to_save,
            "use_rslora": self.rank_stabilized,
        }


PeftOptions = LoRA | dict[str, Any]


def add_adapter(model: transformers.PreTrainedModel, peft: PeftOptions, task: str) -> nn.Module:
    """Puts an adapter on a model; afterwards only the adapter is trainable.

    New weights are drawn from torch's global generator, which every rank must have seeded alike.

    Args:
        model: The model, changed in place.
        peft: The adapter: :class:`LoRA`, or a dict with ``peft_type`` and the options of PEFT's configuration.
        task: PEFT's task type, such as ``CAUSAL_LM``.

    Returns:
        PEFT's wrapper around the model, in evaluation mode.

    Raises:
        ValueError: If the configuration is unknown, asks for dropout or does not fit the model.
    """
    # Imported where it is used: PEFT takes seconds, and most runs do without.
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType, get_peft_model

    options = peft.options() if isinstance(peft, LoRA) else dict(peft)
    kind = str(options.pop("peft_type", ""))
    known = sorted(member.value for member in PeftType)
    if kind.upper() not in known:
        raise ValueError(f"peft.peft_type={kind!r} must be one of {', '.join(known)}")
    for name, value in options.items():
        if "dropout" in name and value:
            raise ValueError(f"peft.{name}={value} must be 0: every probe of a local step must see the same function")
    options.setdefault("task_type", task)
    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind.upper())](**options)
        adapted = get_peft_model(model, config)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"peft={kind}: {one_line(error)}") from error
    # PEFT leaves its own layers in training mode.
    return adapted.eval()
