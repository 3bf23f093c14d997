"""The work of ``hiso-pl diagnose``: builds module and data by the configuration, and goes to the rounds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from hiso_pl import presets
from hiso_pl.cli.config_file import ConfigFile, pruned
from hiso_pl.cli.diagnose_settings import DiagnoseSettings
from hiso_pl.cli.lengths import follow_the_run
from hiso_pl.cli.parser import ConfigurationError
from hiso_pl.cli.run import FederatedCLI, trainer_root
from hiso_pl.cli.running import cli_of
from hiso_pl.cli.voice import quiet
from hiso_pl.data import FederatedDataModule, facts_of
from hiso_pl.diagnose import tables
from hiso_pl.diagnose.direction import direction_of
from hiso_pl.diagnose.looking import Asked, look
from hiso_pl.diagnose.rounds import KeptRounds, RunAtRounds
from hiso_pl.module import FederatedModule
from hiso_pl.ranks import process
from hiso_pl.run.folder import CONFIG
from hiso_pl.run.start import Start

log = logging.getLogger(__name__)

KEPT = {**dict.fromkeys(("seed_everything", "model", "data")), "trainer": {"max_steps": None}}
"""What is read of a configuration in a run's folder."""
OURS = ("hiso_pl.", "torch.optim.lr_scheduler.")
CODE = {"trust_remote_code": True, "use_safetensors": False}
"""Options that let files bring code, or be unpickled, and the value that does."""


class Built(FederatedCLI):
    """Builds module and data as for a fit, and no trainer."""

    def before_instantiate_classes(self) -> None:
        """Leaves out what concerns the trainer; schedules follow the run all the same."""
        config = self._config()
        if config.get("data") is None:
            raise ConfigurationError("data must be given, such as hiso_pl.data.PromptData")
        config.trainer.logger, config.trainer.callbacks, config.trainer.profiler = False, None, None
        if config.model.get("stages") is not None and config.model.stages.on == "ranks":
            config.model.stages = None  # one process looks at all of the network
        follow_the_run(config, Start(Path(trainer_root(config))))

    def instantiate_classes(self) -> None:
        """Builds module and data."""
        self.config_init = self.parser.instantiate_classes(self.config)
        self.model, self.datamodule = (self._get(self.config_init, name) for name in ("model", "data"))
        assert isinstance(self.model, FederatedModule)
        assert isinstance(self.datamodule, FederatedDataModule)
        # every client is looked at here, also of a run that had a rank for each
        self.datamodule.hosting, self.datamodule.spare_ranks = "dealt", "idle"
        self.datamodule.take(facts_of(self.model))

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


def diagnosed(settings: DiagnoseSettings, options: Sequence[str]) -> list[tables.Found]:
    """Builds what is asked for, diagnoses it at each round, tells and writes it.

    Raises:
        ConfigurationError: If the configuration cannot be understood.
        ValueError: If there is no such round, a file is damaged, or the numbers cannot be had.
    """
    device = settings.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device=cuda must be cpu: there is no GPU")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kept, configuration = _meant(settings)
    rounds = settings.at or ((0,) if kept is None else (kept.last,))
    if kept is None and rounds != (0,):
        raise ConfigurationError(
            f"at={rounds[-1]} needs a run's folder: {settings.run} is a configuration, whose round 0 alone is known"
        )
    if kept is not None:
        kept.check(rounds)
    quiet()  # Lightning has set up loggers of its own
    process.configure(settings.threads, deterministic=False)  # backpropagation has operations without such a way
    built = cli_of(Built, ["fit", "--config", configuration, *options])
    module, data = built.model, built.datamodule
    assert isinstance(module, FederatedModule)
    assert isinstance(data, FederatedDataModule)
    module.to(device)
    data.prepare_data()
    data.setup()
    found = _at_rounds(kept, module, data, rounds, settings)
    title = f"{Path(settings.run).name}, {_count(module):,} parameters"
    tables.say(title, found)
    if settings.output is not None:
        folder = Path(settings.output).expanduser()
        asked = {**asdict(settings), "options": list(options), "device": device}
        tables.write(folder, title, found, asked)
        sys.stdout.write(f"\ntables and pictures are in {folder}\n")
    sys.stdout.flush()
    return found


def _at_rounds(
    kept: KeptRounds | None,
    module: FederatedModule,
    data: FederatedDataModule,
    rounds: Sequence[int],
    settings: DiagnoseSettings,
) -> list[tables.Found]:
    run, found = RunAtRounds(kept, module), []
    asked = Asked(settings.clients, settings.batches, settings.probes, settings.eigenvalues, settings.exact)
    for round in rounds:
        run.go_to(round)
        if len(rounds) > 1:
            log.info("Round %d.", round)
        record = run.next_record()
        direction = None if record is None or record.empty else direction_of(run.optimizer, record)
        diagnosis, notes = look(module, data, run.optimizer, round, asked, direction)
        found.append(tables.Found(round, run.learning_rate(), diagnosis, notes))
    return found


def _count(module: FederatedModule) -> int:
    return sum(p.numel() for _, p in module.trainable())


def _meant(settings: DiagnoseSettings) -> tuple[KeptRounds | None, str]:
    """The run that is meant, if one is, and what ``fit`` takes for its configuration.

    Raises:
        ConfigurationError: If there is neither.
    """
    root = Path(settings.run).expanduser()
    if not root.is_dir():
        if settings.config is not None:
            raise ConfigurationError(
                f"config={settings.config} is for a run's folder, and {settings.run} is none: give options behind a --"
            )
        try:
            return None, presets.to_parse(settings.run)
        except ValueError:
            raise ConfigurationError(
                f"{settings.run} is neither a run's folder, nor a configuration's file or name that `hiso-pl configs` "
                "lists"
            ) from None
    kept = KeptRounds(root)
    if settings.config is not None:
        try:
            return kept, presets.to_parse(settings.config)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
    path = root / CONFIG
    if not path.is_file():
        raise ConfigurationError(f"{root} holds no {CONFIG}: name the run's configuration by --config")
    ConfigFile(str(path))
    plain = pruned(path.read_text(encoding="utf-8"), KEPT)
    for key, value in _code(yaml.safe_load(plain), ""):
        raise ConfigurationError(
            f"{path} says {key}={value}, which is code from outside the package: to have it run, name the file by "
            f"--config {path}"
        )
    return kept, plain


def _code(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Options that would have code of others run, by their dotted names."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if (name == "class_path" and not str(item).startswith(OURS)) or (name in CODE and CODE[name] is item):
                yield inner, item
            else:
                yield from _code(item, inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, item in enumerate(value):
            yield from _code(item, f"{key}[{place}]")
