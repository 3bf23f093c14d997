"""What is said beside the answers themselves, by this package and by those that it uses."""

from __future__ import annotations

import logging
import os
import warnings

from hiso_pl.ranks import environment


def quiet() -> None:
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
        r".*args parameter is intended to run from within Python.*",
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
