"""Gradient, noise and Hessian in the coordinates of an H, measured: what :mod:`.moments` takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.diagnose.curvature import Diagonal, Hessian
from hiso_pl.diagnose.estimate import HessianEstimate
from hiso_pl.diagnose.gradients import Split, noises
from hiso_pl.diagnose.gradients import split as split_forms
from hiso_pl.diagnose.moments import Form, Moments
from hiso_pl.diagnose.problem import Facts, Problem

Floats = NDArray[np.float64]


DEAR = 4
"""Minibatches by which noise is measured along a Hessian that is not known whole."""


class Metric(NamedTuple):
    r"""An H, in whose coordinates gradient, noise and Hessian are :math:`B^T g` and :math:`B^T A B`.

    Attributes:
        estimate: H.
        hessian: A.
        diagonal: Of A.
        facts: What a round does.
    """

    estimate: HessianEstimate
    hessian: Hessian
    diagonal: Diagonal
    facts: Facts

    def forms(self, g: Tensor) -> Floats:
        r"""Forms of a gradient, :math:`\tilde g = B^T g`, shape ``[5]``.

        In order: :math:`|\tilde g|^2`; in K = B^T B :math:`|B \tilde g|^2`; the excesses of signs in A and in K;
        :math:`\tilde g^T \tilde A \tilde g`, 0 where A is not known whole.
        """
        through = self.estimate.inverse(g)
        length, excess, excess_length = _dot(through, through), 0.0, 0.0
        if self.facts.distribution == "rademacher":  # which is had with elementwise H alone
            excess, excess_length = -2.0 * _dot(through**2, self.diagonal.values), -2.0 * length
        curved = 0.0 if self.hessian.matrix is None else self.along(g)
        return np.array([_dot(g, through), length, excess, excess_length, curved])

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
    """Directions of the method, looked at: :math:`u^T A u` in the coordinates of H, :math:`|B u|^2` and u . a.

    Attributes:
        curvature: Shape ``[n]``.
        length: Shape ``[n]``.
        along: Shape ``[n]``.
    """

    curvature: Floats
    length: Floats
    along: Floats

    @classmethod
    def of(cls, problem: Problem, metric: Metric, mean: Tensor, count: int, generator: torch.Generator) -> Draws:
        """So many draws, by torch's generator: of the method's distribution, not of a run's streams."""
        if problem.facts.distribution != "low_rank" and problem.facts.difference == "central":
            count = 0  # nothing is asked of them
        a, rows = metric.estimate.root_transposed(mean), []
        for _ in range(count):
            u = drawn(problem, generator)
            z = metric.estimate.root(u)
            rows.append((_dot(z, metric.hessian.products(z[None])[0]), _dot(z, z), _dot(u, a)))
        return cls(*np.array(rows).reshape(-1, 3).T)

    def excess(self, measured: Measured, *, length: bool) -> Form:
        r"""X of directions of low rank, :math:`E[(u \cdot a)^2 (v - E v)] - 2 a^T K a`, v being :math:`u^T K u`.

        It is that of the gradient that was measured, and noise has its part by its square.

        Args:
            measured: Forms of gradient and noise.
            length: Whether K is B^T B, and not the Hessian.
        """
        values = self.length if length else self.curvature
        part = float((self.along**2 * (values - values.mean())).mean() / (self.along**2).mean())
        form = measured.length if length else measured.curved
        return Form(*(part * s - 2.0 * c for s, c in zip(measured.square, form, strict=True)))


def moments(
    problem: Problem, measured: Measured, trace: float, draws: Draws | None = None, *, length: bool = False
) -> Moments:
    """What theory takes of a metric.

    Args:
        problem: The problem.
        measured: Forms of gradient and noise.
        trace: tr K.
        draws: Of the method's directions; without them mu is left out, and directions of low rank count as normal.
        length: Whether K is B^T B, and not the Hessian.
    """
    excess, third = (measured.excess_length if length else measured.excess), 0.0
    if draws is not None and len(draws.curvature):
        third = float((draws.curvature**2 * (draws.length if length else draws.curvature)).mean())
        if problem.facts.distribution == "low_rank":
            excess = draws.excess(measured, length=length)
    curved = measured.length if length else measured.curved
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
