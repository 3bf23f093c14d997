"""What a round decides: of the scalars that all slots sent, the record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hiso_pl.zeroth_order.attack import Scene
from hiso_pl.zeroth_order.interfaces import Slots
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.plan import Plan
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.transform import Departure, State

Sent = NDArray[np.float32]


def attacked(
    method: Method, plan: Plan, slots: Slots, sent: Sent, before: RoundRecord | None, state: State
) -> tuple[Sent, tuple[int, ...]]:
    """What is aggregated, where a simulated attack speaks for hostile clients, and which slots are theirs.

    Where the transform is a format, what they send goes through it, as it could not be told otherwise.

    Args:
        method: The method.
        plan: What was probed.
        slots: Whose slots they are.
        sent: What every slot sent, shape ``[m, tau, P]``; not finite where a slot is not present.
        before: The record of the round before.
        state: The transform's state.
    """
    if method.attack is None:
        return sent, ()
    if before is not None:  # a checkpoint holds the record itself
        before = replace(before, scalars=before.scalars.copy())
    site, population = plan.sites[0], slots.population or 1 + max(slots.clients)
    scene = Scene(site.seed, site.round, slots.clients, population, before, plan.directions == "client")
    honest = sent
    sent, hostile = method.attack.attacked(honest, _present(honest), scene)
    slots_hostile = tuple(np.flatnonzero(hostile).tolist())
    if method.transform is not None and method.transform.is_format:
        for slot in slots_hostile:
            if not np.array_equal(sent[slot], honest[slot]):  # what has been through it is what it can carry
                known = {name: value.copy() for name, value in state.items()}
                departure = Departure(site.seed, site.round, slots.clients[slot], before, known)
                sent[slot] = method.transform.leaving(sent[slot], departure)
    return sent, slots_hostile


def aggregated(method: Method, plan: Plan, slots: Slots, sent: Sent, lr: float) -> RoundRecord:
    """The record that slots come to; an empty one where too few are present, or finite ones combine to none.

    Args:
        method: The method.
        plan: What was probed.
        slots: Whose slots they are.
        sent: What every slot sent, shape ``[m, tau, P]``; not finite where a slot is not present.
        lr: Learning rate of the round.
    """
    aggregation, present = method.aggregation, _present(sent)
    if present.sum() < aggregation.least_present(slots.size):
        present[:] = False
    nothing = np.zeros((plan.local_steps, method.drawn(slots.size, plan.num_directions)), dtype=np.float32)
    scalars = nothing
    if present.any():
        told = None if method.private else slots.weights
        weights = None if told is None else np.array(told, dtype=np.float64)
        combine = aggregation.combined if plan.directions == "shared" else aggregation.side_by_side
        scalars = combine(sent, present, weights)
        if not np.isfinite(scalars).all():  # finite scalars so large that their combination is not
            present[:] = False
            scalars = nothing
    dropped = tuple(int(s) for s in np.flatnonzero(~present))
    return RoundRecord(plan.sites[0].round, lr, plan.mu, scalars, slots.size, dropped)


def _present(sent: Sent) -> NDArray[np.bool_]:
    """The slots all of whose scalars are finite."""
    return np.asarray(np.isfinite(sent).all(axis=(1, 2)))
