"""Where this process stands among the ranks, as its launcher numbered it."""

from __future__ import annotations

import os

import torch.distributed as dist


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def rank() -> int:
    """This process's rank as its launcher numbered it; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes of the launch; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's rank on its machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes of the launch on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
