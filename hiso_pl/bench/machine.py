"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from hiso_pl.ranks import environment


def choose_device(name: str) -> torch.device:
    """This rank's device; ranks beyond the number of GPUs share them.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", environment.local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Names and numbers of processors."""
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    """The processor's name; Python does not know it on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
