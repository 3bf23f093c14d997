"""What a study asks for: its settings, and for each of them the folder and the options of ``fit`` that make it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Protocol

from hiso_pl import presets

RATE, SHORT_RATE = "model.method.init_args.lr", "model.method.lr"
SEED, FOLDER = "seed_everything", "trainer.default_root_dir"
OURS = {
    SEED: "--seeds",
    RATE: "--lrs",
    SHORT_RATE: "--lrs",
    FOLDER: "--root",
    "ckpt_path": "nothing: it resumes itself",
}
FIRST = ("--threads", "1")  # the user's options come later and win

Resolve = Callable[[Sequence[str]], Mapping[str, str]]
"""What ``fit`` makes of its options: the configuration, as text under dotted keys."""


@dataclass(frozen=True)
class Setting:
    """What one run has of its own: learning rate, seed and, where there are several, its method and a varied option.

    On the way to the fields method, setting, lr, seed, of which method and setting are names in any words ("" for the
    only one): key and value give way to setting.
    """

    lr: float
    seed: int
    method: str = ""
    key: str = ""
    value: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        """What a learning rate is chosen for."""
        return self.method, self.key, self.value

    @property
    def label(self) -> str:
        """The group in words; nothing if there is but one."""
        return ", ".join(part for part in (self.method, self.key and f"{self.key}={self.value}") if part)

    @property
    def folder(self) -> str:
        """The run's folder below the root; another one for every setting."""
        varied = self.key and plain_name(f"{self.key.rpartition('.')[2]}-{self.value}", self.key)
        return "/".join(part for part in (self.method, varied, f"lr-{self.lr!r}", f"seed-{self.seed}") if part)


@dataclass(frozen=True)
class Ask:
    """A run that is asked for, or its first rounds.

    Args:
        setting: What it has of its own.
        folder: Its folder.
        arguments: Options of ``fit`` that make it, its folder included.
        configuration: What ``fit`` makes of them, as text under dotted keys.
        until: The round after whose validation it stops, saved and to be gone on with; None for the end.
    """

    setting: Setting
    folder: Path
    arguments: tuple[str, ...]
    configuration: Mapping[str, str]
    until: int | None = None


class Strategy(Protocol):
    """What runs next, as a pure function of what the runs' folders hold."""

    def next(self, failed: Collection[Setting] = ()) -> Sequence[Ask]:
        """Every run that is not yet as far as it is wanted, in the order in which they are to be begun.

        It is asked again whenever a run has ended; those under way are in the answer too. An empty answer with none
        under way is the end of the study.

        Args:
            failed: Settings whose runs have failed since the study was started: they are not asked for again, and what
                hangs on them waits for the next start.
        """

    @property
    def reached(self) -> int:
        """How many of the answers there are already."""

    @property
    def foreseen(self) -> int:
        """How many answers' worth of runs, whole ones and parts, the study is likely to take in all: for a bar."""


@dataclass(frozen=True)
class Study:
    """Methods, values of one option, learning rates and seeds, crossed, on top of one configuration.

    Args:
        root: Folder of the study.
        fit: Options of ``fit`` that all runs have, a whole configuration by themselves.
        seeds: Seeds.
        methods: Names of presets, where those of the folder ``method`` need not say it, or files. A method comes after
            the files of ``fit``, and before its single options. With none there is one method, that of ``fit``.
        rates: Learning rates by method, under "" for those not named; the configuration's own where there are none.
        vary: One more option of ``fit``, and its values.

    Raises:
        ValueError: If one of them cannot be.
    """

    root: Path
    fit: tuple[str, ...]
    seeds: tuple[int, ...] = (1,)
    methods: tuple[str, ...] = ()
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    vary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what can be checked without the configuration."""
        if not self.fit:
            raise ValueError("no configuration: give options of fit after --, for instance -- --config FILE.yaml")
        if len(self.vary) == 1:
            raise ValueError(f"vary={self.vary[0]} must be followed by values")
        for word in (*self.fit, *(f"--{key}" for key in self.vary[:1])):
            key = word.removeprefix("--").partition("=")[0]
            if word.startswith("--") and key in OURS:
                raise ValueError(f"{key} is set by the study: give {OURS[key]}")
        methods = list(self.configurations)
        for method, rates in self.rates.items():
            if method and method not in methods:
                raise ValueError(f"lrs={method}=... must name one of the methods: {', '.join(methods) or 'none'}")
            if not all(rate > 0 and math.isfinite(rate) for rate in rates):
                raise ValueError(f"lrs={rates} must be positive and finite")

    @cached_property
    def configurations(self) -> dict[str, str]:
        """What ``fit`` is given for each method, by the name that is its folder's too."""
        found: dict[str, str] = {}
        for method in self.methods:
            configuration = presets.find(method, "methods", "method")
            given, name = str(configuration.path or configuration.name), plain_name(presets.label(method))
            if found.setdefault(name, given) != given:
                raise ValueError(f"methods={method} must have another name than {found[name]}")
        return found

    def base(self, method: str = "") -> list[str]:
        """The options that all runs of a method have."""
        fit = list(self.fit)
        if method:
            ends = [i + 1 + ("=" not in word) for i, word in enumerate(fit) if word.partition("=")[0] == "--config"]
            at = max(ends, default=0)
            fit[at:at] = ["--config", self.configurations[method]]
        return [*FIRST, *fit]

    def arguments(self, setting: Setting) -> list[str]:
        """The options of ``fit`` that make a run."""
        varied = [f"--{setting.key}", setting.value] if setting.key else []
        own = [f"--{RATE}", repr(setting.lr), f"--{SEED}", str(setting.seed)]
        return [*self.base(setting.method), *varied, *own, f"--{FOLDER}", str(self.root / setting.folder)]

    def settings(self, resolve: Resolve) -> list[Setting]:
        """All settings, seed by seed so that an early look is of whole grids."""
        rates: dict[str, list[float]] = {}
        for method in self.configurations or [""]:
            given = self.rates.get(method) or self.rates.get("") or (float(resolve(self.base(method))[RATE]),)
            rates[method] = sorted(set(given))
        varied = [(self.vary[0], value) for value in dict.fromkeys(self.vary[1:])] or [("", "")]
        crossed = product(dict.fromkeys(self.seeds), rates, varied)
        return [Setting(rate, seed, m, *option) for seed, m, option in crossed for rate in rates[m]]


def plain_name(text: str, salt: str = "") -> str:
    """A name for a folder; text that is none, or too long, keeps its head and is told apart by a hash."""
    plain = re.sub(r"[^\w.+-]+", "-", text).strip("-.")
    if plain == text and len(plain) <= 60:
        return plain
    return f"{plain[:48]}-{hashlib.sha256(f'{salt} {text}'.encode()).hexdigest()[:8]}"
