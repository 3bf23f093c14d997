r"""The trace of the Gauss-Newton matrix by tensor, through the network's outputs.

.. math:: M = \sum_n w_n J_n^T S_n J_n, \qquad S = L L^T

S is the Hessian of a row's loss in its outputs: :math:`\operatorname{diag} p - p p^T` for softmax, with columns
:math:`L_c = \sqrt{p_c} (e_c - p)`; the identity for squares. So the diagonal is the sum over rows and classes of the
squares of :math:`\sqrt{w_n} J_n^T L_{n,c}`, each a backward pass of its own; or, by signs s over rows and classes, the
expectation of the square of :math:`\sum_{n,c} s_{n,c} \sqrt{w_n} J_n^T L_{n,c}`, one backward pass for all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.diagnose.curvature import CHUNK, differentiable
from hiso_pl.diagnose.problem import Outputs, Problem


class Traces(NamedTuple):
    """Traces by tensor with their standard errors, shape ``[tensors]``, and of the whole."""

    traces: NDArray[np.float64]
    errors: NDArray[np.float64]
    trace: float
    error: float


def traces(problem: Problem, exact: bool, probes: int, generator: torch.Generator) -> Traces | None:
    """The traces; None if a minibatch does not tell its outputs.

    Args:
        problem: The problem.
        exact: Whether to take every row and class by itself; else that is done where it takes no more passes than
            probes.
        probes: Backward passes of a minibatch otherwise.
        generator: Where signs come from.
    """
    sums = np.zeros((probes, len(problem.tensors)))
    estimated = False
    for weight, minibatch in problem.each():
        if minibatch.outputs is None:
            return None
        with differentiable():
            outputs = minibatch.outputs()
            rows, classes = outputs.values.shape
            if exact or rows * classes <= probes:
                columns = _columns(outputs)
                cotangents = torch.zeros(rows, classes, rows, classes, dtype=columns.dtype, device=columns.device)
                cotangents[range(rows), :, range(rows)] = columns.mT
                sums += weight * _squares(problem, outputs.values, cotangents.flatten(0, 1)).sum(0)
                continue
            estimated = True
            drawn = torch.randint(0, 2, (probes, rows, classes), generator=generator)
            signs = (2 * drawn - 1).to(outputs.values)
            sums += weight * _squares(problem, outputs.values, _combined(outputs, signs))
    errors, error = np.zeros(sums.shape[1]), 0.0
    if estimated:
        errors = sums.std(0, ddof=1) / np.sqrt(probes)
        error = float(sums.sum(1).std(ddof=1) / np.sqrt(probes))
    return Traces(sums.mean(0), errors, float(sums.sum(1).mean()), error)


def _columns(outputs: Outputs) -> Tensor:
    r"""Of each row the matrix :math:`\sqrt{w} L`, its columns in the last dimension, shape ``[n, C, C]``."""
    rows, classes = outputs.values.shape
    every = torch.eye(classes, dtype=outputs.values.dtype, device=outputs.values.device)
    return _combined(outputs, every[:, None].expand(classes, rows, classes)).permute(1, 2, 0)


def _combined(outputs: Outputs, signs: Tensor) -> Tensor:
    r""":math:`\sqrt{w_n} L_n s_n` for signs s, shape ``[k, n, C]``, without L: a vocabulary's would have C squared."""
    values = outputs.values.detach()
    weights = values.new_full((len(values),), 1.0 / len(values)) if outputs.weights is None else outputs.weights
    if outputs.kind == "softmax":
        p = values.softmax(dim=1)
        scaled = p.sqrt() * signs
        signs = scaled - p * scaled.sum(dim=2, keepdim=True)
    return signs * weights.to(values).sqrt()[:, None]


def _squares(problem: Problem, values: Tensor, cotangents: Tensor) -> NDArray[np.float64]:
    """Squares by tensor of the gradients along cotangents of shape ``[k, n, C]``, shape ``[k, tensors]``."""
    found = []
    for part in cotangents.split(CHUNK):
        try:
            gradients = torch.autograd.grad(
                values, problem.parameters, part, True, allow_unused=True, is_grads_batched=True
            )
            squares = [torch.zeros(len(part)) if g is None else _sum_of_squares(g) for g in gradients]
            found.append(torch.stack([s.double().cpu() for s in squares], dim=1))
        except RuntimeError:  # an operator that cannot be batched
            for one in part:
                single = torch.autograd.grad(values, problem.parameters, one, True, allow_unused=True)
                flat = problem.flat(single)
                found.append(problem.by_tensor(flat * flat)[None].cpu())
    return torch.cat(found).numpy()


def _sum_of_squares(batched: Tensor) -> Tensor:
    return batched.detach().reshape(len(batched), -1).double().square().sum(dim=1)
