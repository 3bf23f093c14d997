"""The command ``hiso-pl replay``: a run's state from its start and its records.

Nothing in a ledger is followed: where weights are is said on the command line, and the name in the file is only shown.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import yaml

from hiso_pl import presets
from hiso_pl.cli.parser import ConfigurationError, Parser, parse_settings
from hiso_pl.ledger.format import stored_path
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.replay import initial_tensors, replay
from hiso_pl.ledger.resumable import checkpoint_of, write_checkpoint
from hiso_pl.ledger.stored import save_tensors
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.ranks import environment, process
from hiso_pl.run import checkpoint, lock
from hiso_pl.run.folder import run_around
from hiso_pl.zeroth_order import Method, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import MethodBase

log = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class ReplaySettings:
    """One replay.

    Args:
        ledger: The ledger.
        weights: Folder or hub name of the weights the run started from; not needed where all of them are stored.
        revision: Branch, tag or commit of them on the hub.
        method: Configuration of the run, such as its config.yaml, where its method has parts from outside the package:
            they are imported because you name them here, never because the ledger does.
        to: How many rounds to apply. If null, all, or as many as the checkpoint's.
        verify: Whether to compare the state with the ledger's closing digest, or with the checkpoint.
        checkpoint: A checkpoint of the run to compare with.
        output: Where to write the result: FILE.safetensors holds the trained tensors, FILE.ckpt is a checkpoint.
        device: Where to compute.
        threads: CPU threads. If null, all cores.

    Raises:
        ValueError: If an option cannot be.
    """

    ledger: str
    weights: str | None = None
    revision: str | None = None
    method: str | None = None
    to: int | None = None
    verify: bool = False
    checkpoint: str | None = None
    output: str | None = None
    device: Device = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read."""
        if self.to is not None and self.to < 0:
            raise ValueError(f"to={self.to} must not be negative: it counts rounds")
        if self.device not in get_args(Device):
            raise ValueError(f"device={self.device!r} must be one of {', '.join(get_args(Device))}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda must be cpu: there is no GPU")
        if self.output is not None and Path(self.output).suffix not in (".safetensors", ".ckpt"):
            raise ValueError(f"output={self.output!r} must end in .safetensors or .ckpt")
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise ValueError(f"output={self.output!r} must lie in a folder that exists")
        if self.output is not None and Path(self.output).absolute() == stored_path(self.ledger).absolute():
            raise ValueError(f"output={self.output!r} must not be where the ledger's own tensors lie")


def run(args: Sequence[str]) -> str:
    """Runs ``hiso-pl replay``, given what follows it: rebuilds a run's state, and returns its digest.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If the ledger is damaged, the weights are others, or the digest is not the one it should be.
    """
    settings = parse_settings(
        ReplaySettings,
        "hiso-pl replay",
        "Rebuilds a run's state, without data and forward passes; --verify compares it with the ledger's closing "
        "digest, or with the checkpoint.",
        args,
        positional="ledger",
        flag="verify",
    )
    if environment.world_size() > 1:
        raise ConfigurationError(f"replay is for one process, not {environment.world_size()}: leave torchrun out")
    root = None if settings.output is None else run_around(Path(settings.output))
    if root is None:
        return _replayed(settings)
    with lock.held(root):  # nobody else writes among the files of a run that goes on
        return _replayed(settings)


def _replayed(settings: ReplaySettings) -> str:
    process.configure(settings.threads, deterministic=True)
    method = None if settings.method is None else _method_of(settings.method)
    reader = LedgerReader(settings.ledger)
    to, expected = _target(settings, reader)
    named = None if settings.weights is None else NamedWeights(settings.weights, settings.revision)
    initial = initial_tensors(settings.ledger, reader.header, named)
    started = time.perf_counter()
    optimizer = replay(reader.header, reader.entries(), initial, to, settings.device, method=method)
    if settings.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    found = digest(optimizer)
    lines = [f"{optimizer.round} rounds in {seconds:.2f} s", f"digest {found}"]
    if expected is not None:
        if found != expected:
            raise ValueError(f"verify: round {optimizer.round} has digest {found}, must have {expected}")
        lines.append("verified")
    if settings.output is not None:
        _write(Path(settings.output), optimizer, reader)
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    return found


def _method_of(given: str) -> Method:
    """The method of a run's configuration."""
    try:
        configuration = presets.find(given, "method", "method")
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    try:
        chosen = yaml.safe_load(configuration.text)["model"]["method"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ConfigurationError(f"method={given} must be a configuration with model.method: {error}") from error
    parser = Parser()
    parser.add_subclass_arguments(MethodBase, "method")
    method = parser.instantiate(parser.parse_object({"method": chosen})).method
    if not isinstance(method, Method):
        raise ConfigurationError(f"method={given} names {type(method).__name__}, whose runs have no ledger")
    return method


def _target(settings: ReplaySettings, reader: LedgerReader) -> tuple[int, str | None]:
    """The round to go to and the digest to find there, if one is asked for; before anything large is read."""
    survey = reader.survey()
    if survey.torn_at is not None:
        log.warning("%s is torn after byte %d; what is whole is used.", settings.ledger, survey.torn_at)
    to, expected = settings.to, None
    if settings.checkpoint is not None:
        content = checkpoint.read(settings.checkpoint)
        round = int(content["global_step"])
        if to not in (None, round):
            raise ValueError(f"to={to} must be {round}, the round of checkpoint={settings.checkpoint}")
        if list(content[checkpoint.KEY]["trainable"]) != [facts.name for facts in reader.header.tensors]:
            raise ValueError(f"checkpoint={settings.checkpoint} is of another model than {settings.ledger}")
        to, expected = round, content[checkpoint.KEY]["digest"]
    to = survey.rounds if to is None else to
    if to > survey.rounds:
        raise ValueError(f"to={to} must not exceed the {survey.rounds} rounds of {settings.ledger}")
    if settings.verify and settings.checkpoint is None:
        if survey.closing is None or to != survey.rounds:
            raise ValueError(
                f"verify needs a digest to compare with, and {settings.ledger} has none of round {to}: "
                "give --checkpoint"
            )
        expected = survey.closing.digest
    return to, expected


def _write(path: Path, optimizer: ZerothOrderOptimizer, reader: LedgerReader) -> None:
    if path.suffix == ".ckpt":
        write_checkpoint(path, checkpoint_of(reader, optimizer))
        return
    named = zip(optimizer.names, optimizer.parameters, strict=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in named}
    save_tensors(path, tensors, {"round": str(optimizer.round)})
