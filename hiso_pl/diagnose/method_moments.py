"""Gradient, noise and Hessian in the coordinates of an H, measured: what :mod:`.moments` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.diagnose import low_rank
from hiso_pl.diagnose.curvature import CHUNK, Diagonal, Hessian
from hiso_pl.diagnose.estimate import HessianEstimate
from hiso_pl.diagnose.gradients import Split, noises
from hiso_pl.diagnose.gradients import split as split_forms
from hiso_pl.diagnose.moments import Form, Moments
from hiso_pl.diagnose.problem import Problem

Floats = NDArray[np.float64]


DEAR = 4
"""Minibatches by which noise is measured along a Hessian that is not known whole."""


class Metric(NamedTuple):
    r"""An H, in whose coordinates gradient, noise and Hessian are :math:`B^T g` and :math:`B^T A B`.

    Attributes:
        estimate: H.
        hessian: A.
        diagonal: Of A.
        problem: Whose they are.
    """

    estimate: HessianEstimate
    hessian: Hessian
    diagonal: Diagonal
    problem: Problem

    def forms(self, g: Tensor) -> Floats:
        r"""Forms of a gradient, :math:`\tilde g = B^T g`, shape ``[5]``.

        In order: :math:`|\tilde g|^2`; in K = B^T B :math:`|B \tilde g|^2`; the distribution's excesses in A and K;
        :math:`\tilde g^T \tilde A \tilde g`, 0 where A is not known whole.
        """
        through = self.estimate.inverse(g)
        length, excess, excess_length = _dot(through, through), 0.0, 0.0
        if self.problem.facts.distribution == "rademacher":  # which is had with elementwise H alone
            excess, excess_length = -2.0 * _dot(through**2, self.diagonal.values), -2.0 * length
        elif self.problem.facts.distribution == "low_rank":
            excess, excess_length = self._of_low_rank(self.estimate.root_transposed(g))
        curved = 0.0 if self.hessian.matrix is None else self.along(g)
        return np.array([_dot(g, through), length, excess, excess_length, curved])

    def _of_low_rank(self, a: Tensor) -> tuple[float, float]:
        """The excesses of low rank, which is had with elementwise H alone, of a gradient in the coordinates of H."""
        problem, matrix = self.problem, self.hessian.matrix
        b = self.estimate.root(torch.ones_like(a))
        shapes, rank = [tuple(p.shape) for p in problem.parameters], problem.facts.rank
        whole = self.diagonal.values * b * b if matrix is None else matrix * b * b[:, None]
        return low_rank.excess(a, whole, shapes, rank), low_rank.excess(a, b * b, shapes, rank)

    def along(self, g: Tensor) -> float:
        r""":math:`\tilde g^T \tilde A \tilde g`."""
        through = self.estimate.inverse(g)
        return _dot(through, self.hessian.products(through[None])[0])

    def curved(self, square: Form, mean: Tensor, noises: Sequence[Tensor]) -> Form:
        """The forms in A where it is not known whole: of noise by a few noises, in proportion to their squares.

        Args:
            square: Of the same.
            mean: The gradient that was measured, whose noise is in it.
            noises: What some minibatches' gradients differ from it by.
        """
        below = sum(_dot(e, self.estimate.inverse(e)) for e in noises)
        part = sum(self.along(e) for e in noises) / below if below > 0 else 0.0
        excess = _dot(mean, self.estimate.inverse(mean)) - square.signal
        return Form(self.along(mean) - part * excess, part * square.sampling, part * square.heterogeneity)


class Measured(NamedTuple):
    """The forms of :meth:`Metric.forms`, of gradient and noise."""

    square: Form
    length: Form
    excess: Form
    excess_length: Form
    curved: Form


def measure(problem: Problem, metrics: Mapping[str, Metric]) -> tuple[Split, dict[str, Measured]]:
    """Gradient and noise: squares by tensor, and each metric's forms.

    Returns:
        The split, of which the first forms are the squares by tensor, and of each metric its forms.
    """
    tensors = len(problem.tensors)

    def forms(g: Tensor) -> Floats:
        return np.concatenate([problem.by_tensor(g * g).cpu().numpy(), *(m.forms(g) for m in metrics.values())])

    split = split_forms(problem, forms)
    found, kept = {}, None
    for i, (name, metric) in enumerate(metrics.items()):
        at = range(tensors + 5 * i, tensors + 5 * i + 5)
        measured = Measured(*(split.form(column) for column in at))
        if metric.hessian.matrix is None:
            kept = kept or noises(problem, split.mean, DEAR)
            measured = measured._replace(curved=metric.curved(measured.square, split.mean, kept))
        found[name] = measured
    return split, found


class Draws(NamedTuple):
    """Directions of the method, looked at in the coordinates of H, each of shape ``[n]``.

    Attributes:
        curvature: :math:`u^T B^T A B u`.
        length: :math:`|B u|^2`.
    """

    curvature: Floats
    length: Floats

    @classmethod
    def of(cls, problem: Problem, metric: Metric, count: int, generator: torch.Generator) -> Draws:
        """So many draws, by torch's generator: of the method's distribution, not of a run's streams.

        None with central differences, of which nothing depends on them.
        """
        found = [np.empty((2, 0))]
        for start in range(0, count if problem.facts.difference == "forward" else 0, CHUNK):
            u = torch.stack([drawn(problem, generator) for _ in range(min(CHUNK, count - start))])
            z = metric.estimate.root(u)
            rows = [(z * y).sum(1, dtype=torch.float64) for y in (metric.hessian.products(z), z)]
            found.append(torch.stack(rows).cpu().numpy())
        return cls(*np.concatenate(found, axis=1))


def moments(
    problem: Problem, measured: Measured, trace: float, draws: Draws | None = None, *, length: bool = False
) -> Moments:
    """What theory takes of a metric.

    Args:
        problem: The problem.
        measured: Forms of gradient and noise.
        trace: tr K.
        draws: Of the method's directions; without them mu is left out.
        length: Whether K is B^T B, and not the Hessian.
    """
    third = 0.0
    if draws is not None and len(draws.curvature):
        third = float((draws.curvature**2 * (draws.length if length else draws.curvature)).mean())
    curved, excess = (measured.length, measured.excess_length) if length else (measured.curved, measured.excess)
    return Moments(problem.facts, measured.square, curved, trace, excess, third, unevenness(problem))


def unevenness(problem: Problem) -> float:
    """N times the sum of squares of the N clients' weights."""
    return len(problem.clients) * math.fsum(weight * weight for weight in problem.weights)


def drawn(problem: Problem, generator: torch.Generator) -> Tensor:
    """A direction u of the method's distribution, shape ``[d]``."""
    facts, parts = problem.facts, []
    for parameter in problem.parameters:
        shape = (len(parameter), parameter[0].numel()) if parameter.dim() > 1 and len(parameter) else None
        if facts.distribution == "rademacher":
            part = 2.0 * torch.randint(0, 2, (parameter.numel(),), generator=generator) - 1.0
        elif facts.distribution == "low_rank" and shape is not None:
            rows, columns = (torch.randn(n, facts.rank, generator=generator, dtype=torch.float64) for n in shape)
            part = (rows @ columns.mT).reshape(-1) / facts.rank**0.5
        else:
            part = torch.randn(parameter.numel(), generator=generator, dtype=torch.float64)
        parts.append(part.to(problem.device, problem.dtype))
    return torch.cat(parts)


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))
