r"""The whole gradient and its noise, by quadratic forms: squares by tensor, in H's coordinates, and along the Hessian.

For a form q, clients i with weights :math:`\omega_i` and n_i minibatches, bars being means:

.. math::
    V_i = \frac1{n_i - 1} \Big(\sum_b q(g_{i,b}) - n_i q(\bar g_i)\Big), \qquad
    S = \sum_i \omega_i V_i, \qquad c = \sum_i \omega_i^2 V_i / n_i

    G = q(\hat g) - c, \qquad
    W = \sum_i \omega_i q(\bar g_i) - q(\hat g) - \sum_i \omega_i (1 - \omega_i) V_i / n_i

are without bias the whole gradient's, the sampling noise's and the heterogeneity's. Of N clients out of M, the sample's
variance :math:`s^2 = W / (1 - \sum \omega_i^2)` stands for all: then :math:`W' = s^2 (M - 1) / M`, and G is less by
:math:`s^2 (1 - N / M) \sum \omega_i^2`. Minibatches that are all of a client's examples have means without error:
divisor n_i, and no correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.diagnose.curvature import differentiable
from hiso_pl.diagnose.moments import Form
from hiso_pl.diagnose.problem import Minibatch, Problem
from hiso_pl.errors import RunError

Floats = NDArray[np.float64]
Forms = Callable[[Tensor], Floats]
"""Some quadratic forms of a vector of shape ``[d]``, shape ``[forms]``."""


class Split(NamedTuple):
    """Forms of the gradient, each of shape ``[forms]``, as :class:`.moments.Form` has one; and the gradient itself.

    Attributes:
        signal: Of the whole gradient.
        sampling: Of a minibatch's gradient around its client's.
        heterogeneity: Of a client's gradient around the whole's.
        mean: The mean gradient that was measured, shape ``[d]``.
        loss: The mean loss.
    """

    signal: Floats
    sampling: Floats
    heterogeneity: Floats
    mean: Tensor
    loss: float

    def form(self, column: int) -> Form:
        """One of the forms."""
        return Form(float(self.signal[column]), float(self.sampling[column]), float(self.heterogeneity[column]))


def gradient(problem: Problem, minibatch: Minibatch, where: str) -> tuple[float, Tensor]:
    """A minibatch's loss and its gradient, shape ``[d]``.

    Raises:
        RunError: If they are not finite.
    """
    with differentiable():
        loss = minibatch.loss()
        found = problem.flat(torch.autograd.grad(loss, problem.parameters, allow_unused=True))
    value = float(loss.detach())
    if not (math.isfinite(value) and bool(torch.isfinite(found).all())):
        raise RunError(f"the loss of {where} is {value:g} or its gradient is not finite: there is no diagnosis")
    return value, found


def split(problem: Problem, forms: Forms) -> Split:
    """The forms of gradient and noise, in one pass over the minibatches."""
    total = torch.zeros(problem.elements, dtype=problem.dtype, device=problem.device)
    zero = np.zeros_like(forms(total))
    within, of_clients, c, between = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    loss = 0.0
    for i, (weight, client) in enumerate(zip(problem.weights, problem.clients, strict=True)):
        n, own, squares = len(client.minibatches), torch.zeros_like(total), zero.copy()
        for b, minibatch in enumerate(client.minibatches):
            value, g = gradient(problem, minibatch, f"client {i}, minibatch {b}")
            loss, own, squares = loss + weight * value / n, own + g, squares + forms(g)
        own /= n
        of_client = forms(own)
        variance = (squares - n * of_client) / (n if problem.exhaustive else n - 1)
        total += weight * own
        of_clients += weight * of_client
        within += weight * variance
        if not problem.exhaustive:
            c += weight * weight * variance / n
            between += weight * (1.0 - weight) * variance / n
    whole = forms(total)
    signal, heterogeneity = whole - c, of_clients - whole - between
    measured, population = len(problem.clients), problem.facts.population
    if measured < population:
        concentration = math.fsum(w * w for w in problem.weights)
        variance = heterogeneity / (1.0 - concentration)
        signal -= variance * concentration * (1.0 - measured / population)
        heterogeneity = variance * (population - 1) / population
    return Split(signal, within, heterogeneity, total, loss)


def square_error(problem: Problem, mean: Tensor) -> float:
    r"""The standard error of the whole gradient's square, by the variances of :math:`g_{i,b} \cdot \hat g`.

    .. math:: \mathrm{Var} |\hat g|^2 \approx 4 \sum_i \omega_i^2 \mathrm{Var}_b(g_{i,b} \cdot \hat g) / n_i

    Clients that were left out are not in it.
    """
    if problem.exhaustive:
        return 0.0
    total = 0.0
    for weight, client in zip(problem.weights, problem.clients, strict=True):
        along = [
            float((gradient(problem, b, "a client")[1] * mean).sum(dtype=torch.float64)) for b in client.minibatches
        ]
        total += 4.0 * weight**2 * float(np.var(along, ddof=1)) / len(along)
    return math.sqrt(total)


def noises(problem: Problem, mean: Tensor, most: int) -> list[Tensor]:
    """What a few minibatches' gradients, spread over all, differ from the mean by, each of shape ``[d]``."""
    every = [minibatch for client in problem.clients for minibatch in client.minibatches]
    chosen = sorted({round(i) for i in np.linspace(0, len(every) - 1, min(most, len(every)))})
    return [gradient(problem, every[i], f"minibatch {i}")[1] - mean for i in chosen]
