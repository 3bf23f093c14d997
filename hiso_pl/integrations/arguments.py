"""Which of transformers' TrainingArguments cannot act on rounds, and what to set in place of each: one table."""

from __future__ import annotations

import dataclasses
from typing import Any

from hiso_pl.zeroth_order.method import Method

NO_GRADIENT = "a round has no gradient and no backward pass"
FP32 = "the parameters that are trained are fp32, and scalars are small differences of losses"
NO_OPTIMIZER = "the optimizer is ZerothOrderOptimizer, whose options are those of method="
NO_WRAPPER = "no wrapper is put around the model: its scalars travel, not its gradients"

OFF: dict[str, str] = {
    "fp16": FP32,
    "bf16": FP32,
    "fp16_full_eval": FP32,
    "bf16_full_eval": FP32,
    "tf32": FP32,
    "deepspeed": f"{NO_WRAPPER}; every process holds the whole model, so launch with torchrun or accelerate alone",
    "fsdp": f"{NO_WRAPPER}; every process holds the whole model, so launch with torchrun or accelerate alone",
    "parallelism_config": "every process is a client with the whole model",
    "gradient_checkpointing": f"{NO_GRADIENT}, so no activations are kept",
    "activation_checkpointing": f"{NO_GRADIENT}, so no activations are kept",
    "torch_compile": "probes take the place of the weights of each operator, which a compiled model hides",
    "neftune_noise_alpha": "all probes of a round must see the same function, and noise is another one each time",
    "auto_find_batch_size": "processes that find different sizes do not stay in step; set per_device_train_batch_size",
    "torch_empty_cache_steps": "a round keeps its memory from one to the next",
    "optim_args": NO_OPTIMIZER,
    "optim_target_modules": NO_OPTIMIZER,
    "ddp_find_unused_parameters": NO_WRAPPER,
    "ddp_bucket_cap_mb": NO_WRAPPER,
    "ddp_broadcast_buffers": NO_WRAPPER,
    "ddp_static_graph": NO_WRAPPER,
}
"""Arguments that must be off, and why."""
DEFAULT: dict[str, str] = {
    "optim": NO_OPTIMIZER,
    "weight_decay": NO_OPTIMIZER,
    "adam_beta1": NO_OPTIMIZER,
    "adam_beta2": NO_OPTIMIZER,
    "adam_epsilon": NO_OPTIMIZER,
    "max_grad_norm": f"{NO_GRADIENT}; method=Method(transform=Clip(...)) clips a client's scalars",
}
"""Arguments that must be left as they come, and why; what stands there acts on nothing."""


def check_arguments(args: Any, accelerator: Any) -> None:
    """Refuses what cannot act, by name.

    Args:
        args: The ``TrainingArguments``.
        accelerator: What accelerate has made of them, and of what its launcher says.

    Raises:
        ValueError: If an argument asks for what a round cannot do; it says what to set.
    """
    for name, why in OFF.items():
        if getattr(args, name, None):
            raise ValueError(f"{name}={getattr(args, name)!r} must be left out: {why}")
    usual = {field.name: field.default for field in dataclasses.fields(args)}
    for name, why in DEFAULT.items():
        value = getattr(args, name)
        if value != usual[name] and value:
            raise ValueError(f"{name}={getattr(value, 'value', value)!r} must be left out: {why}")
    if args.gradient_accumulation_steps != 1:
        raise ValueError(
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} must be 1: {NO_GRADIENT}; "
            "set per_device_train_batch_size, a forward pass takes far less memory than a backward one"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are seen by one process, must be 1: torchrun --nproc-per-node={args.n_gpu} starts a "
            "process for each, or let it see one (CUDA_VISIBLE_DEVICES=0)"
        )
    if not args.accelerator_config.even_batches and args.world_size > 1:
        raise ValueError("accelerator_config.even_batches=False must be True: each process takes part in every round")
    if accelerator.mixed_precision != "no":
        raise ValueError(f"accelerate's mixed_precision={accelerator.mixed_precision!r} must be 'no': {FP32}")
    kind = getattr(accelerator.distributed_type, "value", str(accelerator.distributed_type))
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ValueError(f"accelerate's distributed_type={kind} must be MULTI_GPU or MULTI_CPU: {NO_WRAPPER}")


def check_method(method: Any) -> None:
    """Refuses what is no method, or takes more than Trainer's loop brings to a step.

    Raises:
        ValueError: If it is or does.
    """
    if not isinstance(method, Method):
        raise ValueError(f"method={method!r} must be a Method, such as Method(lr=1e-3, num_directions=5)")
    if method.local_steps != 1:
        raise ValueError(f"local_steps={method.local_steps} of method must be 1: a step of Trainer brings one batch")
    if method.per_example:
        raise ValueError(
            f"privacy={method.privacy!r} of method must be ClientPrivacy: Trainer's loss is a mean over examples"
        )
    if method.compute_dtype != "float32":
        raise ValueError(
            f"compute_dtype={method.compute_dtype!r} of method must be 'float32': Trainer evaluates the model as it "
            "is; `hiso-pl fit` computes in 16 bits"
        )
    if method.attack is not None and method.attack.flips_labels:
        raise ValueError(
            f"attack={method.attack!r} of method must be another: Trainer's batches have labels of their own, and "
            "nobody would flip them; `hiso-pl fit` does"
        )


def learning_rate_of(args: Any, method: Method | None) -> float:
    """The learning rate at the start, which may stand in two places.

    Raises:
        ValueError: If they say two things.
    """
    usual = next(field.default for field in dataclasses.fields(args) if field.name == "learning_rate")
    if method is None or args.learning_rate in (usual, method.lr):
        return float(args.learning_rate if method is None else method.lr)
    raise ValueError(
        f"learning_rate={args.learning_rate} of args and lr={method.lr} of method must be the same: "
        "give Method(lr=args.learning_rate, ...)"
    )
