"""The command ``hiso-pl bench``: parse, join the other ranks, measure, write."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from hiso_pl.bench.settings import METHOD, Settings
from hiso_pl.cli.parser import ConfigurationError, Parser, add_traceback
from hiso_pl.ranks import environment
from hiso_pl.run.whole_file import whole_file
from hiso_pl.zeroth_order.method import Method

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others."""

NOT_MEASURED = {"lr", "transform", "aggregation", "mu_schedule", "num_directions_schedule"}
"""What a measurement does not depend on, or fixes."""


def parse(args: Sequence[str]) -> Settings:
    """Reads a command line, in which the method's options stand among the others.

    Raises:
        ConfigurationError: If it cannot be understood, or an option cannot be.
    """
    parser = Parser(prog="hiso-pl bench", description="Measures a round beside plain forward passes on this machine.")
    parser.add_class_arguments(Method, skip=NOT_MEASURED)
    parser.add_class_arguments(Settings, skip={"method"})
    add_traceback(parser)
    config = parser.parse_args(list(args))
    try:
        given = vars(parser.instantiate(config))
        del given["traceback"]
        method = {field.name: given.pop(field.name) for field in fields(Method) if field.name not in NOT_MEASURED}
        return Settings(method=replace(METHOD, **method), **given)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def run(args: Sequence[str]) -> dict[str, Any]:
    """Runs the command, given what follows it; under torchrun every rank calls it, and rank 0 writes.

    Whoever calls it reports its errors and closes the process group, as the program does. It returns what was measured,
    as written to JSON.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If the settings fit neither model nor launch.
        RuntimeError: If the losses are not finite.
    """
    settings = parse(args)
    import torch.distributed as dist  # none of this is needed for help

    from hiso_pl.bench.machine import choose_device
    from hiso_pl.bench.measure import measure
    from hiso_pl.bench.report import table
    from hiso_pl.ranks import process

    environment.check_launch()
    setup = process.configure(settings.threads, deterministic=True)
    device = choose_device(settings.device)
    if environment.world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)  # scalars only; NCCL refuses ranks that share a GPU
    found = measure(settings, device, setup)
    if environment.rank() == 0:
        if settings.output is not None:
            with whole_file(Path(settings.output)) as part:
                part.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        sys.stdout.write(table(found))
        sys.stdout.flush()
    return found
