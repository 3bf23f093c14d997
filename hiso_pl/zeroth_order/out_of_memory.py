"""Telling that memory ran out from an operation that cannot be."""

from __future__ import annotations

import torch

_SAID = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: then there is no other way to fall back to, least of all one that needs more of it.

    The allocator of the CPU and the libraries of a GPU raise a plain RuntimeError, which only its text tells apart.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _SAID)
