"""The command itself: parse, make, say what became of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiso_pl.cli import edge
from hiso_pl.cli.parser import ConfigurationError, parse_settings
from hiso_pl.ranks import environment, process
from hiso_pl.small_language import encoder, vision
from hiso_pl.small_language.folder import Kind, make
from hiso_pl.zeroth_order.philox import check_seed

log = logging.getLogger(__name__)

STEPS: dict[Kind, int] = {"causal": 600, "encoder": encoder.STEPS, "vit": vision.STEPS}
THREADS = 1
"""CPU threads of pretraining: sums over several threads depend on how many there are."""


@dataclass(frozen=True)
class Settings:
    """One small model.

    Args:
        output: Folder to write. One that is there already, made with the same options, is left as it is.
        kind: causal, an OPT pretrained on documents; encoder, a BERT with a head, or vit, a vision transformer for the
            digits: both trained on their tasks, and stopped while they are still poor.
        steps: Steps of pretraining, each on 64 documents, 600 if null; of the others at most so many, each on 64
            examples.
        seed: Seed of the text, the initial weights and the order of the documents.

    Raises:
        ValueError: If an option cannot be.
    """

    output: str
    kind: Kind = "causal"
    steps: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is made."""
        if not self.output:
            raise ValueError("output='' must be a folder")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        check_seed(self.seed)


def run(args: Sequence[str]) -> Path:
    """Runs the command, whose errors are reported by :func:`main`, and returns the folder.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If something else is in the folder's place.
    """
    settings = parse_settings(
        Settings,
        "python -m hiso_pl.small_language",
        "Makes a small model offline: an OPT pretrained on made reviews and plain talk, or an encoder, with tokenizer "
        "and labelled sentences for training, validation and test that share no clause with what it read; or a vision "
        "transformer for the digits.",
        args,
    )
    if environment.world_size() > 1:
        raise ConfigurationError(
            f"this is for one process, not {environment.world_size()}: start it without a launcher"
        )
    process.configure(THREADS, deterministic=True)
    output = Path(settings.output).expanduser().resolve()
    steps = STEPS[settings.kind] if settings.steps is None else settings.steps
    made = make(output, settings.kind, steps, settings.seed)
    log.info("The small model is in %s%s.", settings.output, "" if made else ", made earlier")
    return output


def main(args: Sequence[str] | None = None) -> int:
    """Runs the program, and returns its exit status as :func:`hiso_pl.cli.edge.status_of` has it.

    Args:
        args: The command line; that of the process if none is given.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("hiso_pl").setLevel(logging.INFO)
    given = sys.argv[1:] if args is None else args
    return edge.status_of(lambda: run(given), given)
