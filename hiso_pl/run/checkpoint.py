"""What a checkpoint of a run holds beside Lightning's own, and whether a run may go on from one.

A checkpoint is plain data: tensors, numbers and text, read with ``weights_only``. Nothing in it is run, imported or
instantiated; the configuration it holds is compared with the run's own and never used in its place. It carries the
digest of its state, which is compared when it is read, and only what :mod:`hiso_pl.run.restored` knows is restored.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hiso_pl.run.checkpoint_file import FORMAT, check_form, load
from hiso_pl.run.checkpoint_file import KEY as KEY
from hiso_pl.run.checkpoint_state import check_state
from hiso_pl.run.configuration import default_of
from hiso_pl.run.folder import checkpoints

log = logging.getLogger(__name__)

COMPARED = ("model", "data", "seed_everything")
WARNED = ("threads", "deterministic")
_ABSENT = "absent"


@dataclass(frozen=True)
class RunFacts:
    """What a checkpoint says of its run, and what it is compared with.

    Attributes:
        config: The leaves of the configuration, by :func:`~hiso_pl.run.configuration.as_text`.
        trainable: Shape of each trainable tensor by name, in tensor order.
        frozen: SHA-256 of all that never changes; None if it is not known yet, which is not compared then.
    """

    config: Mapping[str, str]
    trainable: Mapping[str, list[int]]
    frozen: str | None


@dataclass(frozen=True)
class Counters:
    """What a run has counted and measured so far.

    Attributes:
        traffic: Bytes of a client by the ways of counting them.
        measured_bytes: Bytes this rank handed to the process group.
        last_validation: Metrics of the last validation.
    """

    traffic: Mapping[str, int | float]
    measured_bytes: int = 0
    last_validation: Mapping[str, float] = field(default_factory=dict)


def frozen_fingerprint(network: nn.Module, of: Callable[[Tensor], Tensor] = Tensor.detach) -> str:
    """SHA-256 over names and bytes of all that never changes: frozen parameters and buffers.

    Args:
        network: The network.
        of: Gives a parameter's or buffer's values.
    """
    sha = hashlib.sha256()
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    rest = [(n, p) for n, p in network.named_parameters() if n not in trainable] + list(network.named_buffers())
    for name, tensor in sorted(rest, key=lambda item: item[0]):
        sha.update(name.encode())
        sha.update(of(tensor).cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def facts_as_data(
    facts: RunFacts,
    counters: Counters,
    digest: str,
    rebuilt: bool = False,
    retention: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """A checkpoint's own part, under :data:`KEY`.

    Args:
        facts: What is said of the run.
        counters: What it has counted.
        digest: Digest of the state.
        rebuilt: Whether it was made from a ledger, so that schedules are to be put where they would stand.
        retention: How many checkpoints each ModelCheckpoint keeps, by its ``state_key``.
    """
    return {
        "format": FORMAT,
        "config": dict(facts.config),
        "trainable": dict(facts.trainable),
        "frozen": facts.frozen,
        "traffic": dict(counters.traffic),
        "measured_bytes": counters.measured_bytes,
        "last_validation": dict(counters.last_validation),
        "digest": digest,
        "rebuilt": rebuilt,
        "retention": dict(retention or {}),
    }


def compare(checkpoint: Mapping[str, Any], mine: RunFacts, resuming: bool, allowed: Sequence[str] = ()) -> list[str]:
    """Refuses a checkpoint that this run cannot use.

    Args:
        checkpoint: What the file holds, as :func:`read` gives it.
        mine: What is to be said of this run.
        resuming: Whether training goes on from it, so that method and data must be those of its run.
        allowed: Options that may differ then, by name.

    Returns:
        The options that were changed, as asked.

    Raises:
        ValueError: If model, method or data differ and the change was not asked for by name.
    """
    facts = checkpoint[KEY]
    if list(facts["trainable"].items()) != list(mine.trainable.items()):
        what = _first_difference(facts["trainable"], mine.trainable)
        raise ValueError(f"the checkpoint is of another model: {what}")
    if mine.frozen is not None and facts["frozen"] != mine.frozen:
        raise ValueError("the checkpoint is of another model: its frozen weights or buffers have other values")
    return _compare_options(facts["config"], mine.config, allowed) if resuming else []


class Checked(dict[str, Any]):
    """What a checkpoint holds, once its form and its state have been checked."""


def checked(content: Any) -> Checked:
    """Checks what somebody else has read of a checkpoint.

    Raises:
        ValueError: If it is no checkpoint of this package, or damaged.
    """
    if isinstance(content, Checked):
        return content
    check_state(check_form(content))
    return Checked(content)


def read(path: str | Path) -> Checked:
    """Reads a checkpoint as data.

    Raises:
        ValueError: If the file is missing, truncated, damaged or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"ckpt_path={path} does not exist: give a checkpoint, or 'last' for the newest of the folder")
    return _with_state_checked(path, load(path))


def _with_state_checked(path: Path, content: dict[str, Any]) -> Checked:
    try:
        check_state(content)
    except ValueError as error:
        raise ValueError(f"ckpt_path={path}: {error}; give an earlier one") from error
    return Checked(content)


def newest(root: Path | str, up_to: int | None = None) -> tuple[Path, Checked] | None:
    """The checkpoint of the latest round in the run's folder, of several the one written last.

    The round is read from the files, as dates do not survive copying. One that cannot be read or is damaged is passed
    over.

    Args:
        root: The run's folder.
        up_to: The latest round that is of use; any if none is given.

    Returns:
        Its path, and what it holds; None if there is none.
    """
    found: list[tuple[int, int, Path, dict[str, Any]]] = []
    for path in checkpoints(Path(root)):
        try:
            content = load(path)
        except ValueError as error:
            log.warning("%s cannot be read and is passed over: %s", path, error)
            continue
        if up_to is None or content["global_step"] <= up_to:
            found.append((content["global_step"], path.stat().st_mtime_ns, path, content))
    for *_, path, content in sorted(found, key=lambda item: item[:3], reverse=True):
        try:
            return path, _with_state_checked(path, content)
        except ValueError as error:
            log.warning("%s cannot be read and is passed over: %s", path, error)
    return None


def _compare_options(saved: Mapping[str, str], mine: Mapping[str, str], allowed: Sequence[str]) -> list[str]:
    def concerns(key: str, prefixes: Sequence[str]) -> bool:
        return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)

    differing = [
        key
        for key in sorted({*saved, *mine})
        if saved.get(key, _ABSENT) != mine.get(key, _ABSENT) and concerns(key, (*COMPARED, *WARNED))
        if key in saved or mine[key] != default_of(key, mine)
    ]
    refused, changed = [], []
    for key in differing:
        change = f"{key} was {saved.get(key, _ABSENT)} and is {mine.get(key, _ABSENT)}"
        if concerns(key, WARNED):
            log.warning("Resuming under another setting: %s. The result may differ in its last bits.", change)
        elif concerns(key, allowed):
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
