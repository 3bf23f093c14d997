"""The command ``hiso-pl export``: from a run's checkpoint to a folder that Hugging Face's ``from_pretrained`` opens.

What is built is said by the configuration that is named on the command line, trusted as it is for ``fit``; the
checkpoint gives the values of the trained tensors, once it has been compared with what was built, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from hiso_pl.cli.config_file import pruned
from hiso_pl.cli.parser import ConfigurationError, Parser, add_traceback
from hiso_pl.cli.voice import quiet
from hiso_pl.ranks import environment

KEPT: dict[str, Any] = {
    **dict.fromkeys(("seed_everything", "threads", "deterministic", "model")),
    "trainer": {"default_root_dir": None},
    "data": {"init_args": {"tokenizer": None, "task": None, "classes": None}},
}
"""What is read of a run's configuration: the sections that say what its network is, and four values of the others."""

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """One export.

    Args:
        output: Folder to write. It must not exist, or be empty.
        ckpt_path: Checkpoint of the run; ``last`` is the newest in the folder ``trainer.default_root_dir``, ``best``
            the one that ``checkpoint.monitor`` prefers.
        merge: Whether to write the whole model with the adapter merged into it, instead of the adapter alone.
        dtype: What weights are stored in. Training's own are fp32, and ``from_pretrained`` computes in what is stored
            (before version 5 of transformers only if told ``dtype="auto"``).
        overwrite: Whether a folder that an earlier export wrote is replaced; not if it holds anything else.
        tokenizer: Folder or hub name of the tokenizer. If null, that of the run's data, or else the model's.

    Raises:
        ValueError: If an option cannot be.
    """

    output: str
    ckpt_path: str = "last"
    merge: bool = False
    dtype: Dtype = "float32"
    overwrite: bool = False
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read."""
        if not self.output:
            raise ValueError("output='' must be a folder")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype={self.dtype!r} must be one of {', '.join(get_args(Dtype))}")


class ExportParser(Parser):
    """Takes a run's configuration, of which it reads what concerns the network."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parses what concerns the network; trainer, data and callbacks are not looked at."""
        return super().parse_string(pruned(content, KEPT), *args, **kwargs)


def run(args: Sequence[str]) -> Path:
    """Runs ``hiso-pl export``, given what follows it, and returns the folder written.

    Raises:
        ConfigurationError: If the command line cannot be understood.
        ValueError: If there is nothing to export, it is of another model, or the folder is not free.
    """
    settings, parser, config = parse(args)
    if environment.world_size() > 1:
        raise ConfigurationError(
            f"export is for one process, not {environment.world_size()}: start it without a launcher"
        )
    from hiso_pl.export.command import export
    from hiso_pl.stages.options import made_in_place

    def build() -> Any:
        with made_in_place(config.get("model.stages"), alone=True):
            return parser.instantiate(config).model

    quiet()  # Lightning, which comes with it, sets up loggers of its own
    return export(settings, config, build)


def parse(args: Sequence[str]) -> tuple[Settings, ExportParser, Namespace]:
    """Reads a command line.

    Args:
        args: What follows ``export``.

    Returns:
        What to do, the parser, and the configuration, of which nothing has been built yet.

    Raises:
        ConfigurationError: If it cannot be understood, or an option cannot be.
    """
    parser = ExportParser(
        prog="hiso-pl export",
        description="Writes a checkpoint's model or adapter as a Hugging Face folder. Give the run's config.yaml: it "
        "says which network this is.",
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="The run's configuration; several compose.")
    parser.add_class_arguments(Settings)
    parser.add_argument("--seed_everything", type=int, default=0, help="The run's seed.")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads. If null, all cores.")
    parser.add_argument("--deterministic", type=bool, default=True, help="As for fit.")
    parser.add_argument("--trainer.default_root_dir", type=str | None, default=None, help="The run's folder.")
    parser.add_argument("--data.init_args.tokenizer", type=str | None, default=None, help="The tokenizer of the data.")
    parser.add_argument("--data.init_args.task", type=Any, default=None, help="The task, which names the classes.")
    parser.add_argument("--data.init_args.classes", type=Any, default=None, help="Other names of the classes.")
    add_traceback(parser)
    if {"-h", "--help"} & {*args}:
        told = "As for fit: in the run's config.yaml, or a file or options that say the same."
        parser.add_argument("--model.network", type=Any, default=None, help=told)
    else:  # what it imports takes seconds
        from hiso_pl.export.module import ExportedModule

        parser.add_class_arguments(ExportedModule, "model", fail_untyped=False, sub_configs=True)
        parser.link_arguments("seed_everything", "model.seed")
    config = parser.parse_args(list(args))
    try:
        settings = Settings(**{field.name: config[field.name] for field in fields(Settings)})
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return settings, parser, config
