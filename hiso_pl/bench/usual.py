r"""The usual way of zeroth-order code, to compare with: noise added to the weights in place and taken off again.

For each client and direction the generator is seeded anew, every parameter gets a fresh ``torch.randn``, the model
computes the logits of all positions, and the same noise, drawn once more, is taken off. The update draws every
direction another time:

.. math:: x \mathrel{+}= \mu H^{-1/2} u, \quad f(x), \quad x \mathrel{-}= \mu H^{-1/2} u; \qquad
    D = \tfrac1P \textstyle\sum_p \hat g_p H^{-1/2} u_p, \quad x \mathrel{-}= \eta D, \quad
    H \leftarrow (1-\nu) H + \nu (D^2 + \epsilon)

So do MeZO (arXiv 2305.17333) and, where it saves memory, the published simulation of DeComFL. The weights drift by
this, and the numbers are not this package's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hiso_pl.models import CausalLM
from hiso_pl.models.task_model import at_positions
from hiso_pl.zeroth_order.kernels import Decay
from hiso_pl.zeroth_order.method import Method


@dataclass
class Noise:
    """Directions by ``torch.randn``, drawn again from their seed whenever they are needed.

    Args:
        parameters: The trainable parameters.
        hessians: H of each: elementwise, of one element, or none.
        seed: Seed of the first direction; the others follow.
    """

    parameters: Sequence[Tensor]
    hessians: Sequence[Tensor | None]
    seed: int

    def __post_init__(self) -> None:
        """Makes the generator, where the parameters live."""
        self._generator = torch.Generator(self.parameters[0].device)

    def draw(self, index: int) -> Iterator[Tensor]:
        """The direction of a number, one tensor after the other."""
        self._generator.manual_seed(self.seed + index)
        for parameter, hessian in zip(self.parameters, self.hessians, strict=True):
            z = torch.randn(parameter.shape, generator=self._generator, device=parameter.device, dtype=parameter.dtype)
            yield z if hessian is None else z.div_(torch.sqrt(hessian))

    def add(self, index: int, scale: float) -> None:
        """Adds a direction to the parameters in place."""
        for parameter, z in zip(self.parameters, self.draw(index), strict=True):
            parameter.add_(z, alpha=scale)

    def update(self, scalars: Sequence[Sequence[float]], lr: float, decay: Decay | None) -> None:
        """Moves the parameters and an elementwise H by scalars of shape ``[tau, P]``."""
        for k, row in enumerate(scalars):
            gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
            for p, g in enumerate(row):
                for gradient, z in zip(gradients, self.draw(k * len(row) + p), strict=True):
                    gradient.add_(z, alpha=g / len(row))
            for parameter, gradient, hessian in zip(self.parameters, gradients, self.hessians, strict=True):
                parameter.sub_(gradient, alpha=lr)
                if k == len(scalars) - 1 and decay is not None and hessian is not None:
                    hessian.mul_(1.0 - decay.nu).add_(gradient.square_().add_(decay.eps), alpha=decay.nu)


@torch.no_grad()
def published_update(
    x: Tensor, hessian: Tensor | None, scalars: Sequence[Sequence[float]], seed: int, lr: float, decay: Decay | None
) -> Tensor | None:
    """The update of one flat tensor by the operations of the published simulation of HiSo.

    It draws every direction twice, once for x and once more for H, and divides into new memory each time. (It advances
    H for every local step, and H moved already for the next one.)

    Args:
        x: The parameters, moved in place.
        hessian: H, elementwise, of one element, or none.
        scalars: Scalars of shape ``[tau, P]``.
        seed: Seed of the first direction.
        lr: Learning rate.
        decay: How H advances; None leaves it as it is.

    Returns:
        The new H.
    """

    def gradient(k: int, row: Sequence[float]) -> Tensor:
        total = None
        for p, g in enumerate(row):
            generator = torch.Generator(x.device).manual_seed(seed + k * len(row) + p)
            z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            part = (z if hessian is None else z / torch.sqrt(hessian)).mul_(g / len(row))
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    for k, row in enumerate(scalars):
        x.sub_(gradient(k, row), alpha=lr)
    if hessian is not None and decay is not None:
        for k, row in enumerate(scalars):
            hessian = (1.0 - decay.nu) * hessian + decay.nu * gradient(k, row).square_()
    return hessian


@dataclass
class UsualWay:
    """Rounds of the usual way; below fp32 by autocast, as is usual where the masters are fp32."""

    network: CausalLM
    noise: Noise
    method: Method

    @torch.no_grad()
    def round(self, batches: Sequence[Sequence[dict[str, Tensor]]]) -> None:
        """One round of the clients hosted here, given their minibatches, by client and local step."""
        scalars, own = [], self.method.directions == "client"
        drawn = self.method.drawn(len(batches), self.method.num_directions)
        for i, client in enumerate(batches):
            rows: list[list[float]] = []
            first = i * self.method.num_directions if own else 0
            for k, batch in enumerate(client):
                rows.append(self._scalars(k * drawn + first, batch))
                if k + 1 < len(client):
                    self._move(k * drawn + first, rows[k], -self.method.lr)
            for k, row in enumerate(rows[:-1]):  # back to where the next client starts
                self._move(k * drawn + first, row, self.method.lr)
            scalars.append(rows)
        together = np.concatenate(scalars, axis=1) if own else np.mean(scalars, axis=0)
        self.noise.update(together.tolist(), self.method.lr, self.method.preconditioner.decay)

    def _scalars(self, first: int, batch: dict[str, Tensor]) -> list[float]:
        found, mu, central = [], self.method.mu, self.method.difference == "central"
        start = 0.0 if central else self._loss(batch)
        for index in range(first, first + self.method.num_directions):
            self.noise.add(index, mu)
            ahead = self._loss(batch)
            if central:
                self.noise.add(index, -2.0 * mu)
                behind = self._loss(batch)
                self.noise.add(index, mu)
                found.append((ahead - behind) / (2.0 * mu))
            else:
                self.noise.add(index, -mu)
                found.append((ahead - start) / mu)
        return found

    def _move(self, first: int, scalars: list[float], rate: float) -> None:
        for p, g in enumerate(scalars):
            self.noise.add(first + p, rate * g / len(scalars))

    def _loss(self, batch: dict[str, Tensor]) -> float:
        dtype = self.method.dtype
        with torch.autocast(batch["input_ids"].device.type, dtype, enabled=dtype != torch.float32):
            logits = self.network.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).logits
        answers = at_positions(logits, batch["answer_position"])[:, batch["label_words"]]
        return F.cross_entropy(answers.float(), batch["label"]).item()


class Kept:
    """Copies of tensors on the host, to put them back to the bit after something that moves them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._copies = [tensor.detach().to("cpu", copy=True) for tensor in tensors]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The tensors are as they were kept, after the block."""
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, copy in zip(self._tensors, self._copies, strict=True):
                    tensor.copy_(copy)
