"""From one record to the next: the only code that moves x and H."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from hiso_pl.zeroth_order import transform_state
from hiso_pl.zeroth_order.digest import StateTensor, in_order
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.outstanding import Given, Outstanding
from hiso_pl.zeroth_order.plan import directional_weights
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.state import RoundState
from hiso_pl.zeroth_order.tensors import NotFiniteError, check_finite, left_at
from hiso_pl.zeroth_order.update import Update


class AppliedRecords(RoundState):
    """x, H and a rule's state after the records applied so far, with the round that comes next.

    Args:
        params: Parameters or (name, parameter) pairs, fp32, in the order that fixes their streams.
        method: What a round computes.
        seed: The 64-bit seed of the directions.
        deferred: Whether an update may wait until its tensors are next probed. Who reads them otherwise calls
            :meth:`complete` before; what is told of the state here is always complete. It changes no bit. Where H of
            several tensors depend on each other, or a preconditioner is structured, none waits.
        options: What else :class:`~.state.RoundState` takes.

    Raises:
        ValueError: If a parameter is not fp32, there is more than one group of them, or the method cannot be had of
            tensors that are held together.
    """

    def __init__(
        self, params: Iterable[Any], method: Method, seed: int, deferred: bool = False, **options: Any
    ) -> None:
        self._waits = deferred and method.preconditioner.tensorwise
        self._outstanding: Outstanding | None = None
        self._moving_s = 0.0
        super().__init__(params, method, seed, **options)

    @torch.no_grad()
    def apply(self, record: RoundRecord) -> None:
        """Moves x and H from one round to the next: a function of x, H and the record alone.

        This is the only code that changes them. Training, replay and catching up all call it.

        Args:
            record: The record of the round that comes next.

        Raises:
            ValueError: If the record is of another round.
            RuntimeError: If an earlier update was broken off, so that the state is of no round.
            NotFiniteError: If the update leads to a state that is not finite, or to an H that no direction can be
                divided by; then it is of no round.
        """
        self.complete()
        self._check_intact()
        if record.round != self.round:
            raise ValueError(f"record of round {record.round} given, round {self.round} comes next")
        self._intact = False  # until the last tensor is done: a state in between is never written
        if not record.empty:
            self._outstanding = self._update(record)
            self._advance_transform(record)
            if not self._waits:
                self._move_all()
            self._group["applied"] += 1
        self.record = record
        self._group["round"] = record.round + 1
        if not record.empty:
            self._freezer.moved()
            try:
                self._frozen()
            except ValueError as error:
                self._group["round"] = record.round
                raise NotFiniteError(left_at(record.round, str(error), record.told()), record.round) from error
        self._intact = True

    def _advance_transform(self, record: RoundRecord) -> None:
        first, averaged = self.parameters[0], record.cohort - len(record.dropped)
        own = self.method.directions == "client"
        transform_state.advance(self.method.transform, self.state[first], record, 1 if own else averaged)
        if self._place is not None:  # else it is looked at with all that is kept beside the first tensor
            kept = [kind for kind in self.state[first] if kind.startswith(transform_state.PREFIX)]
            states = [StateTensor(self.names[0], kind, self.state[first][kind]) for kind in kept]
            check_finite(states, record.round, record.told())

    def _update(self, record: RoundRecord) -> Outstanding:
        states, targets, frozen = self._rule_state(self.parameters[0]), self._targets(), self._frozen()
        step = Update(
            kernels=self._kernels(),
            preconditioner=self.method.preconditioner,
            rule=self.method.update_rule,
            weights=frozen.carried(directional_weights(record.scalars, record.scalars.shape[1])),
            lr=self.method.update_rule.rate_of(record, states, targets[0]),
            held=self.held,
        )
        return Outstanding(record, step, frozen, self._sites(record.round), targets, set(self._here))

    @torch.no_grad()
    def complete(self) -> None:
        """Does what an update has left to be done, and has it where the tensors live."""
        if self._outstanding is not None:
            self._check_intact()
            self._move_all()
        elif self._place is not None:
            self._place.finish()

    def _move_all(self) -> None:
        if self._place is None or self._outstanding is None:
            self._move(self._here)
            return
        for _ in self.brought([[t] for t in sorted(self._outstanding.left)]):  # no more is to be at hand
            pass
        self._place.finish()

    def brought(
        self, parts: Sequence[Collection[int]], beside: Sequence[Sequence[Tensor]] | None = None
    ) -> Iterator[None]:
        """See :class:`~.workplace.Brings`."""
        steps: Iterable[None] = repeat(None, len(parts))
        if self._place is not None:
            kept = [[value for given in self._given(part).values() for value in given.tensors()] for part in parts]
            others = [()] * len(parts) if beside is None else beside
            steps = self._place.through([[*some, *more] for some, more in zip(kept, others, strict=True)])
        for part, _ in zip(parts, steps, strict=True):
            self._move(part)
            yield

    def _given(self, positions: Iterable[int]) -> dict[int, Given]:
        """Tensors with what is kept beside them, where they live."""
        parameters, owners, state = self.parameters, self._owners, self.state
        return {
            t: Given(parameters[t].data, state[parameters[owners[t]]].get("hessian"), self._rule_state(parameters[t]))
            for t in positions
        }

    def _move(self, positions: Iterable[int]) -> None:
        """Does the update of those of some tensors that have not moved yet, and looks at what came of it.

        Raises:
            NotFiniteError: If that is not finite; then the state is of no round.
        """
        update = self._outstanding
        if update is None:
            return
        started, place, preconditioner = time.perf_counter(), self._place, self.method.preconditioner
        some = self._given(sorted(update.left.intersection(positions)))
        if update.left and not some:
            return
        before, self._intact = self._intact, False
        next_round, self._group["round"] = self.round, update.record.round
        found = some if place is None else {t: given.at(place.at_hand) for t, given in some.items()}
        update.move(found)
        if place is not None:
            place.moved(value for given in some.values() for value in given.tensors())
        if not update.left:
            self._outstanding = None
            if preconditioner.uses_squares:
                if place is not None:
                    place.finish()  # H as it was has followed, before it is another
                update.end(self._hessians)
                found = some
        if found is some:
            states = self._tensors(list(some))
        else:
            names, given = [self.names[t] for t in some], list(found.values())
            states = in_order(names, [one.x for one in given], [one.kept() for one in given])
        check_finite(states, update.record.round, update.record.told(), preconditioner.structured)
        self._group["round"], self._intact = next_round, before
        self._moving_s += time.perf_counter() - started

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :class:`~.state.RoundState`; of an update that has not been done nothing is left."""
        self._outstanding = None
        self.complete()
        super().load_state_dict(state_dict)
