"""DeComFL's preconditioner: none."""

from __future__ import annotations

from torch import Tensor

from hiso_pl.zeroth_order.preconditioner.base import Preconditioner
from hiso_pl.zeroth_order.tensors import Target


class Identity(Preconditioner):
    """H held at one, and no tensor stored for it: DeComFL (arXiv 2405.15861)."""

    def initial(self, parameter: Tensor, target: Target) -> Tensor | None:
        """Nothing."""
        return None
