"""A round's work before the update: which losses this process evaluates, and what goes through the exchange."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.zeroth_order.interfaces import Exchange, Slots
from hiso_pl.zeroth_order.losses import Loss, no_examples
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.plan import Plan, directional_weights
from hiso_pl.zeroth_order.points import NO_DRIFT
from hiso_pl.zeroth_order.probe import Group, Probe
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.transform import Departure, State

Scalars = NDArray[np.float32]


class Work:
    """Evaluates the slots of a round that are, wholly or in part, this process's own.

    Args:
        probe: What evaluates losses.
        plan: What to probe.
        losses: One for each own slot.
        slots: Which slots these are.
        exchange: What carries rows to all processes.
        method: What a client does to its scalars before they leave it: its privacy and transform.
        before: The record of the round before.
        state: The transform's state.

    Attributes:
        exchange_s: Seconds spent in the exchange.
    """

    def __init__(
        self,
        probe: Probe,
        plan: Plan,
        losses: Sequence[Loss],
        slots: Slots,
        exchange: Exchange,
        method: Method,
        before: RoundRecord | None,
        state: State,
    ) -> None:
        self._probe = probe
        self._plan = plan
        self._losses = losses
        self._slots = slots
        self._exchange = exchange
        self._privacy, self._transform = method.privacy, method.transform
        # a copy: the record is what a checkpoint holds
        self._before = None if before is None else replace(before, scalars=before.scalars.copy())
        self._state = state
        self._per_example, self._withheld = method.per_example, method.withholds_losses
        self.exchange_s = 0.0

    def alone(self) -> tuple[Scalars, Scalars]:
        """Every slot is one process's: its scalars travel, and beside them, for the log, the loss it started from.

        The loss stays where privacy or transform withhold it.

        Returns:
            Scalars of every slot of the cohort, shape ``[m, tau, P]``, and their first losses, shape ``[m]``.

        Raises:
            ValueError: If examples are private each for itself, and nobody says how many a minibatch is to have.
        """
        plan, own = self._plan, len(self._losses)
        first = np.full(own, np.nan, dtype=np.float32)
        g = self._released() if self._per_example else self._evaluated(first)
        for i, slot in enumerate(self._slots.own):
            if self._privacy is not None and not self._per_example:
                g[i] = self._privacy.leaving(g[i])
            g[i] = self._transformed(g[i], slot)
        width = plan.local_steps * plan.num_directions
        rows = g.reshape(own, width)
        sent = self._send(rows if self._withheld else np.concatenate([rows, first[:, None]], axis=1))
        first = np.full(len(sent), np.nan, dtype=np.float32) if self._withheld else sent[:, width]
        return sent[:, :width].reshape(-1, plan.local_steps, plan.num_directions), first

    def _evaluated(self, first: Scalars) -> Scalars:
        """The own slots' scalars, shape ``[own, tau, P]``; ``first`` is filled with the losses they start from.

        At k = 0 all slots stand at the same x, so each point along shared directions is written once, and every
        slot evaluated there. Later each slot stands at its own local point, which is never stored: every probe is one
        pass from x. With directions of their own slots have no displaced point in common.
        """
        plan, own = self._plan, len(self._losses)
        g = np.full((own, plan.local_steps, plan.num_directions), np.nan, dtype=np.float32)
        every = range(len(plan.offsets))
        for k in range(plan.local_steps):
            places: list[slice] = []
            groups: list[Group] = []
            for some in self._at_the_same_points(k):
                i = some.start
                drift = directional_weights(g[i, :k], plan.num_directions) if k else NO_DRIFT
                if np.isfinite(drift).all():  # else the slot is out of the round whatever follows
                    places.append(some)
                    groups.append(Group(self._losses[some], drift, plan.of(self._slots.own[i])))
            for some, found in zip(places, self._probe.together(groups, k, every), strict=True):
                values = np.concatenate(found)
                g[some, k] = plan.scalars(values)
                if k == 0:
                    first[some] = plan.first_losses(values)
        return g

    def _released(self) -> Scalars:
        """What the own slots release of their examples' scalars, shape ``[own, 1, P]``."""
        plan, slots, privacy = self._plan, self._slots, self._privacy
        assert privacy is not None
        if len(slots.expected) != slots.size or not all(size > 0.0 for size in slots.expected):
            raise ValueError(
                f"privacy={privacy!r} divides by how many examples a minibatch is expected to have: "
                f"step(slots=...) needs expected, a positive number for each of {slots.size} slots"
            )
        found = [np.empty((0, plan.num_directions), dtype=np.float32)] * len(self._losses)
        places: list[list[int]] = []
        groups: list[Group] = []
        for some in self._at_the_same_points(0):
            chosen = [i for i in range(some.start, some.stop) if self._losses[i] is not no_examples]
            if chosen:
                places.append(chosen)
                groups.append(Group([self._losses[i] for i in chosen], NO_DRIFT, plan.of(slots.own[some.start])))
        for chosen, values in zip(places, self._probe.together(groups, 0, range(len(plan.offsets))), strict=True):
            for i, value in zip(chosen, values, strict=True):
                found[i] = plan.scalars(value)
        rows = [privacy.leaving(g, slots.expected[slot]) for g, slot in zip(found, slots.own, strict=True)]
        return np.stack(rows) if rows else np.empty((0, 1, plan.num_directions), dtype=np.float32)

    def shared(self) -> tuple[Scalars, Scalars]:
        """Processes share the probes of a slot: losses travel, and every process forms all scalars from them.

        Later local steps depend on the scalars of earlier ones, so each takes an exchange.

        Returns:
            As :meth:`alone`.

        Raises:
            ValueError: If privacy or transform withhold losses.
        """
        if self._withheld:
            what = f"transform={self._transform!r}" if self._privacy is None else f"privacy={self._privacy!r}"
            raise ValueError(
                f"{what} withholds losses, which travel where processes share a slot's probes: "
                "data.spare_ranks must be idle"
            )
        plan, points = self._plan, len(self._plan.offsets)
        size = self._probe.pass_size(points)
        g = np.full((self._slots.size, plan.local_steps, plan.num_directions), np.nan, dtype=np.float32)
        first = np.full(self._slots.size, np.nan, dtype=np.float32)
        for k in range(plan.local_steps):
            rows = np.zeros((len(self._losses), points), dtype=np.float32)
            for i, (slot, (place, of)) in enumerate(zip(self._slots.own, self._slots.shares, strict=True)):
                # whole forward passes are dealt, where each takes several points
                chosen = [j for j in range(points) if j // size % of == place]
                drift = directional_weights(g[slot, :k], plan.num_directions) if k else NO_DRIFT
                if not np.isfinite(drift).all():
                    rows[i, chosen] = np.nan
                elif chosen:
                    mine = plan.of(slot)
                    rows[i, chosen] = self._probe.losses(self._losses[i : i + 1], k, drift, mine, chosen)[0]
            values = self._send(rows)
            g[:, k] = plan.scalars(values) + np.float32(0.0)  # as the exchange of scalars would: no -0.0
            if k == 0:
                first = plan.first_losses(values)
        for slot in range(self._slots.size):
            g[slot] = self._transformed(g[slot], slot)
        return g, first

    def _at_the_same_points(self, k: int) -> list[slice]:
        """The own slots, by their places here, together where they are probed at the same points."""
        own = len(self._losses)
        if own and k == 0 and self._plan.directions == "shared":
            return [slice(0, own)]
        return [slice(i, i + 1) for i in range(own)]

    def _transformed(self, scalars: Scalars, slot: int) -> Scalars:
        if self._transform is None:
            return scalars
        site = self._plan.sites[0]
        state = {name: value.copy() for name, value in self._state.items()}
        departure = Departure(site.seed, site.round, self._slots.clients[slot], self._before, state)
        return self._transform.leaving(scalars, departure)

    def _send(self, rows: Scalars) -> Scalars:
        started = time.perf_counter()
        every = self._exchange(torch.from_numpy(rows), self._slots).numpy()
        self.exchange_s += time.perf_counter() - started
        return every
