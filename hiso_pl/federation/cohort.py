"""Cohorts: which clients take part in a round, and which rank evaluates each of their slots."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from hiso_pl.zeroth_order.philox import Draws, Purpose


def sample_cohort(seed: int, round: int, clients: int, size: int) -> tuple[int, ...]:
    """The clients of a round, ascending; a client's place in the result is its slot.

    Every subset of ``size`` clients is equally likely, and rounds are independent.

    Args:
        seed: The run's seed.
        round: The round r.
        clients: Number of clients M.
        size: Clients in a cohort, m.

    Raises:
        ValueError: If ``size`` is not in ``[1, clients]``.
    """
    if not 1 <= size <= clients:
        raise ValueError(f"cohort={size} must be in [1, clients={clients}]")
    return tuple(Draws(seed, Purpose.COHORT, round=round).sample(clients, size).tolist())


def resolve_hosting(hosting: Literal["auto", "fixed", "dealt"], clients: int, world: int) -> Literal["fixed", "dealt"]:
    """How clients live on ranks: ``auto`` is ``fixed`` where every client can be a rank, else ``dealt``.

    Args:
        hosting: What the configuration says.
        clients: Number of clients M.
        world: Number of ranks.

    Raises:
        ValueError: If there are more ranks than clients, or ``fixed`` is asked for and the two differ.
    """
    if hosting not in ("auto", "fixed", "dealt"):
        raise ValueError(f"hosting={hosting!r} must be one of auto, fixed, dealt")
    if world > clients:
        raise ValueError(f"{world} ranks but only {clients} clients: launch at most {clients} ranks or raise clients")
    if hosting == "fixed" and world != clients:
        raise ValueError(
            f"hosting=fixed needs a rank for every client, but there are {world} ranks and {clients} clients: "
            f"launch {clients} ranks or set hosting to auto"
        )
    if hosting == "auto":
        return "fixed" if world == clients else "dealt"
    return hosting


def own_slots(
    hosting: Literal["fixed", "dealt"],
    cohort: Sequence[int],
    round: int,
    rank: int,
    world: int,
    absent: Collection[int] = (),
) -> tuple[int, ...]:
    """The slots this rank evaluates in a round, ascending.

    Over all ranks every slot occurs once whose client answers. Fixed: the slot of the client that is this rank, if it
    takes part. Dealt: the s-th of them goes to rank ``(s + round) % world``, so that loads differ by at most one, and
    the rank that carries the odd slot changes from round to round.

    Args:
        hosting: The resolved hosting.
        cohort: The clients of the round, by slot.
        round: The round r.
        rank: This rank.
        world: Number of ranks.
        absent: Slots whose client does not answer.
    """
    present = [slot for slot in range(len(cohort)) if slot not in absent]
    if hosting == "fixed":
        return tuple(slot for slot in present if cohort[slot] == rank)
    return tuple(slot for s, slot in enumerate(present) if (s + round) % world == rank)


def shared_slot(cohort: int, round: int, rank: int, world: int) -> tuple[int, tuple[int, int]]:
    """The slot whose probes this rank shares with others, where there are more ranks than slots.

    Rank ``(rank + round) % world`` of a round takes slot ``.. % cohort``, so that every slot has as many ranks as any
    other or one less, and those with more change from round to round.

    Args:
        cohort: Number of slots m.
        round: The round r.
        rank: This rank.
        world: Number of ranks.

    Returns:
        The slot, and this rank's place among the ranks that share it and their number.
    """
    turn = (rank + round) % world
    slot = turn % cohort
    return slot, (turn // cohort, -(-(world - slot) // cohort))
