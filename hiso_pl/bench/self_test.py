"""Whether this machine computes what the formats say, to the bit: directions and an update by every backend it has."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.errors import one_line
from hiso_pl.ranks import pair
from hiso_pl.zeroth_order.kernels import Kernels, select
from hiso_pl.zeroth_order.kernels.base import Decay
from hiso_pl.zeroth_order.philox import philox4x32
from hiso_pl.zeroth_order.streams import Site

WORDS = {
    (0, 0, 0, 0, 0): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0x299F31D0A4093822): "d16cfe09 94fdcceb 5001e420 24126ea1",
}
"""Philox4x32-10's known answers (Random123, kat_vectors): four counter words, the key, and the words drawn."""
DIRECTIONS = {
    (Site(20261120, "normal", 0, 0), 0, 0): "3f9a2d0d 3f075a7f 4028d867 bccb243e bf9f118d bd5588c8 be792820 bfbdba65",
    (Site((1 << 63) + 5, "normal", 3, 1499), 2, 4): (
        "bfe11b16 bf8b32c0 c0050866 3eed4de1 bf75f24e 3ea78c26 bf511d71 3f96286e"
    ),
    (Site(20261120, "low_rank", 0, 0, 0, 2, 5), 0, 0): (
        "bf31b131 bed5ad40 40140434 bef7de80 3e942873 bf61d631 be6ae85f c022af90"
    ),
}
"""The vectors of ``stream: 1``: where they are drawn, local step and direction, and the bits."""
ELEMENTS = 100_003
UPDATED = "8325a28abc4d9a80c6465dfb5229b6a0d7164d534adf4ae45b6a9cb39197c03f"
"""SHA-256 of x and of H, little-endian, after :func:`update`: ``stream: 1`` and ``numerics: 1``."""


@dataclass(frozen=True)
class Check:
    """A check of the machine.

    Attributes:
        name: What is checked.
        seconds: How long it took.
        wrong: What is wrong; empty if nothing is.
    """

    name: str
    seconds: float
    wrong: str = ""


def checks() -> Iterator[Check]:
    """Carries the checks out, one after the other."""
    yield _check("Philox, known answers", _philox)
    cuda = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in (torch.device("cpu"), *cuda):
        for backend in ("reference", "numba", "torch") if device.type == "cpu" else ("triton", "torch"):
            yield _check(f"directions and update, {backend} on {device}", lambda b=backend, d=device: _backend(b, d))  # type: ignore[misc]
    yield _check(f"two ranks meet by {pair.way()}", _meeting)


def update(kernels: Kernels, device: torch.device) -> str:
    """The digest of a fixed update with H: two local steps, three directions, numbers that all machines agree on."""
    index = np.arange(ELEMENTS, dtype=np.int64)
    x = torch.from_numpy(((index * 40503 % 65536 - 32768) / 65536).astype(np.float32)).to(device)
    hessian = torch.from_numpy(((index * 30011 % 65536 + 8192) / 65536).astype(np.float32)).to(device)
    weights = np.array([[0.25, -1.5, 0.75], [-0.375, 0.5, 2.0]], dtype=np.float32)
    site = Site(20261120, "normal", 1, 7)
    kernels.update(x, hessian, site, weights, 0.0123, Decay(0.05, 1e-8, 1e-8, "last"), False)
    return hashlib.sha256(_bytes(x) + _bytes(hessian)).hexdigest()


def _check(name: str, work: Callable[[], str]) -> Check:
    began = time.perf_counter()
    try:
        wrong = work()
    except Exception as error:  # whatever a compiler, a driver or a network can fail with
        wrong = f"{type(error).__name__}: {one_line(error)}"
    return Check(name, time.perf_counter() - began, wrong)


def _philox() -> str:
    for (*counter, key), words in WORDS.items():
        found = _hex(philox4x32(np.array([counter], dtype=np.uint32), key)[0])
        if found != words:
            return f"gives {found} and must give {words}"
    return ""


def _backend(name: str, device: torch.device) -> str:
    kernels = select(name, device)
    for (site, k, p), bits in DIRECTIONS.items():
        out = torch.empty(8, device=device)
        kernels.combine(out, site, k, np.eye(1, p + 1, p, dtype=np.float32)[0])
        found = _hex(np.frombuffer(_bytes(out), dtype=np.uint32))
        if found != bits:
            return f"directions of {site}, k={k}, p={p} are {found} and must be {bits}"
    digest = update(kernels, device)
    return "" if digest == UPDATED else f"the update's digest is {digest[:12]}... and must be {UPDATED[:12]}..."


def _meeting() -> str:
    pair.meet()
    return ""


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().numpy().astype("<f4").tobytes()


def _hex(words: NDArray[np.uint32]) -> str:
    return " ".join(f"{int(word):08x}" for word in words)
