"""What a round of differences moves: x and what the method keeps beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hiso_pl.first_order.differences import Span
from hiso_pl.first_order.method import DifferenceMethod
from hiso_pl.zeroth_order.digest import StateTensor, in_order
from hiso_pl.zeroth_order.options import check_initial
from hiso_pl.zeroth_order.saved_state import check_group, check_tensors
from hiso_pl.zeroth_order.tensors import check_finite
from hiso_pl.zeroth_order.trained import Trained


class ServedDifferences(Trained):
    """x and what is kept beside it after the rounds so far, with the round that comes next.

    Args:
        params: Parameters or (name, parameter) pairs, fp32.
        method: What a round computes.
        seed: The 64-bit seed of what clients draw.

    Raises:
        ValueError: If a parameter is not fp32, or the method keeps what cannot be kept.
    """

    def __init__(self, params: Iterable[Any], method: DifferenceMethod, seed: int) -> None:
        super().__init__(params, method.lr, seed)
        self.method = method
        for name, parameter in zip(self.names, self.parameters, strict=True):
            kept = method.initial(parameter)
            check_initial(kept, parameter, name, f"method={method!r}", own_shape=False)
            if any(value.shape != parameter.shape for value in kept.values()) or kept.keys() & {"x", "hessian"}:
                raise ValueError(f"method={method!r}: initial() must give {name!r} tensors of its shape, not called x")
            self.state[parameter].update({key: value.contiguous() for key, value in kept.items()})

    def tensors(self) -> list[StateTensor]:
        """x and what is kept beside it, in the order that digests and checksums have."""
        return in_order(self.names, self.parameters, [self.state[p] for p in self.parameters])

    @torch.no_grad()
    def _apply(self, means: Iterable[tuple[list[Span], Tensor]], lr: float, server_lr: float) -> float:
        """Moves x and what is kept beside it to the next round.

        Args:
            means: The mean difference, piece by piece; nothing where nobody is left.
            lr: The clients' learning rate, for what is said.
            server_lr: Learning rate eta.

        Returns:
            The norm of the mean difference.

        Raises:
            NotFiniteError: If it leads to a state that is not finite; then it is of no round.
        """
        self._intact = False  # until the last tensor is done: a state in between is never written
        moved, square = False, 0.0
        flat = [p.detach().reshape(-1) for p in self.parameters]  # a copy where a tensor does not lie row by row
        kept = [{key: value.view(-1) for key, value in self.state[p].items()} for p in self.parameters]
        for spans, delta in means:
            moved = True
            square += float((delta * delta).sum())
            offset = 0
            for tensor, start, stop in spans:
                state = {key: value[start:stop] for key, value in kept[tensor].items()}
                part = delta[offset : offset + stop - start]
                self.method.serve(flat[tensor][start:stop], part, state, server_lr)
                offset += stop - start
        for p, values in zip(self.parameters, flat, strict=True):
            if values.data_ptr() != p.data_ptr():
                p.copy_(values.view(p.shape))
        norm = math.sqrt(square)
        if moved:
            by = f"lr={lr:g}, server_lr={server_lr:g} and a mean difference of norm {norm:g}"
            check_finite(self.tensors(), self.round, by)
            self._group["applied"] += 1
        self._group["round"] += 1
        self._intact = True
        return norm

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The state after the last round.

        Raises:
            RuntimeError: If an update was broken off.
        """
        self._check_intact()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what is kept beside x, the round and the learning rate; the options stay as configured.

        Raises:
            ValueError: If the state is of another model or seed, or holds what cannot be.
        """
        group = check_group(state_dict.get("param_groups"), self._group)
        count, states = len(self.parameters), state_dict.get("state")
        if not isinstance(states, Mapping) or not set(states) <= set(range(count)):
            raise ValueError(f"state of a saved state must be of tensors 0 to {count - 1}")
        for i, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            check_tensors(name, states.get(i, {}), self.state[parameter], positive=False)
        super().load_state_dict({"state": states, "param_groups": [{**group, "params": list(range(count))}]})
        for kept in self.state.values():
            kept.update({key: value.contiguous() for key, value in kept.items()})
        self._intact = True
