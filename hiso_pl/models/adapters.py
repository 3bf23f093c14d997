"""Parameter-efficient fine-tuning: which few parameters are trained instead of all.

The adapter is put on by PEFT; here is only its configuration from YAML and what a zeroth-order method demands of
it: no dropout, evaluation mode, and nothing else trainable.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

from hiso_pl.errors import one_line
from hiso_pl.models.loading import unwrapped


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

_VIRTUAL_EMBEDDINGS = ("PROMPT_TUNING", "P_TUNING")
_VIRTUAL_STATES = ("PREFIX_TUNING", "CARTRIDGE")


def add_adapter(model: transformers.PreTrainedModel, peft: PeftOptions, task: str | None) -> nn.Module:
    """Puts an adapter on a model; afterwards only the adapter is trainable.

    New weights are drawn from torch's global generator, which every rank must have seeded alike.

    Args:
        model: The model, changed in place.
        peft: The adapter: :class:`LoRA`, or a dict with ``peft_type`` and the options of PEFT's configuration.
        task: PEFT's task type, such as ``CAUSAL_LM``; None for tasks that PEFT has no type for.

    Returns:
        PEFT's wrapper around the model, in evaluation mode.

    Raises:
        ValueError: If the configuration is unknown, asks for dropout, does not fit the model or changes its own
            weights.
    """
    # Imported where it is used: PEFT takes seconds, and most runs do without.
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType, get_peft_model

    # a copy: PEFT adds to the lists that it is given
    options = deepcopy(peft.options() if isinstance(peft, LoRA) else dict(peft))
    kind = str(options.pop("peft_type", ""))
    known = sorted(member.value for member in PeftType)
    if kind.upper() not in known:
        raise ValueError(f"peft.peft_type={kind!r} must be one of {', '.join(known)}")
    for name, value in options.items():
        if "dropout" in name and value:
            raise ValueError(f"peft.{name}={value} must be 0: every probe of a local step must see the same function")
    options.setdefault("task_type", task)
    if kind.upper() in _VIRTUAL_EMBEDDINGS:
        # OPT-350M's embeddings are narrower than its layers, which PEFT takes the width from
        options.setdefault("token_dim", cast(nn.Embedding, model.get_input_embeddings()).weight.shape[1])
    own = dict(model.named_parameters())
    sums = {name: p.detach().sum(dtype=torch.float64) for name, p in own.items()}
    try:
        config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind.upper())](**options)
        adapted = get_peft_model(model, config)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"peft={kind}: {one_line(error)}") from error
    changed = [name for name, p in own.items() if p.detach().sum(dtype=torch.float64) != sums[name]]
    if changed:
        raise ValueError(
            f"peft={kind} must leave the model's own weights as they are, but its initialisation changes "
            f"{len(changed)} of them ({changed[0]}, ...): an adapter alone could not be taken away"
        )
    if virtual_tokens(adapted):
        model.register_forward_pre_hook(_with_whole_mask, with_kwargs=True)
    # PEFT leaves its own layers in training mode.
    return adapted.eval()


def _with_whole_mask(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Makes PEFT's floating-point mask of virtual tokens one of integers.

    Positions are running sums of it, and those of floating-point numbers are not deterministic on GPUs.
    """
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.is_floating_point():
        kwargs["attention_mask"] = mask.long()
    return args, kwargs


def virtual_tokens(model: nn.Module) -> int:
    """How many virtual tokens an adapter puts in front of a text; 0 where there is none that does."""
    configs = getattr(model, "peft_config", {}).values()
    return sum(config.num_virtual_tokens for config in configs if config.is_prompt_learning)


def adapted_call(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
    """Calls a model by its adapter, virtual tokens included.

    Virtual tokens of the keys and values are a cache of what came before a text. PEFT hands that over as
    ``past_key_values``, which transformers has named ``cache`` since 5.24: there it is handed over here.

    Args:
        model: A model, or PEFT's wrapper around one.
        input_ids: int64, shape ``[R, T]``, right padded.
        attention_mask: int64, shape ``[R, T]``.
        options: What else the model is called with.

    Returns:
        What the model returns. Logits of every position may have virtual tokens in front.
    """
    base = unwrapped(model)
    if has_prefix(model) and "cache" in inspect.signature(base.base_model.forward).parameters:
        options["cache"] = cast(Any, model).get_prompt(len(input_ids))
        before = attention_mask.new_ones(len(input_ids), virtual_tokens(model))
        attention_mask, model = torch.cat((before, attention_mask), dim=1), base
    return model(input_ids=input_ids, attention_mask=attention_mask, **options)


def has_prefix(model: nn.Module) -> bool:
    """Whether an adapter's virtual tokens are keys and values, not embeddings."""
    return bool(virtual_tokens(model)) and cast(Any, model).active_peft_config.peft_type in _VIRTUAL_STATES
