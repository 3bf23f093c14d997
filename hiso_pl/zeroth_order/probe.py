r"""Probes: losses at displaced points, with the base weights untouched to the bit.

A displaced point is written to scratch memory of the parameters' size, and the parameters' ``data`` point there while
the loss runs. Nothing is ever added to the weights and taken off again, so nothing drifts.

.. math::

    g_{k,p} = \frac{f(x + \mu z) - f(x)}{\mu} \quad\text{or}\quad \frac{f(x + \mu z) - f(x - \mu z)}{2\mu}

Both are evaluated in float64 from fp32 losses and rounded to fp32 once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import Kernels, Offset
from hiso_pl.zeroth_order.preconditioner import Preconditioner
from hiso_pl.zeroth_order.streams import Site

Loss = Callable[[int], Tensor]
"""A slot's loss: the local step k in, the scalar fp32 loss on that step's minibatch out."""

Difference = Literal["forward", "central"]

_NO_DRIFT = np.empty((0, 1), dtype=np.float32)


def directional_weights(scalars: NDArray[np.float32], directions: int) -> NDArray[np.float32]:
    """w = fp32(float64(g) / P), elementwise."""
    return (scalars.astype(np.float64) / directions).astype(np.float32)


class Plan(NamedTuple):
    """What a round's probes are.

    Attributes:
        sites: Each tensor's stream in this round.
        mu: Size of the displacements.
        lr: Learning rate of the local moves.
        directions: P.
        local_steps: tau.
        difference: ``forward`` or ``central``.
    """

    sites: list[Site]
    mu: float
    lr: float
    directions: int
    local_steps: int
    difference: Difference

    @property
    def forwards(self) -> int:
        """Forwards of one slot."""
        return self.local_steps * (self.directions + 1 if self.difference == "forward" else 2 * self.directions)


class Probe:
    """Evaluates losses around a point.

    Args:
        parameters: The trainable parameters, in tensor order.
        kernels: What writes the displaced points.
        preconditioner: How directions are preconditioned.
    """

    def __init__(self, parameters: Sequence[Tensor], kernels: Kernels, preconditioner: Preconditioner) -> None:
        self._parameters = parameters
        self._kernels = kernels
        self._preconditioner = preconditioner
        # one more copy of the trainable parameters, kept: strides as theirs, so that a probe runs the same forward
        self._scratch = [torch.empty_like(p, requires_grad=False) for p in parameters]

    def scalars(
        self, losses: Sequence[Loss], plan: Plan, hessians: Sequence[Tensor | None]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The scalars of every slot hosted here.

        At k = 0 all slots stand at the same x, so each displaced point is written once and every slot evaluated there.
        Later each slot stands at its own local point, which is never stored: every probe is one pass from x.

        Args:
            losses: One for each slot.
            plan: What to probe.
            hessians: H of the round, for each tensor.

        Returns:
            Scalars g, shape ``[slots, tau, P]``, and the loss at the start of the round, shape ``[slots]``.

        Raises:
            ValueError: If a loss is not one fp32 number.
        """
        g = np.full((len(losses), plan.local_steps, plan.directions), np.nan, dtype=np.float32)
        start = np.full(len(losses), np.nan, dtype=np.float32)
        everyone = list(range(len(losses)))
        if everyone:
            g[:, 0], start[:] = self._step(losses, everyone, 0, _NO_DRIFT, plan, hessians)
        for k in range(1, plan.local_steps):
            for i in everyone:
                drift = directional_weights(g[i, :k], plan.directions)
                if np.isfinite(drift).all():  # else the slot is out of the round whatever follows
                    g[i, k], _ = self._step(losses, [i], k, drift, plan, hessians)
        return g, start

    def _step(
        self,
        losses: Sequence[Loss],
        slots: list[int],
        k: int,
        drift: NDArray[np.float32],
        plan: Plan,
        hessians: Sequence[Tensor | None],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scalars ``[slots, P]`` and first losses ``[slots]`` of one local step."""

        def evaluate(offset: Offset | None) -> list[Tensor]:
            with self._displaced(k, offset, drift, plan, hessians), torch.inference_mode():
                return [_checked(losses[i](k)) for i in slots]

        points: list[Offset | None] = [None] if plan.difference == "forward" else []
        for p in range(plan.directions):
            points.append(Offset(p, plan.mu))
            if plan.difference == "central":
                points.append(Offset(p, -plan.mu))
        # one transfer to the host for all losses of the step
        rows = torch.stack([torch.stack(evaluate(point)) for point in points])
        values = rows.cpu().numpy().astype(np.float64)  # [points, slots]
        with np.errstate(all="ignore"):
            if plan.difference == "forward":
                g = (values[1:] - values[0]) / plan.mu
                first = values[0]
            else:
                g = (values[0::2] - values[1::2]) / (2.0 * plan.mu)
                first = values.mean(axis=0)
            return g.T.astype(np.float32), first.astype(np.float32)

    @contextmanager
    def _displaced(
        self,
        k: int,
        offset: Offset | None,
        drift: NDArray[np.float32],
        plan: Plan,
        hessians: Sequence[Tensor | None],
    ) -> Iterator[None]:
        """The parameters stand at a displaced point inside the block, and at x again, untouched, after it."""
        if offset is None and len(drift) == 0:
            yield
            return
        for out, base, hessian, site in zip(self._scratch, self._parameters, hessians, plan.sites, strict=True):
            if out.numel():
                self._write(out, base.detach(), hessian, site, k, offset, drift, plan.lr)
        bases = [p.data for p in self._parameters]
        try:
            for p, out in zip(self._parameters, self._scratch, strict=True):
                p.data = out
            yield
        finally:
            for p, base in zip(self._parameters, bases, strict=True):
                p.data = base

    def _write(
        self,
        out: Tensor,
        base: Tensor,
        hessian: Tensor | None,
        site: Site,
        k: int,
        offset: Offset | None,
        drift: NDArray[np.float32],
        lr: float,
    ) -> None:
        if not self._preconditioner.structured:
            self._kernels.displace(out, base, hessian, site, k, offset, drift, lr)
            return
        zeros = torch.zeros_like(base)
        self._kernels.displace(out, zeros, None, site, k, offset, drift, lr)
        out.copy_(base + self._preconditioner.divide(out, hessian))


def _checked(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.dtype != torch.float32:
        what = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"a loss must be one float32 number, computed from float32 logits; got {what}")
    return loss.detach().reshape(())
