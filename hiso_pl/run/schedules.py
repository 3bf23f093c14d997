"""How long schedules are, beside how long the run is: one that follows it, and what is said of one that does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import CosineAnnealingLR

from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.schedule import Schedule

LENGTHS = ("T_max", "T_0", "total_iters", "total_steps", "step_size", "rounds")
"""What schedules call their length."""


class CosineToEnd(CosineAnnealingLR):
    """The learning rate along half a cosine that is as long as the run.

    It is torch's CosineAnnealingLR whose ``T_max`` is the run's number of rounds, to the bit.

    Args:
        optimizer: Whose learning rate it moves.
        rounds: Its length; that of the run if null.
        eta_min: Learning rate at the end.

    Raises:
        ValueError: If ``rounds`` is below 1.
    """

    T_max: Any

    def __init__(self, optimizer: Optimizer, rounds: int | None = None, eta_min: float = 0.0) -> None:
        if rounds is not None and rounds < 1:
            raise ValueError(f"rounds={rounds} must be at least 1")
        super().__init__(optimizer, rounds, eta_min)  # type: ignore[arg-type]

    def over(self, rounds: int) -> None:
        """Takes the length of the run where its own is left open."""
        self.T_max = rounds if self.T_max is None else self.T_max

    def get_lr(self) -> Any:
        """The learning rates of the groups.

        Raises:
            ValueError: If nobody has said how long the run is.
        """
        if self.T_max is None and self.last_epoch > 0:
            raise ValueError("CosineToEnd is as long as its run, which is not known here: give it rounds")
        return super().get_lr()


def follow(schedule: Any, rounds: int) -> None:
    """Gives a schedule of the learning rate, and those in it, the length of the run where theirs is left open."""
    for part, share in [(schedule, rounds), *_parts(schedule, rounds)]:
        if isinstance(part, CosineToEnd):
            part.over(share)


def check_lengths(schedule: Any, method: MethodBase, rounds: int) -> list[str]:
    """Which schedules contradict the length of the run, a line each.

    Args:
        schedule: Of the learning rate, if there is one.
        method: Whose schedules of other options are looked at.
        rounds: Rounds of the run.

    Raises:
        ValueError: If a schedule would break the run off.
    """
    end = f"trainer.max_steps={rounds}"
    said = list(_contradictions(schedule, f"model.lr_scheduler={type(schedule).__name__}", rounds, end))
    for name, part in vars(method).items():
        if isinstance(part, Schedule):
            said += _contradictions(part, f"model.method.{name}={type(part).__name__}", rounds, end)
    return said


def _contradictions(schedule: Any, what: str, rounds: int, end: str, span: str = "the run") -> Iterator[str]:
    follows = ", or take CosineToEnd, which follows the run" if type(schedule) is CosineAnnealingLR else ""
    for name in LENGTHS:
        length = getattr(schedule, name, None) or rounds
        option = "rounds" if isinstance(schedule, CosineToEnd) else name
        said, instead = f"{what}: {option}={length}", f"set it to {rounds}{follows}"
        if length > rounds:
            yield f"{said} is longer than {span}, as {end} cuts it off: {instead}"
        elif length < rounds and name == "total_steps":
            raise ValueError(f"{said} is shorter than {span}, which would break off before {end}: {instead}")
        elif length < rounds and name == "T_max":
            yield f"{said} is shorter than {span}, so the rate rises again before {end}: {instead}"
        elif length < rounds and name == "total_iters" and _ends_in_nothing(schedule):
            yield f"{said} is shorter than {span}, so the rate is 0 from there to {end}: {instead}"
    milestones = getattr(schedule, "milestones", getattr(schedule, "_milestones", None)) or []
    beyond = [milestone for milestone in sorted(milestones) if milestone >= rounds]
    if beyond:
        yield f"{what}: milestones={beyond} lie beyond {span} and never act: they must be below {end}"
    for part, share in _parts(schedule, rounds):
        where = (end, span) if share == rounds else (f"the end of its {share} rounds", "its share")
        yield from _contradictions(part, f"{what}, its {type(part).__name__}", share, *where)


def _parts(schedule: Any, rounds: int) -> list[tuple[Any, int]]:
    """The schedules that one is made of, each with the rounds that are its share."""
    inner = list(getattr(schedule, "_schedulers", []))
    if not isinstance(schedule, torch_schedules.SequentialLR):
        return [(part, rounds) for part in inner]
    ends = [0, *(min(milestone, rounds) for milestone in schedule._milestones), rounds]
    shares = zip(inner, itertools.pairwise(ends), strict=True)
    return [(part, end - start) for part, (start, end) in shares if end > start]


def _ends_in_nothing(schedule: Any) -> bool:
    return isinstance(schedule, torch_schedules.PolynomialLR) or getattr(schedule, "end_factor", 1.0) == 0.0
