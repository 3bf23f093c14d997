"""The process a rank lives in: threads and determinism, and its end."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from hiso_pl.ranks import roll_call
from hiso_pl.ranks.environment import under_torchrun

CUBLAS_WORKSPACE = ":4096:8"


def configure(threads: int | None = None, deterministic: bool = True) -> dict[str, int | bool | str]:
    """Sets what the bits of a result depend on besides the configuration.

    TF32 and cuDNN's benchmark are off in any case. Call it before anything has run on a GPU.

    Args:
        threads: CPU threads of this rank. If none is given, 1 where ranks are launched and all cores otherwise.
        deterministic: Whether an operation without a deterministic implementation is an error.

    Returns:
        What was set, as plain values to be recorded with the run.

    Raises:
        ValueError: If ``threads`` is below 1.
    """
    if threads is None:
        threads = 1 if under_torchrun() else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads={threads} must be at least 1")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE
    torch.use_deterministic_algorithms(deterministic)
    # with determinism torch also fills every new tensor, which costs a pass over memory and changes no result here
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return {
        "threads": threads,
        "deterministic": deterministic,
        "tf32": False,
        "cudnn_benchmark": False,
        "cublas_workspace": CUBLAS_WORKSPACE if deterministic else "",
    }


def close() -> None:
    """Leaves the process group; a gloo group still open when Python exits may abort the process."""
    roll_call.close_roll_call()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
