r"""The fourth moment of directions of low rank, beyond that of normal ones.

Of a matrix :math:`u = U V^T / \sqrt r` the moment :math:`E[u_1 u_2 u_3 u_4]` is the sum over pairings of rows and of
columns, those that differ counting 1 / r: each pairing alike gives normal's, and what is left, of a and K,

.. math::
    X = \tfrac2r \Big[ \sum a_{ij} a_{il} K_{kj,kl} + \sum a_{ij} a_{kj} K_{il,kl} + \sum a_{ij} a_{kl} K_{il,kj} \Big]

Vectors are normal, and different tensors independent: they have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def excess(a: Tensor, k: Tensor, shapes: Sequence[Sequence[int]], rank: int) -> float:
    """X of a vector a, shape ``[d]``.

    Args:
        a: The vector.
        k: K whole, ``[d, d]``, or its diagonal, ``[d]``: then elements beside it are left out.
        shapes: The tensors' shapes.
        rank: r.
    """
    total, first = 0.0, 0
    for shape in shapes:
        count = torch.Size(shape).numel()
        at, first = slice(first, first + count), first + count
        if len(shape) < 2 or not count:
            continue
        matrix = a[at].double().reshape(shape[0], -1)
        if k.dim() == 1:
            part = k[at].double().reshape(matrix.shape)
            total += float((matrix**2 * (part.sum(0) + part.sum(1)[:, None] + part)).sum())
        else:
            block = k[at, at].double().reshape(*matrix.shape, *matrix.shape)
            total += float((torch.einsum("kjkl->jl", block) * (matrix.mT @ matrix)).sum())
            total += float((torch.einsum("ilkl->ik", block) * (matrix @ matrix.mT)).sum())
            total += float(torch.einsum("ij,kl,ilkj->", matrix, matrix, block))
    return 2.0 / rank * total
