"""Where a schedule has the learning rate by a round, which a resumed run need not be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from hiso_pl.run.schedules import follow

SchedulerCallable = Callable[[torch.optim.Optimizer], LRScheduler | ReduceLROnPlateau]
OPTIONS = ("model.method.init_args.lr", "model.lr_scheduler")
_MOVING = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")
_REDUCTIONS = 10_000


class LearningRate:
    """The learning rate as configured: a number, or a schedule that starts from it.

    Args:
        initial: The learning rate of round 0.
        make: Makes the schedule of an optimizer; None leaves the learning rate as it is.

    Attributes:
        rounds: Rounds of the run, once they are known.
    """

    def __init__(self, initial: float, make: SchedulerCallable | None) -> None:
        self.initial, self._make = initial, make
        self.rounds: int | None = None

    def schedule_of(self, optimizer: torch.optim.Optimizer) -> LRScheduler | ReduceLROnPlateau | None:
        """The schedule of an optimizer, if there is one."""
        schedule = None if self._make is None else self._make(optimizer)
        if self.rounds is not None:
            follow(schedule, self.rounds)
        return schedule

    def _alone(self) -> tuple[torch.optim.Optimizer, LRScheduler | ReduceLROnPlateau | None]:
        """The schedule with nothing behind it, at round 0."""
        bearer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=self.initial)
        return bearer, self.schedule_of(bearer)

    @property
    def follows_metric(self) -> bool:
        """Whether its place is no function of the round."""
        return isinstance(self._alone()[1], ReduceLROnPlateau)

    def check_reschedulable(self, why: str) -> None:
        """Refuses a schedule whose place is not a function of the round.

        Raises:
            ValueError: If it follows a metric, which a ledger does not hold.
        """
        if self.follows_metric:
            raise ValueError(
                f"model.lr_scheduler=ReduceLROnPlateau follows a metric, which a ledger does not hold, and {why}: "
                "resume from a checkpoint that the run wrote"
            )

    def restore(self, content: dict[str, Any], rebuilt: bool, changed: Sequence[str]) -> None:
        """Sees to it that a checkpoint has the learning rate and the schedule that the configuration has by its round.

        Args:
            content: The checkpoint, in which they are put.
            rebuilt: Whether it was made from a ledger.
            changed: Options that were changed on resume, as asked: if one is of these, what was saved does not count.

        Raises:
            ValueError: If it has another one.
        """
        if rebuilt:
            self.check_reschedulable("the checkpoint was made from a ledger")
        if rebuilt or any(key == name or key.startswith(name + ".") for key in changed for name in OPTIONS):
            self.put(content)
        else:
            self.check(content)

    def put(self, content: dict[str, Any]) -> None:
        """Puts a checkpoint's learning rate where the schedule has it by now, had it been followed from round 0.

        One that follows a metric begins anew.
        """
        reached, states = self._at(0 if self.follows_metric else content["global_step"])
        _group(content).update(reached)
        content["lr_schedulers"] = states

    def check(self, content: dict[str, Any]) -> None:
        """Refuses a checkpoint whose learning rate the configuration does not have by its round; its schedule is put.

        Raises:
            ValueError: If it is another one.
        """
        group, rounds, found = _group(content), content["global_step"], _group(content).get("lr")
        if isinstance(found, torch.Tensor) and found.numel() == 1:
            found = float(found)
        if type(found) not in (int, float):
            raise ValueError(f"the checkpoint is damaged: lr is {type(found).__name__}, must be a number")
        if self.follows_metric:
            reached, states = self._at(0)
            saved = content.get("lr_schedulers") or [None]
            content["lr_schedulers"] = [_moved(saved[0], states[0], found)]
            if not _reducible(float(reached["lr"]), found, states[0]):
                raise ValueError(f"the checkpoint is damaged: lr={found} is none that model.lr_scheduler comes to")
            return
        reached, content["lr_schedulers"] = self._at(rounds)
        if found != reached["lr"]:
            raise ValueError(
                f"the checkpoint is damaged: lr={found} after round {rounds}, the configuration has {reached['lr']}"
            )
        group.update(reached)

    def _at(self, rounds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The learning rate, and the schedule's state, after so many rounds."""
        bearer, scheduler = self._alone()
        if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
            for _ in range(rounds):
                bearer.step()  # there is no gradient, so nothing moves
                scheduler.step()
        group = bearer.param_groups[0]
        reached: dict[str, Any] = {key: value for key, value in group.items() if key in ("lr", "initial_lr")}
        return reached, [] if scheduler is None else [scheduler.state_dict()]


def _group(content: Mapping[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = content["optimizer_states"][0]["param_groups"][0]
    return group


def _moved(saved: Any, mine: dict[str, Any], lr: Any) -> dict[str, Any]:
    """The state of a schedule that follows a metric: what moves is the checkpoint's, the rest as configured."""
    if not isinstance(saved, Mapping) or not set(_MOVING) <= set(saved):
        raise ValueError(f"the checkpoint is damaged: lr_schedulers[0] must hold {', '.join(_MOVING)}")
    moved = {key: saved[key] for key in _MOVING}
    for key in ("num_bad_epochs", "cooldown_counter", "last_epoch"):
        if type(moved[key]) is not int or moved[key] < 0:
            raise ValueError(f"the checkpoint is damaged: {key} of lr_schedulers[0] must be an integer of at least 0")
    if type(moved["best"]) not in (int, float) or math.isnan(moved["best"]):
        raise ValueError("the checkpoint is damaged: best of lr_schedulers[0] must be a number")
    if moved["_last_lr"] != [lr]:
        raise ValueError(f"the checkpoint is damaged: _last_lr of lr_schedulers[0] must be {[lr]}")
    return {**mine, **moved}


def _reducible(lr: float, found: Any, state: Mapping[str, Any]) -> bool:
    """Whether a learning rate comes to another one by reductions alone."""
    for _ in range(_REDUCTIONS):
        if lr == found:
            return True
        reduced = max(lr * state["factor"], state["min_lrs"][0])
        if not reduced < lr:
            return False
        lr = reduced
    return False
