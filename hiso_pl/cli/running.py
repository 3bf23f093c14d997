"""The commands of a run: fit, validate, test and predict."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from lightning.pytorch.cli import LightningArgumentParser

from hiso_pl.callbacks.in_step import OutOfStepError
from hiso_pl.cli import launch
from hiso_pl.cli.options import every_option
from hiso_pl.cli.run import TRAINER_DEFAULTS, FederatedCLI
from hiso_pl.cli.run_parser import RunParser
from hiso_pl.cli.trainer_options import SeveralRanks
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.module import FederatedModule
from hiso_pl.run import going_on

log = logging.getLogger(__name__)

C = TypeVar("C", bound=FederatedCLI)


class _Told(Exception):
    """Carries the parsers out of a program that would parse by them."""


def every_option_of(command: str) -> Iterator[tuple[str, Any]]:
    """Name and action of each option of a command, those of the package's classes included."""

    class Telling(FederatedCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> NoReturn:
            raise _Told(self._subcommand_parsers[command])

    try:
        cli_of(Telling, [command])
    except _Told as told:
        yield from every_option(told.args[0])


def cli_of(kind: type[C], args: Sequence[str]) -> C:
    """A program of a run's commands, given the command and what follows it: it parses, builds and runs at once."""
    return type(kind.__name__, (kind,), {"only": args[0]})(  # type: ignore[no-any-return]
        FederatedModule,
        FederatedDataModule,
        subclass_mode_data=True,
        save_config_callback=None,
        trainer_defaults=dict(TRAINER_DEFAULTS),
        seed_everything_default=0,
        parser_class=RunParser,
        parser_kwargs={"prog": "hiso-pl"},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=list(args),
    )


def run(args: Sequence[str]) -> int:
    """Runs ``hiso-pl fit``, ``validate``, ``test`` or ``predict``, given the command and what follows it.

    Ranks out of step are taken back to where they were not, if that is asked for. Where the options ask for several
    processes these are launched, and their exit status is given.
    """
    repaired: int | None = None
    while True:
        try:
            cli_of(FederatedCLI, args)
            return 0
        except SeveralRanks as needed:
            return launch.start(args, needed.ranks, going_on.program())
        except OutOfStepError as error:
            # all ranks are here, and all decide alike
            verified = error.verified
            if not error.repair or not error.has_ledger or verified is None:
                raise
            if repaired is not None and verified <= repaired:
                raise  # it comes again: this is no stray bit
            repaired = verified
            log.warning("%s. Repairing: all ranks go back to round %d, by the ledger.", error, verified)
        args = [*args, "--ckpt_path", "ledger"]
        gc.collect()  # the model of the run that ended
