"""The runs that a study asks for: settings, their folders, and the options of ``fit`` that make them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from hiso_pl import presets
from hiso_pl.study.file import Method, Study
from hiso_pl.study.names import FOLDER, RATE, SEED, as_word, plain_name, setting_name

FIRST = ("--threads", "1")  # the user's options come later and win

Resolve = Callable[[Sequence[str]], Mapping[str, str]]
"""What ``fit`` makes of its options: the configuration, as text under dotted keys."""


@dataclass(frozen=True)
class Setting:
    """What one run has of its own.

    Args:
        method: Its method's name; "" where the configuration is the one method.
        setting: The name of what else it is run under; "" where there is nothing else.
        lr: Learning rate.
        seed: Seed.
    """

    method: str
    setting: str
    lr: float
    seed: int

    @property
    def folder(self) -> str:
        """The run's folder below the root; another one for every setting."""
        names = [plain_name(name) for name in (self.method, self.setting) if name]
        return "/".join([*names, f"lr-{self.lr!r}", f"seed-{self.seed}"])


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
    def foreseen(self) -> int:
        """Asks that the study is likely to make in all, of whole runs and of parts, for a bar."""

    @property
    def reached(self) -> int:
        """How many of them were met when it was last asked, those of earlier starts included."""


@dataclass(frozen=True)
class Group:
    """A method under one setting, for which a learning rate is found.

    Args:
        method: Its method's name, or "".
        setting: The setting's name, or "".
        arguments: Options of ``fit`` that its runs share.
        configuration: What ``fit`` makes of them.
        lrs: The rates that are given, ascending.
    """

    method: str
    setting: str
    arguments: tuple[str, ...]
    configuration: Mapping[str, str]
    lrs: tuple[float, ...]

    @property
    def name(self) -> str:
        """The group in words."""
        return ", ".join(filter(None, (self.method, self.setting))) or "study"


class Grid:
    """A study as runs below a folder: methods by settings by crossed options by rates by seeds.

    Args:
        study: What is asked for.
        root: The folder.
        resolve: What ``fit`` makes of options; called once for each group.

    Attributes:
        groups: Methods under settings, method by method.
        common: The configuration that all have before methods and settings: what makes it the same study.

    Raises:
        ValueError: If ``fit`` would not take what one of them asks for; it says which.
    """

    def __init__(self, study: Study, root: Path, resolve: Resolve) -> None:
        self.study, self.root = study, root
        methods, settings = [*study.methods] or [""], [*_settings(study)]
        self.groups = [self._group(method, *setting, resolve) for method in methods for setting in settings]
        try:
            self.common = {key: v for key, v in resolve(self._base(Method())).items() if key != RATE}
        except ValueError:  # it is whole only with a method or a setting
            options = {f"options.{key}": as_word(value) for key, value in study.options.items()}
            self.common = {"config": " ".join(study.config), **options}

    def ask(self, group: Group, lr: float, seed: int, until: int | None = None) -> Ask:
        """The run of a group at a rate and with a seed, or its first rounds."""
        setting = Setting(group.method, group.setting, lr, seed)
        folder = self.root / setting.folder
        own = {RATE: lr, SEED: seed, FOLDER: str(folder)}
        arguments = _words(own)
        configuration = {**group.configuration, **{key: repr(value) for key, value in own.items()}}
        return Ask(setting, folder, (*group.arguments, *arguments), configuration, until)

    def _group(self, method: str, name: str, options: Mapping[str, Any], resolve: Resolve) -> Group:
        own = self.study.methods.get(method, Method())
        where = ", ".join(f"{kind} {word!r}" for kind, word in (("method", method), ("setting", name)) if word)
        arguments = (*self._base(own), *_words(options))
        try:
            configuration = resolve(arguments)
            lrs = own.lrs or self.study.lrs or (float(configuration[RATE]),)
        except ValueError as error:
            raise ValueError(f"{where}: {error}" if where else str(error)) from error
        return Group(method, name, arguments, configuration, tuple(sorted(set(lrs))))

    def _base(self, method: Method) -> tuple[str, ...]:
        """The options of a method's runs under any setting: files before single options, the study's before its own."""
        files = [*(("config", name) for name in self.study.config), *(("methods", name) for name in method.config)]
        found = [presets.find(name, key, "method" if key == "methods" else "") for key, name in files]
        named = [str(configuration.path or configuration.name) for configuration in found]
        words = [word for name in named for word in ("--config", name)]
        return (*FIRST, *words, *_words(self.study.options), *_words(method.options))


def _settings(study: Study) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The listed settings, each with every combination of the crossed options: its name and all its options."""
    crossed = [[(key, value) for value in values] for key, values in study.cross.items()]
    for listed, options in (study.settings or {"": {}}).items():
        for combination in product(*crossed):
            yield ", ".join(filter(None, (listed, setting_name(combination)))), {**options, **dict(combination)}


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as a command line gives them; those of a list that is added to one by one."""
    words: list[str] = []
    for key, value in options.items():
        for item in value if key.endswith("+") and isinstance(value, list) else [value]:
            words.append(f"--{key}={as_word(item)}")
    return words
