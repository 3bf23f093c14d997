"""The help of a run's commands: the method's options and the data's first, each in a line, then everything else.

Which class gives the data or the parts is itself an option, so the parser tells of their options only where a class is
asked for. Here those of the package's own classes are told at once, from their docstrings and signatures.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from hiso_pl.cli import parser_privates, trainer_table
from hiso_pl.cli.options import own_classes

FIRST = {
    "fit": ("trainer.max_steps", "trainer.val_check_interval", "trainer.default_root_dir", "ckpt_path"),
    "": ("trainer.default_root_dir", "ckpt_path"),
}
"""What is told of a run as a whole, by command; "" for those that measure."""
ROOMS = ("model.method", "data", "model.network")
SAYS = {
    "fit": "Trains: rounds, validations, checkpoints, curves and a ledger, in one folder.",
    "validate": "Measures a model on the validation split: the checkpoint's, or as it comes without --ckpt_path.",
    "test": "Measures a model on the test split: the checkpoint's, or as it comes without --ckpt_path.",
    "predict": "Writes what a model predicts into predictions.jsonl: the checkpoint's, or as it comes.",
}
_LEADS = "last is the newest checkpoint of the folder, best the one that checkpoint.monitor prefers, else a file."
TELLS = {
    "config": "YAML file, or name of one that comes with it (hiso-pl configs); several compose, the last prevails.",
    "ckpt_path": f"Checkpoint to load: {_LEADS}",
    "trainer.max_steps": "Rounds.",
    "trainer.val_check_interval": "Rounds from one validation to the next.",
    "trainer.default_root_dir": "The run's folder, which everything is written into.",
    "trainer.num_sanity_val_steps": "-1 measures the model as it comes, before any round; 0 does not.",
    "trainer.limit_val_batches": "0 leaves validations out; otherwise 1.0.",
    "trainer.limit_test_batches": "0 leaves the test out; otherwise 1.0.",
    "trainer.log_every_n_steps": "Rounds from one entry of Lightning's callbacks to the next; of curves see board.",
    "trainer.devices": "Processes on this machine, or GPUs; hiso-pl launch --nproc says it too.",
    "trainer.accelerator": "cpu, gpu or auto.",
    "trainer.strategy": "How the processes meet: hiso_pl.ranks.strategy.ScalarStrategy, with options of its own.",
    "trainer.num_nodes": "Machines; hiso-pl launch --nnodes says it.",
    "trainer.logger": "Loggers in place of TensorBoard's in the run's folder; false for none.",
    "trainer.callbacks": "Callbacks besides the run's own; --trainer.callbacks+ adds one.",
    "trainer.enable_progress_bar": "Whether to show one.",
    "trainer.enable_model_summary": "Whether to tell of the model's layers at the start.",
    "trainer.profiler": "simple, advanced, pytorch or a class: where a run's time goes.",
    "checkpoint.monitor": "Metric by which checkpoints are kept, such as val/accuracy; null keeps the newest.",
    "checkpoint.mode": "Whether the metric is to be min or max.",
    "checkpoint.every_n_train_steps": "Rounds between checkpoints; with a monitor of val/ one waits for a validation.",
    "checkpoint.save_top_k": "How many are kept; 0 none but last.ckpt, -1 all.",
    "checkpoint.save_last": "Whether each is also written as last.ckpt; a run's end writes it in any case.",
    "checkpoint.dirpath": "Another folder than checkpoints in the run's; --ckpt_path last looks in that alone.",
    "checkpoint.filename": "Name of a file, with {step} and metrics in braces.",
    "checkpoint.auto_insert_metric_name": "Whether names of metrics stand in that too.",
    "checkpoint.enable_version_counter": "Whether a name that is taken gets a number, or is written over.",
    "checkpoint.save_weights_only": "Whether to leave out H and what else a run needs to go on.",
    "checkpoint.save_on_exception": "Whether to save one when a run fails; its state may be no round's.",
    "checkpoint.verbose": "Whether to say that one is written.",
    "print_config": "Print what all options come to, and do nothing more; =skip_default leaves defaults out.",
}
"""What is said of an option here where Lightning's own words tell of another use."""
GOES_ON = (
    "Where to go on from: last, the newest checkpoint of the folder; auto, the same or the start where there is none; "
    "ledger, what the records rebuild; or a checkpoint's file. best is for validate, test and predict."
)


def settle(parser: ArgumentParser, command: str) -> None:
    """Gives the parser of a command its help."""
    for action in parser._actions:
        name = action.dest if "--print_config" not in action.option_strings else "print_config"
        if name in TELLS:
            action.help = TELLS[name]
        if action.dest == "ckpt_path" and command == "fit":
            action.help = GOES_ON
    parser.format_help = lambda *_: text(parser, command)  # type: ignore[method-assign]


def text(parser: ArgumentParser, command: str) -> str:
    """All of the help."""
    lines = [f"usage: hiso-pl {command} [--config FILE_OR_NAME ...] [--OPTION VALUE ...]", "", SAYS[command], ""]
    options = {action.dest: action for action in parser._actions if _told(action)}
    first = FIRST.get(command, FIRST[""])
    method, data, network = ([*_of_room(parser, room, options.pop(room))] for room in ROOMS)
    usual, common = method.index("", 1), data.index("", 1)  # where those of one class or another begin
    lines += [*method[1:usual], *data[:common], "", "The run:"]
    lines += _rows(((f"--{name}", options.pop(name)) for name in ("config", *first)), whole=True)
    lines += [*method[usual:], *data[common:], *network]
    lines += ["", "Everything else:"]
    rest = sorted(options, key=lambda name: (name.startswith("trainer."), "." in name))
    lines += _rows(((f"--{name}", options[name]) for name in rest), whole=True)
    lines += ["", "Options of Lightning's Trainer that are not told here are fixed; each says why if it is given."]
    lines += [
        "--data.help CLASS, --model.method.help CLASS and so on tell of a class's options in full. One of your own is"
    ]
    lines += ["named with its module, which may be a file of the current folder: mine.MyData."]
    return "\n".join(lines) + "\n"


def _of_room(parser: ArgumentParser, room: str, action: Any) -> Iterator[str]:
    """The options of what an option names: those of all its classes, then what each has besides."""
    told: dict[str, set[str]] = {}
    kind, classes = parser_privates.kinds(action)[0], own_classes(action)
    for theclass in [kind, *classes] if room == "data" else classes:
        path = parser_privates.path_of(theclass)
        options = [
            a for a in parser_privates.class_parser(parser, theclass, action)._actions if _told(a) and a.dest != "seed"
        ]
        mine = {a.dest for a in options}
        like = max(told, key=lambda other: len(told[other] & mine) - len(told[other] - mine), default="")
        common = told.get(like, set()) & mine
        told[path] = mine
        every = room == "data" and theclass is kind
        without = ", ".join(sorted(told.get(like, set()) - mine))
        those = "all that" if like == parser_privates.path_of(kind) else like.rpartition(".")[2] + "'s"
        those = (
            f"; {those}{' but ' + without if without else ''}" + (", and" if mine - common else "") if common else ","
        )
        title = f"--{room} {'CLASS, any' if every else path}{those}" + (f" as --{room}.NAME:" if mine - common else "")
        yield from ("", *textwrap.wrap(title, _width()))
        yield from _rows((a.dest, a) for a in options if a.dest not in common)


def _told(action: Any) -> bool:
    """Whether an action is an option to be told of."""
    group = parser_privates.is_group(action)
    named = bool(action.option_strings) and action.dest not in (*trainer_table.FIXED, "model.seed")  # the run's
    return named and not group and action.help != argparse.SUPPRESS and not _is_help(action)


def _is_help(action: Any) -> bool:
    return action.dest == "help" or action.dest.endswith(".help") or "--print_shtab" in action.option_strings


def _rows(options: Iterable[tuple[str, Any]], whole: bool = False) -> Iterator[str]:
    """A line for each option: name, default, what it is; the first sentence if not the whole."""
    width = _width()
    listed = [(name, _default(action), _meaning(action)) for name, action in options]
    long = min(44, max((len(name) for name, *_ in listed), default=0))
    wide = min(12, max((len(default) for _, default, _ in listed), default=0))
    for name, default, meaning in listed:
        head = f"  {name:<{long}}  {default:<{wide}}  "
        if not whole:
            yield (head + textwrap.shorten(meaning.partition(". ")[0], width - len(head), placeholder=" ...")).rstrip()
            continue
        indent = " " * (long + wide + 6)
        yield from textwrap.wrap(head + meaning, width, subsequent_indent=indent, drop_whitespace=True) or [head]


def _width() -> int:
    return min(120, max(80, shutil.get_terminal_size((110, 24)).columns))


def _meaning(action: Any) -> str:
    text = " ".join(str(action.help or "").replace("%%", "%").replace("``", "").split()).rstrip(".")
    names = [path.rpartition(".")[2] for path in parser_privates.known_classes(action) if path.startswith("hiso_pl.")]
    return f"{text} ({', '.join(names)})" if len(names) > 1 and not action.dest.endswith("callbacks") else text


def _default(action: Any) -> str:
    value = action.default
    path = getattr(value, "class_path", None) or (value.get("class_path") if isinstance(value, dict) else None)
    if path is not None:
        return str(path).rpartition(".")[2]
    if isinstance(value, Namespace) or value == argparse.SUPPRESS:
        return ""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
