"""Sweeps seeds and learning rates of any configuration, goes on where it stopped, and tells the best rate.

    python launch/sweep.py --root runs/sweep --seeds 1 2 3 --lrs 1e-4 3e-4 1e-3 --nproc 2 -- \
        --config configs/model/opt-125m.yaml --config configs/task/sst2.yaml --config configs/method/hiso.yaml

What follows ``--`` are options of ``hiso-pl fit``. A run is one ``fit`` of them with its own learning rate, seed and
folder under ``--root``, and with one more option at each of its values if ``--vary KEY VALUE ...`` is given. A rank has
one CPU thread unless a configuration or ``--threads`` says otherwise, so that results do not depend on ``--nproc``.

Start the same command again after a stop: runs that are complete are not repeated, a broken-off one is resumed from its
last checkpoint, or begun anew if it has none. The grid may grow from one call to the next, but a run whose
configuration is not what is asked now is an error. Ctrl-C ends the runs under way after their rounds, with checkpoints.

The folder holds ``sweep.md`` and ``sweep.json`` with the table over all its runs (``--report`` makes them alone), and
each run with its ``fit.log``. The best rate is chosen on validation: by the mean over seeds of the metric's best value,
or of its last. Exit status: 0, 1 if a run failed, 2 if the request cannot be, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from hiso_pl.callbacks.summary import BETTER_LOW
from hiso_pl.cli import program as cli
from hiso_pl.run import checkpoint
from hiso_pl.run.folder import SUMMARY, held_by_run, json_text, newest_checkpoint, write_atomically

ASKED, LOG, LOCK = "asked.json", "fit.log", ".lock"
MARK = "sweep.py runs: "  # begins each part of a log
SEED, RATE, FOLDER = "seed_everything", "model.method.init_args.lr", "trainer.default_root_dir"
FIRST = ("--threads", "1", "--trainer.enable_progress_bar", "false")  # the user's options come later and win
FREE = (FOLDER, "trainer.enable_progress_bar")  # what may change between two calls
METRICS = ("val/accuracy", "val/f1", "val/drop_f1", "val/rougeL", "val/loss")


@dataclass(frozen=True)
class Setting:
    """What one run has of its own: learning rate, seed and, if an option is varied, its key and value."""

    lr: float
    seed: int
    key: str = ""
    value: str = ""

    @property
    def folder(self) -> str:
        """The run's folder below the root; another one for every setting."""
        varied = [plain_name(f"{self.key.rpartition('.')[2]}-{self.value}", self.key)] if self.key else []
        return "/".join([*varied, f"lr-{self.lr!r}", f"seed-{self.seed}"])

    @property
    def flags(self) -> list[str]:
        """The options of ``fit`` that make the setting."""
        varied = [f"--{self.key}", self.value] if self.key else []
        return [*varied, f"--{RATE}", repr(self.lr), f"--{SEED}", str(self.seed)]


def plain_name(text: str, salt: str = "") -> str:
    """A name for a folder; text that is none, or too long, keeps its head and is told apart by a hash."""
    plain = re.sub(r"[^\w.+-]+", "-", text).strip("-.")
    if plain == text and len(plain) <= 60:
        return plain
    return f"{plain[:48]}-{hashlib.sha256(f'{salt} {text}'.encode()).hexdigest()[:8]}"


# What is asked, and what is there


def resolve(arguments: Sequence[str]) -> dict[str, str]:
    """The configuration that ``fit`` makes of its options, as text under dotted keys.

    Raises:
        ValueError: If it cannot be understood.
    """
    said, errors = io.StringIO(), io.StringIO()
    status: Any
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about arguments beside those of the process
        try:
            status = cli.main(["fit", *arguments, "--print_config"])
        except SystemExit as end:
            status = end.code
    if status != 0:
        raise ValueError(errors.getvalue().rpartition("hiso-pl: error: ")[2].strip() or f"fit ended with {status}")
    return checkpoint.flatten(yaml.safe_load(said.getvalue()))


def check_asked(folder: Path, asked: Mapping[str, str]) -> None:
    """Refuses a folder that holds a run of another configuration.

    Raises:
        ValueError: If it does, or holds a run that no sweep has begun.
    """
    path = folder / ASKED
    if not path.exists():
        if held_by_run(folder):
            raise ValueError(f"{folder} holds a run that this sweep has not begun: give another --root")
        return
    before = json.loads(path.read_text(encoding="utf-8"))["configuration"]
    for key in sorted({*before, *asked} - set(FREE)):
        was, now = before.get(key, "absent"), asked.get(key, "absent")
        if was != now:
            raise ValueError(f"{folder} holds a run with {key}={was}, but {now} is asked: give another --root")


def complete(folder: Path, asked: Mapping[str, str]) -> bool:
    """Whether a folder holds a run that went through all rounds, and its test if one is asked for."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    tested = asked["test_at_end"] != "True" or any(name.startswith("test/") for name in summary["metrics"])
    return not summary["interrupted"] and str(summary["rounds"]) == asked["trainer.max_steps"] and tested


def prepare(folder: Path, setting: Setting, asked: Mapping[str, str]) -> list[str]:
    """Makes a folder ready for its run to begin or to go on.

    Returns:
        The options that resume it, if there is a checkpoint; what is left of a run without one is thrown away.
    """
    if newest_checkpoint(folder) is not None:
        return ["--ckpt_path", "last"]
    shutil.rmtree(folder, ignore_errors=True)
    write_atomically(folder / ASKED, json_text({"setting": asdict(setting), "configuration": dict(asked)}, 1) + "\n")
    return []


def fit_command(nproc: int, arguments: Sequence[str]) -> list[str]:
    """The command of one run."""
    ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"] if nproc > 1 else []
    return [sys.executable, *ranks, "-m", "hiso_pl", "fit", *arguments]


# Running


@dataclass(frozen=True)
class Run:
    """A run that is to be carried out."""

    folder: Path
    setting: Setting
    asked: Mapping[str, str]


def say(text: str) -> None:
    """One line on stderr; stdout is for the table."""
    print(text, file=sys.stderr, flush=True)


def start(command: Sequence[str], folder: Path, keep_open: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Starts a run in a session of its own, so that a terminal's Ctrl-C reaches it through the sweep only."""
    # torchrun kills ranks 30 s after a signal unless told; a round and its checkpoint may take longer
    environment = {"OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300", **os.environ}
    with (folder / LOG).open("ab") as log:
        log.write(f"{MARK}{shlex.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            pass_fds=keep_open,
        )


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """The SIGINT and SIGTERM that have come."""
    came: list[int] = []
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def carry_out(
    runs: Sequence[Run], jobs: int, begin: Callable[[Run], subprocess.Popen[bytes]], pause: float = 0.1
) -> tuple[list[str], int]:
    """Carries out runs, so many at a time; one that fails does not keep the others from going on.

    Args:
        runs: The runs.
        jobs: Most runs at a time.
        begin: Starts a run.
        pause: Seconds between two looks at the processes.

    Returns:
        What went wrong, a line for each failed run, and the signal that ended the sweep, or 0.
    """
    waiting, failed = deque(runs), list[str]()
    running: dict[subprocess.Popen[bytes], tuple[Run, float]] = {}
    with noted_signals() as came:
        forwarded = False
        try:
            while running or (waiting and not came):
                while waiting and len(running) < jobs and not came:
                    run = waiting.popleft()
                    running[begin(run)] = (run, time.monotonic())
                if came and not forwarded:
                    name = signal.Signals(came[0]).name
                    say(f"sweep.py: {name}: {len(running)} run(s) end after the round under way")
                    forwarded = True
                    for process in running:
                        process.send_signal(signal.SIGINT)
                for process in [p for p in running if p.poll() is not None]:
                    run, began = running.pop(process)
                    if complete(run.folder, run.asked):
                        say(f"{run.folder}: complete, {time.monotonic() - began:.0f} s")
                    elif not came:
                        failed.append(f"{run.folder} ended with status {process.returncode}: {last_line(run.folder)}")
                        say(f"sweep.py: error: {failed[-1]}")
                time.sleep(pause)
        finally:  # also after an error of the sweep's own
            for process in running:
                process.send_signal(signal.SIGINT)
            for process in running:
                process.wait()
    return failed, came[0] if came else 0


def last_line(folder: Path) -> str:
    """The last line a run has said since it was last started, or its error if it has named one."""
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace").rpartition(MARK)[2]
    lines = text.strip().splitlines()[1:]  # the first is the command
    said = [line for line in lines if "error" in line.lower() and "hiso-pl" in line]
    return (said or lines or ["it said nothing"])[-1].strip()


@contextlib.contextmanager
def locked(root: Path) -> Iterator[int]:
    """Keeps a second sweep out of the folder; runs inherit the lock, so one that outlives its sweep keeps it.

    Raises:
        ValueError: If the folder is taken.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"--root={root} is in use by another sweep, or by a run that outlived its own") from None
        yield file.fileno()


# Reporting


@dataclass(frozen=True)
class Outcome:
    """What a run of the folder has come to; without metrics it is not complete."""

    setting: Setting
    metrics: Mapping[str, Mapping[str, float | None]]
    kb: float = 0.0
    reached: tuple[int, float] | None = None  # rounds and KB to the target

    def value(self, metric: str, which: str) -> float | None:
        """The best or last value, if there is one that is a number."""
        found = self.metrics.get(metric, {}).get(which)
        return found if found is not None and math.isfinite(found) else None


@dataclass(frozen=True)
class Row:
    """All seeds of one learning rate."""

    key: str
    varied: str
    lr: float
    outcomes: tuple[Outcome, ...]

    @property
    def finished(self) -> tuple[Outcome, ...]:
        """The runs that are complete."""
        return tuple(outcome for outcome in self.outcomes if outcome.metrics)

    def values(self, metric: str, which: str) -> list[float]:
        """One value for each complete run that has one."""
        return [v for outcome in self.finished if (v := outcome.value(metric, which)) is not None]


def lower_is_better(metric: str) -> bool:
    """As the summary of a run has it."""
    return metric.endswith(BETTER_LOW)


def read_all(root: Path) -> list[Outcome]:
    """All runs below a folder, by setting."""
    found = []
    for path in root.glob(f"**/{ASKED}"):
        noted = json.loads(path.read_text(encoding="utf-8"))
        setting = Setting(**noted["setting"])
        if complete(path.parent, noted["configuration"]):
            summary = json.loads((path.parent / SUMMARY).read_text(encoding="utf-8"))
            found.append(Outcome(setting, summary["metrics"], summary["comm"]["paper_kb"]))
        else:
            found.append(Outcome(setting, {}))
    return sorted(found, key=lambda o: (o.setting.key, o.setting.value, o.setting.lr, o.setting.seed))


def with_target(root: Path, outcome: Outcome, metric: str, target: float) -> Outcome:
    """The same with rounds and KB to the first validation at the target, from the run's curves."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not outcome.metrics:
        return outcome
    events = EventAccumulator(str(root / outcome.setting.folder), size_guidance={"scalars": 0})
    events.Reload()
    short = metric.rpartition("/")[2]
    kb = [event.step / 1024 for event in events.Scalars(f"val_by_paper_bytes/{short}")]
    for event, sent in zip(events.Scalars(metric), kb, strict=True):
        value = round(event.value, 6)  # the files hold fp32
        if value <= target if lower_is_better(metric) else value >= target:
            return Outcome(outcome.setting, outcome.metrics, outcome.kb, (event.step, sent))
    return outcome


def choose_metric(outcomes: Sequence[Outcome], asked: str | None) -> str:
    """The metric asked for, or the first of the usual ones that all complete runs have.

    Raises:
        ValueError: If they do not have it.
    """
    names = [set(outcome.metrics) for outcome in outcomes if outcome.metrics]
    common = set.intersection(*names) if names else set()
    metric = next((name for name in METRICS if name in common), METRICS[0]) if asked is None else asked
    if names and metric not in common:
        raise ValueError(f"--metric={metric} must be one of {', '.join(sorted(common))}")
    return metric


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """The runs by varied option and learning rate."""
    groups: dict[tuple[str, str, float], list[Outcome]] = {}
    for outcome in outcomes:
        s = outcome.setting
        groups.setdefault((s.key, s.value, s.lr), []).append(outcome)
    return [Row(*group, tuple(found)) for group, found in sorted(groups.items())]


def best_row(rows: Sequence[Row], metric: str, by: str) -> Row | None:
    """The row with most seeds that count, then the best mean of what is chosen by, then of the other value."""
    sign = -1.0 if lower_is_better(metric) else 1.0
    other = "last" if by == "best" else "best"

    def rank(row: Row) -> tuple[float, ...]:
        chosen, second = row.values(metric, by), row.values(metric, other)
        return len(chosen), sign * statistics.fmean(chosen), sign * statistics.fmean(second or chosen)

    counting = [row for row in rows if row.values(metric, by)]
    return max(counting, key=rank) if counting else None


def edge(row: Row, rows: Sequence[Row]) -> str:
    """Which end of its grid the row's rate is: ``lowest``, ``highest``, or nothing if others lie on both sides."""
    rates = [r.lr for r in rows]
    if len(rates) < 2:
        return ""
    return "lowest" if row.lr == min(rates) else "highest" if row.lr == max(rates) else ""


def spread(values: Sequence[float], form: str, of: int) -> str:
    """Mean with the range over seeds; says how many there are if it is not all of them."""
    if not values:
        return "none"
    text = format(statistics.fmean(values), form)
    if len(values) > 1:
        text += f" ({format(min(values), form)} to {format(max(values), form)})"
    return text if len(values) == of else f"{text}, {len(values)} of {of}"


def report(outcomes: Sequence[Outcome], metric: str, by: str, target: float | None) -> tuple[str, dict[str, Any]]:
    """The table as Markdown, and all that it says as plain values."""
    rows = rows_of(outcomes)
    grids: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grids.setdefault((row.key, row.varied), []).append(row)
    best = {group: best_row(grid, metric, by) for group, grid in grids.items()}
    keys = sorted({row.key for row in rows if row.key})
    to = [] if target is None else [f"rounds to {target:g}", f"KB to {target:g}"]
    head = [*([" / ".join(keys)] if keys else []), "learning rate", "seeds", f"best {metric}", f"last {metric}", *to]
    lines = [f"| {' | '.join([*head, 'KB sent'])} |", "|" + " --- |" * (len(head) + 1)]
    notes, plain = [], []
    for row in rows:
        chosen, n = best[row.key, row.varied] is row, len(row.finished)
        reached = [outcome.reached for outcome in row.finished if outcome.reached is not None]
        cells = [row.varied] if keys else []
        cells.append(f"**{row.lr:g}** (best)" if chosen else f"{row.lr:g}")
        cells.append(str(n) if n == len(row.outcomes) else f"{n} of {len(row.outcomes)}")
        cells += [spread(row.values(metric, which), ".4f", n) for which in ("best", "last")]
        if target is not None:
            cells += [spread([r for r, _ in reached], ".0f", n), spread([kb for _, kb in reached], ".1f", n)]
        cells.append(spread(sorted({outcome.kb for outcome in row.finished}), ".1f", len({o.kb for o in row.finished})))
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        if chosen and (end := edge(row, grids[row.key, row.varied])):
            where = f" with {row.key}={row.varied}" if row.key else ""
            notes.append(
                f"Warning: the best learning rate{where}, {row.lr:g}, is the {end} of its grid: try beyond it."
            )
        plain.append(
            {
                **({row.key: row.varied} if row.key else {}),
                "lr": row.lr,
                "is_best": chosen,
                "seeds": [outcome.setting.seed for outcome in row.finished],
                "unfinished": [outcome.setting.seed for outcome in row.outcomes if not outcome.metrics],
                "best": [outcome.value(metric, "best") for outcome in row.finished],
                "last": [outcome.value(metric, "last") for outcome in row.finished],
                "rounds_to_target": [outcome.reached and outcome.reached[0] for outcome in row.finished],
                "kb_to_target": [outcome.reached and outcome.reached[1] for outcome in row.finished],
                "kb": [outcome.kb for outcome in row.finished],
            }
        )
    if len(best) > 1 and (overall := best_row([row for row in best.values() if row], metric, by)):
        notes.append(f"Best of all: {overall.key}={overall.varied} with learning rate {overall.lr:g}.")
    if unfinished := [outcome.setting.folder for outcome in outcomes if not outcome.metrics]:
        notes.append(f"Not complete: {', '.join(unfinished)}.")
    how = f"Mean over seeds (range); the best rate has the best mean of the {by} {metric}."
    text = "\n".join([how, "", *lines, "", *(line + "\n" for line in notes)]).strip() + "\n"
    return text, {"metric": metric, "by": by, "target": target, "rows": plain, "notes": notes}


def write_report(root: Path, options: argparse.Namespace) -> None:
    """Writes and prints the table over all runs of the folder.

    Raises:
        ValueError: If there is none, or the metric is not theirs.
    """
    outcomes = read_all(root)
    if not outcomes:
        raise ValueError(f"--root={root} holds no run of a sweep")
    metric = choose_metric(outcomes, options.metric)
    if options.target is not None:
        outcomes = [with_target(root, outcome, metric, options.target) for outcome in outcomes]
    text, plain = report(outcomes, metric, options.by, options.target)
    write_atomically(root / "sweep.md", text)
    write_atomically(root / "sweep.json", json_text(plain, 1) + "\n")
    print(text, end="")


# The command


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    own, fit = list(arguments), list[str]()
    if "--" in own:
        at = own.index("--")
        own, fit = own[:at], own[at + 1 :]
    head, _, rest = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the sweep; each run gets one below it")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="seeds, each with all rates (default: 1)")
    parser.add_argument("--lrs", nargs="+", type=float, help="learning rates (default: the configuration's one)")
    parser.add_argument("--vary", nargs="+", metavar=("KEY", "VALUE"), help="one more option of fit, and its values")
    parser.add_argument("--nproc", type=int, default=1, help="ranks of a run, by torchrun if more than 1 (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--metric", help=f"what is compared (default: the first there is of {', '.join(METRICS)})")
    parser.add_argument("--by", choices=("best", "last"), default="best", help="which of its values chooses the rate")
    parser.add_argument("--target", type=float, help="value to reach: adds rounds and KB until it was first seen")
    parser.add_argument("--report", action="store_true", help="start nothing, and make the table of what there is")
    options = parser.parse_args(own)
    options.fit, options.root = fit, options.root.expanduser()
    if options.report:
        return options
    if not fit:
        parser.error("no configuration: give options of fit after --, for instance -- --config FILE.yaml")
    for name in ("nproc", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}={getattr(options, name)} must be at least 1")
    if not all(rate > 0 and math.isfinite(rate) for rate in options.lrs or []):
        parser.error("--lrs must be positive numbers")
    if options.vary is not None and len(options.vary) < 2:
        parser.error(f"--vary {options.vary[0]} must be followed by values")
    options.vary = [options.vary[0].lstrip("-"), *dict.fromkeys(options.vary[1:])] if options.vary else None
    ours = {SEED: "--seeds", RATE: "--lrs", FOLDER: "--root", "ckpt_path": "nothing, as runs are resumed by themselves"}
    for word in fit if options.vary is None else [*fit, f"--{options.vary[0]}"]:
        key = word.removeprefix("--").partition("=")[0]
        key = RATE if key == "model.method.lr" else key
        if word.startswith("--") and key in ours:
            parser.error(f"{word.partition('=')[0]} is set by the sweep: give {ours[key]} instead")
        if options.vary is not None and word in fit and key == options.vary[0]:
            parser.error(f"{word.partition('=')[0]} is set by --vary: leave it out after --")
    return options


def plan(options: argparse.Namespace) -> list[Run]:
    """All runs that are asked for, seed by seed so that an early look is of whole grids.

    Raises:
        ValueError: If the configuration cannot be understood, or a folder holds a run of another.
    """
    common = [*FIRST, *options.fit]
    rates = sorted(set(options.lrs)) if options.lrs else [float(resolve(common)[RATE])]
    varied = [(options.vary[0], value) for value in options.vary[1:]] if options.vary else [("", "")]
    runs = []
    for seed in dict.fromkeys(options.seeds):
        for key, value in varied:
            for rate in rates:
                setting = Setting(rate, seed, key, value)
                folder = options.root / setting.folder
                asked = resolve([*common, *setting.flags, f"--{FOLDER}", str(folder)])
                check_asked(folder, asked)
                runs.append(Run(folder, setting, asked))
    return runs


def sweep(options: argparse.Namespace) -> int:
    """Carries out what is missing, and reports.

    Returns:
        The exit status.

    Raises:
        ValueError: If the request cannot be.
    """
    if options.report:
        write_report(options.root, options)
        return 0
    runs = plan(options)
    with locked(options.root) as lock:
        todo = [run for run in runs if not complete(run.folder, run.asked)]
        say(f"{len(runs)} runs, {len(runs) - len(todo)} of them complete already")

        def begin(run: Run) -> subprocess.Popen[bytes]:
            resume = prepare(run.folder, run.setting, run.asked)
            say(f"{run.folder}: {'goes on' if resume else 'begins'}")
            arguments = [*FIRST, *options.fit, *run.setting.flags, f"--{FOLDER}", str(run.folder), *resume]
            return start(fit_command(options.nproc, arguments), run.folder, [lock])

        failed, came = carry_out(todo, options.jobs, begin)
        if came:
            say("sweep.py: interrupted; the same command goes on from here")
            return 128 + came
        write_report(options.root, options)
    for line in failed:
        say(f"sweep.py: error: {line}")
    return 1 if failed else 0


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(arguments)
    try:
        return sweep(options)
    except (ValueError, OSError) as error:
        say(f"sweep.py: error: {error}")
        return 2
    except KeyboardInterrupt:  # before the first run
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
