"""The ways of finding learning rates, by the names that study files use."""

from __future__ import annotations

from hiso_pl.study.halving import Halving
from hiso_pl.study.sampled import Sampled
from hiso_pl.study.way import Way
from hiso_pl.study.whole import Whole

WAYS: dict[str, type[Way]] = {"grid": Whole, "halving": Halving, "optuna": Sampled}
