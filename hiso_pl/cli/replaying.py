"""The work of ``hiso-pl replay``: from a ledger and what is beside it to a state, its digest and a file."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import torch
import yaml

from hiso_pl import presets
from hiso_pl.cli.config_file import ConfigFile
from hiso_pl.cli.parser import ConfigurationError, Parser
from hiso_pl.cli.replay_settings import ReplaySettings
from hiso_pl.ledger.format import stored_path
from hiso_pl.ledger.reader import LedgerReader, ledger_of_command
from hiso_pl.ledger.replay import initial_tensors, replay
from hiso_pl.ledger.resumable import checkpoint_of, write_checkpoint
from hiso_pl.ledger.stored import save_tensors
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.ranks import process
from hiso_pl.run import checkpoint
from hiso_pl.stages.offload import Offload
from hiso_pl.zeroth_order import Method, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import MethodBase

log = logging.getLogger(__name__)


def replayed(settings: ReplaySettings) -> str:
    """Rebuilds the state, tells of it and writes it where that is asked for; it returns the digest.

    Raises:
        ValueError: If the ledger is damaged, the weights are others, or the digest is not the one it should be.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device=cuda must be cpu: there is no GPU")
    if settings.output is not None and Path(settings.output).absolute() == stored_path(settings.ledger).absolute():
        raise ConfigurationError(f"output={settings.output!r} must not be where the ledger's own tensors lie")
    process.configure(settings.threads, deterministic=True)
    method = None if settings.method is None else _method_of(settings.method)
    reader = ledger_of_command(settings.ledger)
    to, expected = _target(settings, reader)
    named = None if settings.weights is None else NamedWeights(settings.weights, settings.revision)
    keep = None if settings.offload_dir is None else Offload(settings.offload_dir).take
    initial = initial_tensors(settings.ledger, reader.header, named, keep)
    started = time.perf_counter()
    optimizer = replay(reader.header, reader.entries(), initial, to, settings.device, method=method, keep=keep)
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
    if Path(given).is_file():
        ConfigFile(given)
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
