"""The commands of a run: fit, validate, test and predict."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence

from hiso_pl.callbacks.in_step import OutOfStepError
from hiso_pl.cli.run import TRAINER_DEFAULTS, FederatedCLI
from hiso_pl.cli.run_parser import RunParser
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.module import FederatedModule

log = logging.getLogger(__name__)


def run(args: Sequence[str]) -> None:
    """Runs ``hiso-pl fit``, ``validate``, ``test`` or ``predict``, given the command and what follows it.

    Ranks out of step are taken back to where they were not, if that is asked for.
    """
    repaired: int | None = None
    while True:
        try:
            FederatedCLI(
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
            return
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
