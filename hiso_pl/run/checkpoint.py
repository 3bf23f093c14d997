"""What a checkpoint of a run holds beside Lightning's own, and whether a run may go on from one.

A checkpoint is plain data: tensors, numbers and text, read with ``weights_only``. Nothing in it is run, imported or
instantiated; the configuration it holds is compared with the run's own and never used in its place.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from hiso_pl.module import FederatedModule

log = logging.getLogger(__name__)

KEY = "hiso_pl"
FORMAT = 1
COMPARED = ("model", "data", "seed_everything")
WARNED = ("threads", "deterministic")
_ABSENT = "absent"


def frozen_fingerprint(network: nn.Module) -> str:
    """SHA-256 over names and bytes of all that never changes: frozen parameters and buffers."""
    sha = hashlib.sha256()
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    rest = [(n, p) for n, p in network.named_parameters() if n not in trainable] + list(network.named_buffers())
    for name, tensor in sorted(rest, key=lambda item: item[0]):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def write(checkpoint: dict[str, Any], module: FederatedModule) -> None:
    """Adds the run's facts, and keeps only the trainable tensors of the network."""
    names = {f"network.{name}" for name, _ in module.trainable()}
    checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in names}
    checkpoint[KEY] = {
        "format": FORMAT,
        "config": flatten(module.config),
        "trainable": {name: list(p.shape) for name, p in module.trainable()},
        "frozen": frozen_fingerprint(module.network),
        "traffic": module.traffic.state_dict(),
        "measured_bytes": module.exchange.payload_bytes,
        "last_validation": dict(module.last_validation),
    }


def compare(checkpoint: Mapping[str, Any], module: FederatedModule, resuming: bool) -> list[str]:
    """Refuses a checkpoint that this run cannot use.

    Args:
        checkpoint: What the file holds.
        module: The run's module.
        resuming: Whether training goes on from it, so that method and data must be those of its run.

    Returns:
        The options that were changed, as asked.

    Raises:
        ValueError: If model, method or data differ and the change was not asked for by name.
    """
    facts = checkpoint.get(KEY)
    if not isinstance(facts, Mapping):
        raise ValueError("ckpt_path is not a checkpoint of hiso_pl: it holds no run of this method")
    if facts.get("format") != FORMAT:
        raise ValueError(f"the checkpoint is of format {facts.get('format')}; this version reads format {FORMAT}")
    mine = {name: list(p.shape) for name, p in module.trainable()}
    if facts["trainable"] != mine:
        raise ValueError(f"the checkpoint is of another model: {_first_difference(facts['trainable'], mine)}")
    missing = {f"network.{name}" for name in mine} - set(checkpoint["state_dict"])
    if missing:
        raise ValueError(f"the checkpoint lacks the tensor {min(missing)!r}")
    if facts["frozen"] != frozen_fingerprint(module.network):
        raise ValueError("the checkpoint is of another model: its frozen weights or buffers have other values")
    if not resuming:
        return []
    return _compare_options(facts["config"], flatten(module.config), module.change_on_resume)


def take_counters(checkpoint: Mapping[str, Any], module: FederatedModule) -> None:
    """Goes on counting where the checkpoint's run stood."""
    facts = checkpoint[KEY]
    module.traffic.load_state_dict(facts["traffic"])
    module.exchange.payload_bytes = int(facts["measured_bytes"])
    module.last_validation = {str(k): float(v) for k, v in facts["last_validation"].items()}


def read(path: str | Path) -> Mapping[str, Any]:
    """Reads a checkpoint as data.

    Raises:
        ValueError: If the file is missing, truncated or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"ckpt_path={path} does not exist: give a checkpoint, or 'last' for the newest of the folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:100]
        raise ValueError(f"ckpt_path={path} is truncated or no checkpoint ({first}): give an earlier one") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"ckpt_path={path} is no checkpoint: it holds a {type(content).__name__}")
    if not isinstance(content.get("global_step"), int):
        raise ValueError(f"ckpt_path={path} is no checkpoint of a run: it holds no round")
    return content


def flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """The leaves of a configuration as text, under dotted keys."""
    if isinstance(tree, Mapping) and tree:
        leaves: dict[str, str] = {}
        for key, value in tree.items():
            leaves |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return leaves
    return {prefix: repr(tree)}


def _compare_options(saved: Mapping[str, str], mine: Mapping[str, str], allowed: list[str]) -> list[str]:
    def concerns(key: str, prefixes: tuple[str, ...]) -> bool:
        return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)

    differing = [
        key
        for key in sorted({*saved, *mine})
        if saved.get(key, _ABSENT) != mine.get(key, _ABSENT) and concerns(key, (*COMPARED, *WARNED))
    ]
    refused, changed = [], []
    for key in differing:
        change = f"{key} was {saved.get(key, _ABSENT)} and is {mine.get(key, _ABSENT)}"
        if concerns(key, WARNED):
            log.warning("Resuming under another setting: %s. The result may differ in its last bits.", change)
        elif concerns(key, tuple(allowed)):
            log.warning("Changed on resume, as asked: %s.", change)
            changed.append(key)
        else:
            refused.append(change)
    if refused:
        names = [change.partition(" ")[0] for change in refused]
        raise ValueError(
            f"this run differs from the checkpoint's: {'; '.join(refused[:4])}"
            + (f"; and {len(refused) - 4} more" if len(refused) > 4 else "")
            + f": undo it, or ask for it by --change_on_resume '[{', '.join(names)}]'"
        )
    return changed


def _first_difference(saved: Mapping[str, list[int]], mine: Mapping[str, list[int]]) -> str:
    for name in [*mine, *saved]:
        if saved.get(name) != mine.get(name):
            return f"tensor {name!r} is {saved.get(name, _ABSENT)} there and {mine.get(name, _ABSENT)} here"
    return "its tensors are in another order"
