"""The program: its commands, what it says, and its exit status."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from importlib import import_module

import hiso_pl
from hiso_pl.callbacks.in_step import OutOfStepError
from hiso_pl.callbacks.signals import last_words
from hiso_pl.cli import edge
from hiso_pl.cli.parser import Parser
from hiso_pl.cli.run import TRAINER_DEFAULTS, FederatedCLI
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.module import FederatedModule
from hiso_pl.ranks import environment
from hiso_pl.run import lock

log = logging.getLogger(__name__)

DESCRIPTION = (
    "Federated fine-tuning by forward passes: HiSo and DeComFL, a few scalars a round. "
    "Five more commands tell of themselves by --help: `hiso-pl study` carries out runs of several methods, rates and "
    "seeds and tells what they come to, `hiso-pl bench` measures what a round costs, `hiso-pl export` writes a "
    "checkpoint's model as a Hugging Face folder, `hiso-pl ledger` shows what a ledger holds, and `hiso-pl replay` "
    "rebuilds a run from its ledger and checks it."
)
COMMANDS = {
    "bench": "hiso_pl.cli.bench",
    "configs": "hiso_pl.cli.configs",
    "export": "hiso_pl.export",
    "ledger": "hiso_pl.cli.ledger",
    "replay": "hiso_pl.cli.replay",
    "study": "hiso_pl.cli.study",
}
"""Commands beside those of a run, each imported when it is called; its module's ``run`` takes what follows it."""
ANSWERING = {*COMMANDS} - {"study"}
"""Commands that are called for what they print, and have failed where nobody reads it."""


def _log_quietly() -> None:
    """One voice for a launch of many ranks; the warnings left out are those that a run cannot act on."""
    level = logging.INFO if environment.rank() == 0 else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("hiso_pl").setLevel(level)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")  # a bar for each rank tells nothing
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING if environment.rank() == 0 else logging.ERROR)
    for name in ("profilers", "callbacks.model_summary"):  # what was asked for by an option of the trainer
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(level)
    if environment.rank() != 0:
        warnings.filterwarnings("ignore", module=r"lightning\..*")
    for pattern in (
        r".*does not have many workers.*",
        r".*Using ModelCheckpoint with manual optimization.*",
        r".*Found \d+ module\(s\) in eval mode.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*instantiate_classes.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*sync_dist=True.*",
        r".*The dirpath has changed from.*",
        r".*batching rule for aten.*",
        r".*is_gradient_checkpointing. is deprecated.*",  # said to PEFT, not to users
    ):
        warnings.filterwarnings("ignore", message=pattern)


def _run(args: list[str] | None) -> None:
    """Runs Lightning's part of the program; ranks out of step are taken back to where they were not, if asked for."""
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
                parser_class=Parser,
                parser_kwargs={"prog": "hiso-pl", "description": DESCRIPTION, "version": hiso_pl.__version__},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
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
        args = [*(sys.argv[1:] if args is None else args), "--ckpt_path", "ledger"]
        gc.collect()  # the model of the run that ended


def main(args: list[str] | None = None) -> int:
    """Runs the program, by a command line or that of the process.

    Returns:
        The exit status: 0 after a run or a clean stop, 1 after an error, 2 for a command line that cannot be, 130 after
        an interrupt that found no round to wait for.
    """
    _log_quietly()
    given = sys.argv[1:] if args is None else args
    with last_words(), lock.none_left():
        if given and given[0] in COMMANDS:
            return edge.status_of(lambda: import_module(COMMANDS[given[0]]).run(given[1:]), given)
        return edge.status_of(lambda: _run(args), given)
