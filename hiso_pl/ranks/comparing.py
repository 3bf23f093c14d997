"""Whether all ranks hold the same: their states by digest or by a checksum of each tensor, and what they start from."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hiso_pl.ranks.gathering import differing
from hiso_pl.zeroth_order.digest import Stateful, checksums, digest, told_as
from hiso_pl.zeroth_order.held import ApartError

HASH = 12
"""Characters of a hash that an error shows."""


class States(NamedTuple):
    """What a comparison of states has found.

    Attributes:
        odd: The ranks that differ from most others.
        first: The first tensor in which any do.
        payload_bytes: Bytes this rank handed to the process group for it.
    """

    odd: list[int]
    first: str
    payload_bytes: int


def states(state: Stateful, device: torch.device, whole: bool) -> States:
    """Compares the states of all ranks: their digests if ``whole``, and checksums if not or if these differ.

    Args:
        state: This rank's.
        device: Where a tensor must be to be handed to the process group.
        whole: Whether the digest is compared.
    """
    names, own, apart, sent = ["the digest"], torch.empty(0), "", 0
    try:
        if whole:
            own = torch.from_numpy(np.frombuffer(bytes.fromhex(digest(state)), dtype="<i8").copy())
        else:
            names, own = checksums(state)
    except ApartError as error:  # all of its group know, other ranks do not
        apart = told_as(*error.key)
    if getattr(state, "held", None) is not None:
        everyone = [""] * dist.get_world_size()
        dist.all_gather_object(everyone, apart)
        sent += len(pickle.dumps(apart))
        if any(everyone):
            return States([rank for rank, said in enumerate(everyone) if said], next(filter(None, everyone)), sent)
    odd, first = disagreement(_gathered(own, device))
    sent += own.nbytes
    if odd and whole:  # in which tensor
        names, own = checksums(state)
        found, first = disagreement(_gathered(own, device))
        odd, sent = found or odd, sent + own.nbytes
    return States(odd, names[first], sent)


def facts(mine: Mapping[str, str]) -> tuple[list[str], int]:
    """What is not the same on all ranks, each with the values and who holds them, and the bytes handed over for it."""
    everyone: list[Mapping[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return differing(everyone, HASH), len(pickle.dumps(mine))


def disagreement(table: Tensor) -> tuple[list[int], int]:
    """The ranks that differ from most others, and the first column in which any do.

    Where no group is the largest, the one of the lowest rank counts as right. The table has a row of checksums for each
    rank, shape ``[ranks, T]``.
    """
    rows = [tuple(row) for row in table.tolist()]
    most = Counter(rows).most_common(1)[0][0]  # of equals the one met first
    odd = [rank for rank, row in enumerate(rows) if row != most]
    columns = (table != table[0]).any(dim=0).nonzero()
    return odd, int(columns[0]) if len(columns) else -1


def _gathered(row: Tensor, device: torch.device) -> Tensor:
    """The rows of all ranks, shape ``[ranks, T]``."""
    row = row.to(device)
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, row)
    return torch.stack(rows).cpu()
