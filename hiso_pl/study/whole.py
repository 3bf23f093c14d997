"""Until a study is a file: its whole grid as what a runner asks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hiso_pl.study.grid import RATE, Ask, Resolve, Setting, Study
from hiso_pl.study.runner import Ended, carry_out
from hiso_pl.study.runs import complete_summary


class Whole:
    """Every run of a grid, to its end."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._asks = asks

    def next(self, failed: Collection[Setting] = ()) -> Sequence[Ask]:
        """What is not complete."""
        left = [ask for ask in self._asks if ask.setting not in failed]
        return [ask for ask in left if not complete_summary(ask.folder, ask.configuration)]

    @property
    def reached(self) -> int:
        """How many are."""
        return self.foreseen - len(self.next())

    @property
    def foreseen(self) -> int:
        """All of them."""
        return len(self._asks)


def plan(study: Study, resolve: Resolve) -> list[Ask]:
    """All runs that are asked for."""
    asks = []
    for setting in study.settings(resolve):
        arguments = study.arguments(setting)
        asks.append(Ask(setting, study.root / setting.folder, tuple(arguments), resolve(arguments)))
    return asks


def carry_out_study(study: Study, resolve: Resolve, nproc: int, jobs: int) -> Ended:
    """Carries out what is missing of a study."""
    common = {key: value for key, value in resolve(study.base()).items() if key != RATE}
    return carry_out(study.root, common, Whole(plan(study, resolve)), nproc, jobs)
