"""The file of a checkpoint: opened as plain data, of no more than the file itself holds, in the form that is known.

``torch.load`` with ``weights_only`` imports and runs nothing, but it makes what a file describes: tensors of 2^40
elements over four bytes, structures that refer to themselves. Mapped, it also reads past the archive's own checksums.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiso_pl import bounds
from hiso_pl.errors import one_line

KEY = "hiso_pl"
FORMAT = 2
_SHA256 = re.compile(r"[0-9a-f]{64}")
_INTEGER = 1 << 63


def load(path: Path) -> dict[str, Any]:
    """Opens a checkpoint, and checks all but the values of its tensors.

    Raises:
        ValueError: If it is truncated, damaged, or no checkpoint of this package; the message names the file.
    """
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:100]
        raise ValueError(f"ckpt_path={path} is truncated or no checkpoint ({first}): give an earlier one") from error
    try:
        return check_form(content, path.stat().st_size)
    except ValueError as error:
        raise ValueError(f"ckpt_path={path}: {one_line(error)}") from error


def _check_archive(path: Path) -> None:
    """Refuses an archive that holds more than it takes, or whose plain part is not what was written.

    Raises:
        ValueError: If so.
        OSError: If it cannot be read; and whatever else ``zipfile`` may raise.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) != len(members):
            raise ValueError("a part of it is there twice")
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise ValueError("its parts are compressed")
        for member in members:
            if re.search(r"/data/\d+$", member.filename):  # a tensor's values, which the state's digest covers
                continue
            if member.file_size > bounds.CHECKPOINT_PLAIN_BYTES:
                raise ValueError(f"{member.file_size} bytes beside tensors exceed {bounds.CHECKPOINT_PLAIN_BYTES}")
            archive.read(member)  # compares the checksum, as torch does not where it maps


def check_form(content: Any, size: int | None = None) -> dict[str, Any]:
    """Checks what a checkpoint is made of, and that its parts agree.

    Args:
        content: What the file holds.
        size: Bytes of the file, which its tensors cannot exceed; unknown if none is given.

    Returns:
        The same.

    Raises:
        ValueError: If something is missing, of another type or not the run's to say; in one line.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it is no checkpoint: it holds a {type(content).__name__}")
    if type(content.get("global_step")) is not int:
        raise ValueError("it is no checkpoint of a run: it holds no round")
    facts = content.get(KEY)
    if not isinstance(facts, Mapping):
        raise ValueError("it is not a checkpoint of hiso_pl: it holds no run of this method")
    written = facts.get("format")
    if type(written) is not int or written != FORMAT:  # what is of another type may be endless
        said = written if type(written) is int and abs(written) < _INTEGER else "another kind"
        raise ValueError(f"the checkpoint is of format {said}; this version reads format {FORMAT}")
    try:
        _PlainData(size).check(content)
        _check_facts(facts)
        _check_parts(content, facts)
    except ValueError as error:
        raise ValueError(f"the checkpoint is damaged: {error}") from error
    return content


class _PlainData:
    """Walks through what a file holds: numbers, text, tensors, and lists and mappings of them."""

    def __init__(self, size: int | None) -> None:
        self._size, self._nodes, self._bytes = size, 0, 0

    def check(self, value: Any, where: str = "", depth: int = 0) -> None:
        """Refuses anything else, and more than a run writes.

        Raises:
            ValueError: If there is such a thing; it names where.
        """
        self._nodes += 1
        if depth > bounds.CHECKPOINT_DEPTH:
            raise ValueError(f"{where} is nested deeper than {bounds.CHECKPOINT_DEPTH} levels")
        if self._nodes > bounds.CHECKPOINT_VALUES:
            raise ValueError(f"it holds more than {bounds.CHECKPOINT_VALUES} values")
        if isinstance(value, dict):
            for key, item in value.items():
                if type(key) not in (str, int) or len(str(key)) > bounds.CHECKPOINT_KEY:
                    raise ValueError(f"{where or 'it'} has a key that is no name of up to {bounds.CHECKPOINT_KEY}")
                self.check(item, f"{where}.{key}" if where else str(key), depth + 1)
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                self.check(item, f"{where}[{i}]", depth + 1)
        elif isinstance(value, Tensor):
            self._check_tensor(value, where)
        elif isinstance(value, int) and not -_INTEGER <= value < _INTEGER:
            raise ValueError(f"{where} is an integer of more than 64 bits")
        elif value is not None and type(value) not in (bool, int, float, str):
            raise ValueError(f"{where} is {type(value).__name__}, must be plain data")

    def _check_tensor(self, tensor: Tensor, where: str) -> None:
        if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{where} is no plain tensor")
        if tensor.is_quantized or tensor.is_complex() or tensor.is_neg():
            raise ValueError(f"{where} is no plain tensor")
        size = tensor.numel() * tensor.element_size()
        if size > tensor.untyped_storage().nbytes():
            raise ValueError(f"{where} of shape {list(tensor.shape)} has more elements than the file holds for it")
        self._bytes += size
        if self._size is not None and self._bytes > self._size:
            raise ValueError(f"its tensors take more than the {self._size} bytes of the file")


def _check_facts(facts: Mapping[str, Any]) -> None:
    """What a checkpoint says of its run, by name and type."""
    _mapping(facts, "config", str)
    _mapping(facts, "traffic", int, float)
    _mapping(facts, "last_validation", int, float)
    for name, shape in _mapping(facts, "trainable", list).items():
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError(f"{KEY}.trainable.{name} must be a shape")
    for name in ("frozen", "digest"):
        if not isinstance(facts.get(name), str) or not _SHA256.fullmatch(facts[name]):
            raise ValueError(f"{KEY}.{name} must be a SHA-256 of 64 hexadecimal digits")
    for name in ("rounds", "paper_bytes", "protocol_bytes"):
        if not 0 <= facts["traffic"].get(name, -1) < float("inf"):
            raise ValueError(f"{KEY}.traffic.{name} must be a number of at least 0")
    if type(facts.get("measured_bytes")) is not int or facts["measured_bytes"] < 0:
        raise ValueError(f"{KEY}.measured_bytes must be an integer of at least 0")
    if "retention" in facts:
        _mapping(facts, "retention", int)
    if not isinstance(facts.get("rebuilt"), bool):
        raise ValueError(f"{KEY}.rebuilt must be true or false")


def _mapping(facts: Mapping[str, Any], name: str, *kinds: type) -> Mapping[str, Any]:
    found = facts.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f"{KEY}.{name} must be a mapping")
    for key, value in found.items():
        if not isinstance(key, str) or type(value) not in kinds:
            raise ValueError(f"{KEY}.{name}.{key} must be {' or '.join(kind.__name__ for kind in kinds)}")
    return found


def _check_parts(content: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """What Lightning takes from a checkpoint, as far as it is the same for all methods."""
    if not 0 <= content["global_step"] < bounds.ROUNDS:
        raise ValueError(f"global_step={content['global_step']} must be in [0, {bounds.ROUNDS})")
    if not isinstance(content.get("callbacks", {}), dict):
        raise ValueError("callbacks must be a mapping")
    if not isinstance(content.get("lr_schedulers", []), list):
        raise ValueError("lr_schedulers must be a list")
    state, trainable = content.get("state_dict"), facts["trainable"]
    if not isinstance(state, dict):
        raise ValueError("state_dict must be a mapping")
    for name, shape in trainable.items():
        tensor = state.get(f"network.{name}")
        if not isinstance(tensor, Tensor):
            raise ValueError(f"it lacks the tensor {name!r}")
        if tensor.dtype != torch.float32 or list(tensor.shape) != shape:
            raise ValueError(f"{name!r} is {tensor.dtype} of shape {list(tensor.shape)}, must be fp32, {shape}")
    more = sorted({str(name) for name in state} - {f"network.{name}" for name in trainable})
    if more:  # they would take the place of weights that never change
        raise ValueError(f"state_dict holds {more[0]!r}, which is not trained")
    _check_optimizers(content.get("optimizer_states", []), len(trainable), content["global_step"])


def _check_optimizers(states: Any, tensors: int, rounds: int) -> None:
    if not isinstance(states, list) or len(states) > 1:
        raise ValueError("optimizer_states must be a list of one mapping")
    for saved in states:
        if not isinstance(saved, dict) or not _of_mappings(saved.get("param_groups")):
            raise ValueError("optimizer_states[0].param_groups must be a list of mappings, not empty")
        if any(group.get("round", rounds) != rounds for group in saved["param_groups"]):
            raise ValueError(f"the checkpoint is of round {rounds}, its optimizer's state of another one")
        kept = saved.get("state")
        if not isinstance(kept, dict) or not all(_by_name(entry) for entry in kept.values()):
            raise ValueError("optimizer_states[0].state must be a mapping of mappings by name")
        if not set(kept) <= set(range(tensors)):
            raise ValueError(f"optimizer_states[0].state must be of tensors 0 to {tensors - 1}")


def _by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _of_mappings(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(item, dict) for item in value)
