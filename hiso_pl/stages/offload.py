"""Tensors in files: memory that the system can take back at any time, as it knows where to read it again."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from hiso_pl.zeroth_order.points import is_absent

_ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"
"""Keeps transformers from reading tensors faster than modules take them, all of which would be in memory then."""

_TRIMMED = 1 << 28


def _give_back() -> None:
    """Has the allocator give back what was freed in between, where it is glibc's; it would keep gigabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _make_room(descriptor: int, size: int) -> None:
    """Takes a file's room now: what is mapped and finds none later is a signal in the middle of a round."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


@contextmanager
def one_by_one() -> Iterator[None]:
    """transformers reads tensors inside the block as modules take them."""
    before = os.environ.get(_ONE_BY_ONE)
    os.environ[_ONE_BY_ONE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_ONE_BY_ONE)
        if before is not None:
            os.environ[_ONE_BY_ONE] = before


def filling(folder: str | None) -> AbstractContextManager[None]:
    """Parameters made inside the block live in files of a folder, if one is given."""
    return nullcontext() if folder is None else Offload(folder).filling()


class Offload:
    """Puts tensors into files of a folder, each mapped into memory.

    The files have no names, as soon as they are mapped: nobody finds them, they are gone with the process however it
    ends, and nothing is ever read from those of a run before.

    Args:
        folder: Where. It is made if it is not there.

    Attributes:
        bytes: What was put there so far.

    Raises:
        ValueError: If nothing can be written there.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).absolute()  # as files are named, by which those that live there already are told
        self.bytes = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.take(torch.zeros(1))
        except OSError as error:
            raise ValueError(f"offload_dir={str(folder)!r} must be a folder to write to: {error.strerror}") from error

    def take(self, tensor: Tensor) -> Tensor:
        """A tensor of the same values that lives in a file.

        Raises:
            ValueError: If the file system has no room for it.
        """
        size = tensor.numel() * tensor.element_size()
        if size == 0 or tensor.device.type != "cpu":
            return tensor
        descriptor, path = tempfile.mkstemp(dir=self._folder)
        try:
            _make_room(descriptor, size)
            flat = torch.from_file(path, shared=True, size=tensor.numel(), dtype=tensor.dtype)
        except OSError as error:
            raise ValueError(
                f"offload_dir={str(self._folder)!r} must have room for {size} bytes beside {self.bytes}: "
                f"{error.strerror}"
            ) from error
        finally:
            os.close(descriptor)
            os.unlink(path)
        if self.bytes // _TRIMMED != (self.bytes + size) // _TRIMMED:
            _give_back()
        self.bytes += size
        filed = flat.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())
        with torch.no_grad():
            filed.copy_(tensor)
        return filed

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Parameters that modules are given inside the block live in files as soon as they have values."""

        def put(module: nn.Module, name: str, parameter: Tensor | None) -> None:
            if parameter is not None:
                self._put(parameter)

        hook = register_module_parameter_registration_hook(put)
        try:
            with one_by_one():
                yield
        finally:
            hook.remove()
            _give_back()

    def put(self, network: nn.Module) -> None:
        """Moves all parameters of a network that do not live in a file of the folder yet."""
        for parameter in network.parameters():
            self._put(parameter)

    def _put(self, parameter: Tensor) -> None:
        if parameter.device.type == "cpu" and not is_absent(parameter):
            file = parameter.untyped_storage().filename
            if file is None or Path(file).parent != self._folder:
                parameter.data = self.take(parameter.data)
