r"""A quadratic whose truth is known: spectrum, rotation, minibatch noise and clients that differ.

.. math:: f_{i,b}(x) = \tfrac12 x^T A x + (h_i + e_{i,b})^T x, \qquad A = Q \operatorname{diag}(\lambda) Q^T

with :math:`\sum_i h_i = 0` and e normal, drawn anew for every minibatch. So the whole loss is :math:`\frac12 x^T A x`,
its least value 0, and the gradient's noise has covariances that are known.

With :math:`M = E[x x^T]` in the coordinates of H, a round at rate eta (one local step, mu and third moments left out)
makes of it, exactly for normal directions (:mod:`.moments`),

.. math::
    M' &= M - \eta (A M + M A) + \eta^2 E[D D^T] \\
    E[D D^T] &= \tfrac1P \big(\operatorname{tr}(R) I + (P + 1) R\big) \text{ shared}, \qquad
    R + \tfrac1{mP} \big(\operatorname{tr}(R_1) I + R_1\big) \text{ own}

where :math:`R = A M A + \bar\Sigma` is the mean gradient's second moment and :math:`R_1 = A M A + \Sigma` a slot's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.diagnose.moments import Form, Moments
from hiso_pl.diagnose.problem import Client, Facts, Minibatch, Outputs

Floats = NDArray[np.float64]


class Quadratic:
    """Clients' losses on a quadratic, and what is known of them.

    Args:
        spectrum: A's eigenvalues.
        rotation: Q, orthogonal ``[d, d]``; the axes' own if None.
        noise: Standard deviation of a minibatch's gradient along each axis, or its covariance ``[d, d]``.
        clients: M.
        heterogeneity: Standard deviation of the clients' h along each axis.
        start: x at first, shape ``[d]``; all ones if None.
        shapes: Of the tensors that x is cut into; one vector if None.
        seed: Of h and of minibatches.

    Attributes:
        matrix: A.
        shifts: The clients' h, shape ``[M, d]``.
        tensors: x, fp32, by name: ``layer.0.weight`` and so on.
    """

    def __init__(
        self,
        spectrum: Sequence[float],
        rotation: Floats | None = None,
        noise: float | Floats = 0.0,
        clients: int = 1,
        heterogeneity: float = 0.0,
        start: Floats | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
        seed: int = 0,
    ) -> None:
        d = len(spectrum)
        shapes = [(d,)] if shapes is None else shapes
        if sum(math.prod(shape) for shape in shapes) != d:
            raise ValueError(f"shapes={list(shapes)} must have {d} elements in all, one for each eigenvalue")
        q = np.eye(d) if rotation is None else np.asarray(rotation, dtype=np.float64)
        self.matrix: Floats = (q * np.asarray(spectrum, dtype=np.float64)) @ q.T
        covariance = np.asarray(noise, dtype=np.float64)
        self.noise: Floats = covariance if covariance.ndim == 2 else np.diag(np.full(d, covariance**2))
        self._root = np.linalg.cholesky(self.noise + 1e-30 * np.eye(d))
        self._random = np.random.default_rng(seed)
        drawn = heterogeneity * self._random.standard_normal((clients, d))
        self.shifts: Floats = drawn - drawn.mean(0)
        self._wide = torch.from_numpy(self.matrix)
        self.tensors: dict[str, Tensor] = {
            f"layer.{i}.weight": torch.nn.Parameter(torch.empty(*shape)) for i, shape in enumerate(shapes)
        }
        self.reset(np.ones(d) if start is None else start)

    @property
    def elements(self) -> int:
        """d."""
        return len(self.matrix)

    def x(self) -> Floats:
        """The point, shape ``[d]``."""
        return torch.cat([t.detach().reshape(-1) for t in self.tensors.values()]).double().numpy()

    def reset(self, x: Floats) -> None:
        """Sets the point."""
        tensors = list(self.tensors.values())
        parts = torch.from_numpy(x).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.data.copy_(part.view_as(tensor))

    def whole(self) -> float:
        """The whole loss at the point."""
        x = self.x()
        return float(0.5 * x @ self.matrix @ x)

    def minibatch(self, client: int) -> Minibatch:
        """A new minibatch of a client."""
        linear = torch.from_numpy(self.shifts[client] + self._root @ self._random.standard_normal(self.elements))

        def point() -> Tensor:
            return torch.cat([t.reshape(-1) for t in self.tensors.values()]).double()

        def loss() -> Tensor:
            x = point()
            return (0.5 * x @ self._wide @ x + linear @ x).float()

        return Minibatch(loss, outputs=lambda: Outputs((self._factor().mT @ point())[None], None, "squares"))

    def _factor(self) -> Tensor:
        """A square root of A, for its being a Gauss-Newton matrix too."""
        return torch.linalg.cholesky(self._wide)

    def gradient(self, minibatch: Minibatch) -> Floats:
        """A minibatch's gradient at the point, shape ``[d]``."""
        found = torch.autograd.grad(minibatch.loss(), list(self.tensors.values()))
        return torch.cat([part.reshape(-1) for part in found]).double().numpy()

    def clients(self, minibatches: int) -> list[Client]:
        """All clients, with so many minibatches each."""
        return [Client([self.minibatch(i) for _ in range(minibatches)]) for i in range(len(self.shifts))]

    # What is known

    def forms(self, k: Floats) -> Form:
        """Gradient and noise in a K, shape ``[d, d]``."""
        g = self.matrix @ self.x()
        differing = float(np.einsum("id,de,ie->", self.shifts, k, self.shifts)) / len(self.shifts)
        return Form(float(g @ k @ g), float((k * self.noise).sum()), differing)

    def moments(self, facts: Facts, hessian: Floats | None = None) -> Moments:
        """What theory takes of the Hessian and an H, shape ``[d]``; mu and other distributions than normal left out."""
        inverse = np.eye(self.elements) if hessian is None else np.diag(1.0 / hessian)
        curved = self.forms(inverse @ self.matrix @ inverse)
        return Moments(facts, self.forms(inverse), curved, float((inverse * self.matrix).sum()))

    def expected_losses(self, facts: Facts, lr: float, rounds: int, hessian: Floats | None = None) -> Floats:
        """The whole loss to expect after each round from the point, the first being now, shape ``[rounds + 1]``.

        Args:
            facts: What a round does.
            lr: Its rate.
            rounds: How many.
            hessian: H, the same in all rounds, shape ``[d]``; none if None.
        """
        b = 1.0 / np.sqrt(np.ones(self.elements) if hessian is None else hessian)
        a = b[:, None] * self.matrix * b
        noise, differing = (b[:, None] * s * b for s in (self.noise, self.shifts.T @ self.shifts / len(self.shifts)))
        m, population = facts.cohort, facts.population
        of_mean = (noise + differing * ((population - m) / max(population - 1, 1))) / m
        moment, identity = np.outer(self.x() / b, self.x() / b), np.eye(self.elements)
        losses = [0.5 * float((a * moment).sum())]
        for _ in range(rounds):
            signal = a @ moment @ a
            mean, p = signal + of_mean, facts.num_directions
            if facts.directions == "shared":
                squared = (np.trace(mean) * identity + (p + 1) * mean) / p
            else:
                slot = signal + noise + differing
                squared = mean + (np.trace(slot) * identity + slot) / (m * p)
            moment = moment - lr * (a @ moment + moment @ a) + lr**2 * squared
            losses.append(0.5 * float((a * moment).sum()))
        return np.array(losses)
