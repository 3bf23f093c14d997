"""The Hessian of the whole loss by products with vectors, exactly where it is small; diagonal, traces, eigenvalues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hiso_pl.diagnose.estimate import HessianEstimate
from hiso_pl.diagnose.problem import Problem

log = logging.getLogger(__name__)

CHUNK = 32
"""Vectors that go through a minibatch's graph together, at most."""
TOGETHER = 1 << 22
"""Elements of the vectors that do, at most, if there are several: each brings activations of its own."""
TOLERANCE = 1e-3
"""Of eigenvalues by Lanczos, beside the largest."""
POWERS = 8
"""Products by which the size of the largest eigenvalue is found."""
RESTARTS = 20
"""Of Lanczos at most, of some 20 products each."""


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients on, and attention by operators that can be differentiated twice."""
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


class Hessian:
    """A, the Hessian of the whole loss at the problem's point.

    Args:
        problem: The problem.
        exact: Whether to compute it whole, ``[d, d]`` in float64.

    Attributes:
        matrix: The whole of it, if it was to be computed.
    """

    def __init__(self, problem: Problem, exact: bool) -> None:
        self._problem = problem
        self.matrix: Tensor | None = None
        if exact:
            dense = self._by_backward(torch.eye(problem.elements, dtype=problem.dtype, device=problem.device))
            self.matrix = 0.5 * (dense + dense.mT)

    @property
    def together(self) -> int:
        """How many vectors go through a graph together."""
        return max(1, min(CHUNK, TOGETHER // self._problem.elements))

    def products(self, vectors: Tensor) -> Tensor:
        """A times each vector, shape ``[k, d]`` as ``vectors``."""
        return self._by_backward(vectors) if self.matrix is None else vectors @ self.matrix

    def _by_backward(self, vectors: Tensor) -> Tensor:
        problem, found, together = self._problem, torch.zeros_like(vectors), self.together
        for weight, minibatch in problem.each():
            with differentiable():
                gradients = torch.autograd.grad(
                    minibatch.loss(), problem.parameters, create_graph=True, allow_unused=True
                )
                for start in range(0, len(vectors), together):
                    part = vectors[start : start + together]
                    found[start : start + together] += weight * self._through(gradients, part)
        return found

    def _through(self, gradients: tuple[Tensor | None, ...], vectors: Tensor) -> Tensor:
        """The gradients' own gradient along each vector: a minibatch's Hessian times it."""
        problem = self._problem
        moving = [(t, g) for t, g in enumerate(gradients) if g is not None and g.requires_grad]
        if not moving:  # the loss is linear
            return torch.zeros_like(vectors)
        shapes = [tuple(p.shape) for p in problem.parameters]
        pieces = vectors.split([p.numel() for p in problem.parameters], dim=1)
        along = [pieces[t].reshape(-1, *shapes[t]).to(g.dtype) for t, g in moving]

        def back(outputs: list[Tensor], batched: bool) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(
                [g for _, g in moving], problem.parameters, outputs, True, allow_unused=True, is_grads_batched=batched
            )

        if len(vectors) > 1:
            try:
                found = back(along, True)
            except RuntimeError as error:  # an operator that cannot be batched
                log.debug("products one by one: %s", error)
            else:
                rows = zip(found, shapes, strict=True)
                flat = [vectors.new_zeros(len(vectors), int(np.prod(s))) if f is None else f for f, s in rows]
                return torch.cat([f.detach().reshape(len(vectors), -1).to(vectors.dtype) for f in flat], dim=1)
        return torch.stack([problem.flat(back([a[i] for a in along], False)) for i in range(len(vectors))])

    def eigenvalues(self, count: int, estimate: HessianEstimate | None = None) -> NDArray[np.float64]:
        """Eigenvalues, ascending: all where A is known whole, else ``count`` from both ends, by Lanczos.

        Args:
            count: How many, the upper end taking one more if it is odd; of what Lanczos has not settled there are
                fewer.
            estimate: H: then those of B^T A B.
        """
        problem = self._problem
        root, transposed = _maps(estimate)
        if self.matrix is not None:
            whole = transposed(root(self.matrix).mT)  # (A B)^T = B^T A, and B^T of its rows
            return np.linalg.eigvalsh(whole.mT.double().cpu().numpy())
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        kind = np.float64 if problem.dtype == torch.float64 else np.float32

        def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            given = torch.from_numpy(np.ascontiguousarray(vector.reshape(1, -1))).to(problem.device, problem.dtype)
            out: NDArray[np.float64] = transposed(self.products(root(given)))[0].cpu().numpy()
            return out

        d = problem.elements
        start: NDArray[Any] = np.random.default_rng(0).standard_normal(d).astype(kind)
        vector, size = start, 0.0
        for _ in range(POWERS):
            vector = product(vector / float(np.linalg.norm(vector)))
            size = float(np.linalg.norm(vector))
            if not size > 0.0:
                return np.zeros(0)
        # moved by the largest size, so that either end is settled beside that: an end next to 0 never is beside itself
        moved = LinearOperator((d, d), matvec=lambda v: product(v) + kind(size) * v.reshape(-1), dtype=kind)
        options = {"v0": start, "tol": TOLERANCE, "maxiter": RESTARTS, "return_eigenvectors": False}
        try:
            found = eigsh(moved, min(count, d - 1), which="BE", **options)
        except ArpackNoConvergence as error:
            found = error.eigenvalues
        return np.sort(np.asarray(found, dtype=np.float64)) - size


def _maps(estimate: HessianEstimate | None) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    if estimate is None:
        return (lambda v: v), (lambda v: v)
    return estimate.root, estimate.root_transposed


@dataclass(frozen=True)
class Diagonal:
    """The diagonal of A, exact or estimated.

    Attributes:
        values: Shape ``[d]``.
        halves: Two estimates that have no probe in common; twice the values if exact.
        error: Standard error of each value, shape ``[d]``; zeros if exact.
        traces: Sums over each tensor, float64 ``[tensors]``.
        trace_errors: Their standard errors.
        trace: tr A.
        trace_error: Its standard error.
        h_trace: tr B B^T A, of H.
        h_trace_error: Its standard error.
    """

    values: Tensor
    halves: tuple[Tensor, Tensor]
    error: Tensor
    traces: NDArray[np.float64]
    trace_errors: NDArray[np.float64]
    trace: float
    trace_error: float
    h_trace: float
    h_trace_error: float


def diagonal(
    problem: Problem, hessian: Hessian, estimate: HessianEstimate, probes: int, generator: torch.Generator
) -> Diagonal:
    r"""The diagonal by Hutchinson's estimate :math:`v \circ A v`, v signs, where A is not known whole.

    Its square error is :math:`\frac1n \sum_{j \ne i} A_{ij}^2` at element i.

    Args:
        problem: The problem.
        hessian: Its Hessian.
        estimate: H.
        probes: How many v.
        generator: Where they come from.
    """
    if hessian.matrix is not None:
        values = hessian.matrix.diagonal().clone()
        sums = problem.by_tensor(values).cpu().numpy()
        h_trace = float(estimate.inverse(hessian.matrix).diagonal().sum())
        none, zero = np.zeros_like(sums), torch.zeros_like(values)
        return Diagonal(values, (values, values), zero, sums, none, float(sums.sum()), 0.0, h_trace, 0.0)
    total, squares, half = (torch.zeros(problem.elements, dtype=problem.dtype, device=problem.device) for _ in range(3))
    sums, h_traces = np.zeros((probes, len(problem.tensors))), np.zeros(probes)
    for i, v, through in _through(problem, hessian, probes, generator):
        found = v * through
        total += found
        squares += found * found
        if i % 2 == 0:
            half += found
        sums[i] = problem.by_tensor(found).cpu().numpy()
        h_traces[i] = float((estimate.inverse(v) * through).sum(dtype=torch.float64))
    even, root = (probes + 1) // 2, np.sqrt(probes)
    values = total / probes
    error = ((squares / probes - values * values).clamp(min=0) / (probes - 1)).sqrt()
    return Diagonal(
        values,
        (half / even, (total - half) / (probes - even)),
        error,
        sums.mean(0),
        sums.std(0, ddof=1) / root,
        float(sums.sum(1).mean()),
        float(sums.sum(1).std(ddof=1) / root),
        float(h_traces.mean()),
        float(h_traces.std(ddof=1) / root),
    )


def _through(
    problem: Problem, hessian: Hessian, probes: int, generator: torch.Generator
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Numbers, vectors of signs and their products with A."""
    for start in range(0, probes, hessian.together):
        drawn = [signs(problem, generator) for _ in range(min(hessian.together, probes - start))]
        yield from zip(range(start, probes), drawn, hessian.products(torch.stack(drawn)), strict=False)


def signs(problem: Problem, generator: torch.Generator) -> Tensor:
    """A vector of random signs, shape ``[d]``."""
    drawn = torch.randint(0, 2, (problem.elements,), generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(problem.device, problem.dtype)
