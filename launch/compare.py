"""Compares HiSo, DeComFL and their controls on one problem, each at its best learning rate of a stated grid.

    .venv/bin/python launch/compare.py --plot runs/compare/curves.png

It answers how many rounds a method needs to reach a validation accuracy, and what it ends with. A run is one
``python -m hiso_pl fit`` of ``--config``, in one process with one thread, and differs from the others in seed, learning
rate and preconditioner only: with the same seed all methods start from the same weights and see the same partition,
cohorts, minibatches and directions, for the same number of rounds under the same schedule. Options of ``fit`` after a
``--`` go to every run, for example ``-- --data.init_args.partition hiso_pl.federation.IID``.

The rate of a method is chosen on validation alone: most seeds that reach the target, then fewest rounds to it on
average, then lowest final loss. A run that diverged, ending with a loss above that before any round, has not reached
it. A second table chooses by the lowest final loss instead. A best rate at the edge of its grid is pointed out: the
grid should be wider there.

It can be interrupted and started again: a run that is complete is not repeated. The folder holds ``results.json``,
``results.md`` and each run under ``METHOD/lr-RATE/seed-SEED``. A plot needs the extra ``plots``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Method(NamedTuple):
    """What stands for H, and the learning rates that are tried with it unless others are given."""

    title: str
    preconditioner: str
    colour: str
    line: str
    rates: tuple[float, ...]


METHODS = {
    "hiso": Method("HiSo (diagonal)", "Diagonal", "#0072B2", "-", (0.0085, 0.01, 0.012, 0.014, 0.017)),
    "decomfl": Method("DeComFL (identity)", "Identity", "#D55E00", "--", (0.01, 0.012, 0.014, 0.017, 0.02)),
    "scalar": Method("one scalar", "Scalar", "#444444", "-.", (0.0085, 0.01, 0.012, 0.014, 0.017)),
    "per_tensor": Method("one per tensor", "PerTensor", "#009E73", ":", (0.0085, 0.01, 0.012, 0.014, 0.017)),
}


@dataclass(frozen=True)
class Run:
    """A finished run: its validations in order, the first of them before any round, and its test."""

    seed: int
    rounds: tuple[int, ...]
    kb: tuple[float, ...]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    test_accuracy: float
    digest: str = ""

    @property
    def diverged(self) -> bool:
        """Whether it ends with a loss above that before any round, or with none that is a number."""
        return not self.loss[-1] <= self.loss[0]

    def first_at(self, target: float) -> int | None:
        """Position of the first validation at the target or above; none if there is none, or the run diverged."""
        if self.diverged:
            return None
        return next((i for i, accuracy in enumerate(self.accuracy) if accuracy >= target), None)

    def rounds_to(self, target: float) -> int | None:
        """Rounds to the first validation at the target or above."""
        at = self.first_at(target)
        return None if at is None else self.rounds[at]

    def fell_back(self, target: float) -> bool:
        """Whether the target was seen at some validation, but the last one is below it, or the run diverged."""
        return max(self.accuracy) >= target and (self.diverged or self.accuracy[-1] < target)


@dataclass(frozen=True)
class Cell:
    """All seeds of one method at one learning rate."""

    rate: float
    runs: tuple[Run, ...]

    def missed(self, target: float) -> int:
        """Number of seeds that do not reach the target."""
        return sum(run.rounds_to(target) is None for run in self.runs)

    def mean_rounds(self, target: float) -> float:
        """Mean rounds to the target over the seeds that reach it; infinite if none does."""
        found = [rounds for run in self.runs if (rounds := run.rounds_to(target)) is not None]
        return statistics.fmean(found) if found else math.inf

    @property
    def final_loss(self) -> float:
        """Mean last validation loss; infinite if a seed diverged."""
        return math.inf if any(run.diverged for run in self.runs) else statistics.fmean(r.loss[-1] for r in self.runs)


def best_by_rounds(cells: Sequence[Cell], target: float) -> Cell:
    """The cell with most seeds at the target, then fewest mean rounds to it, then lowest final validation loss."""
    return min(cells, key=lambda cell: (cell.missed(target), cell.mean_rounds(target), cell.final_loss))


def best_by_loss(cells: Sequence[Cell]) -> Cell:
    """The cell with the lowest mean final validation loss."""
    return min(cells, key=lambda cell: cell.final_loss)


def edge(rate: float, rates: Sequence[float]) -> str:
    """Which end of its grid a rate is: ``lowest``, ``highest``, or nothing if others lie on both sides."""
    return "lowest" if rate == min(rates) else "highest" if rate == max(rates) else ""


def spread(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    """Mean with the range over seeds; says how many there are if it is not all of them."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return "none"
    text = f"{form(statistics.fmean(found))} ({form(min(found))} to {form(max(found))})"
    return text if len(found) == len(values) else f"{text}, {len(found)} of {len(values)}"


def table(chosen: Mapping[str, Cell], grids: Mapping[str, Sequence[float]], target: float) -> str:
    """A row for each method at its chosen rate, as Markdown."""
    lines = [
        f"| method | learning rate | rounds to {target:.2f} | KB sent to {target:.2f} | final validation accuracy "
        "| final test accuracy | ended below target |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, cell in chosen.items():
        at = [run.first_at(target) for run in cell.runs]
        kb = [None if i is None else run.kb[i] for i, run in zip(at, cell.runs, strict=True)]
        where = edge(cell.rate, grids[name])
        row = (
            METHODS[name].title,
            f"{cell.rate:g}" + (f" ({where} of its grid)" if where else ""),
            spread([run.rounds_to(target) for run in cell.runs], "{:.0f}".format),
            spread(kb, "{:.1f}".format),
            spread([run.accuracy[-1] for run in cell.runs], "{:.3f}".format),
            spread([run.test_accuracy for run in cell.runs], "{:.3f}".format),
            f"{sum(run.fell_back(target) for run in cell.runs)} of {len(cell.runs)}",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def grid_table(grids: Mapping[str, Sequence[Cell]], target: float) -> str:
    """A row for each method and rate, as Markdown: what the choice was made from."""
    lines = [
        f"| method | learning rate | seeds that reach {target:.2f} | rounds to it | final validation loss "
        "| final validation accuracy | ended below target | diverged |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, cells in grids.items():
        for cell in cells:
            row = (
                METHODS[name].title,
                f"{cell.rate:g}",
                f"{len(cell.runs) - cell.missed(target)} of {len(cell.runs)}",
                spread([run.rounds_to(target) for run in cell.runs], "{:.0f}".format),
                spread([run.loss[-1] for run in cell.runs], "{:.3g}".format),
                spread([run.accuracy[-1] for run in cell.runs], "{:.3f}".format),
                str(sum(run.fell_back(target) for run in cell.runs)),
                str(sum(run.diverged for run in cell.runs)),
            )
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def ratios(chosen: Mapping[str, Cell], target: float) -> list[str]:
    """For every two methods, the rounds of the one as a part of the other's, on the same seeds."""
    lines = []
    for (one, first), (other, second) in itertools.combinations(chosen.items(), 2):
        pairs = zip(first.runs, second.runs, strict=True)
        reached = [(a, b) for x, y in pairs if (a := x.rounds_to(target)) and (b := y.rounds_to(target))]
        if reached:
            each = ", ".join(f"{a / b:.2f}" for a, b in reached)
            mean = statistics.fmean(a for a, _ in reached) / statistics.fmean(b for _, b in reached)
            titles = f"{METHODS[one].title} needs {mean:.2f} of the rounds of {METHODS[other].title}"
            lines.append(f"- {titles} (by seed: {each}).")
    return lines


# Running


def command(options: argparse.Namespace, folder: Path, preconditioner: str, rate: float, seed: int) -> list[str]:
    """The ``fit`` of one run."""
    given = {
        "config": options.config,
        "seed_everything": seed,
        "threads": 1,
        "test_at_end": "true",
        "trainer.default_root_dir": folder,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.max_steps": options.rounds,
        "trainer.val_check_interval": options.every,
        "trainer.enable_progress_bar": "false",
        "board.every_n_rounds": 50,
        "board.hessian_every_n_rounds": 0,
        "model.method.init_args.lr": rate,
        "model.method.init_args.preconditioner": f"hiso_pl.zeroth_order.{preconditioner}",
        "model.lr_scheduler": "null",
    }
    if options.schedule == "cosine":
        given["model.lr_scheduler"] = "torch.optim.lr_scheduler.CosineAnnealingLR"
        given["model.lr_scheduler.init_args.T_max"] = options.rounds
    flags = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "hiso_pl", "fit", *flags, *options.fit]


def complete(folder: Path, rounds: int) -> bool:
    """Whether a folder holds a run that went through all rounds and its test."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return summary["rounds"] == rounds and not summary["interrupted"] and "test/accuracy" in summary["metrics"]


def fit(options: argparse.Namespace, folder: Path, preconditioner: str, rate: float, seed: int) -> None:
    """Carries out one run, unless it is complete; what an interrupt left of it is thrown away first.

    Raises:
        RuntimeError: If the run ends with an error.
    """
    if complete(folder, options.rounds):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    log = folder / "fit.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w", encoding="utf-8") as stream:
        arguments = command(options, folder, preconditioner, rate, seed)
        status = subprocess.run(arguments, cwd=ROOT, env=environment, stdout=stream, stderr=stream, check=False)
    if status.returncode or not complete(folder, options.rounds):
        last = (log.read_text(encoding="utf-8").strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"{folder} ended with status {status.returncode}: {last}")
    print(f"{folder}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def read(folder: Path, seed: int) -> Run:
    """Reads a run's curves from its event files and its test from its summary."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    accuracy, loss = events.Scalars("val/accuracy"), events.Scalars("val/loss")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return Run(
        seed=seed,
        rounds=tuple(event.step for event in accuracy),
        kb=tuple(event.step / 1024 for event in events.Scalars("val_by_paper_bytes/accuracy")),
        accuracy=tuple(round(event.value, 6) for event in accuracy),
        loss=tuple(round(event.value, 6) for event in loss),
        test_accuracy=summary["metrics"]["test/accuracy"]["last"],
        digest=summary["digest"],
    )


def claim(out: Path, options: argparse.Namespace) -> None:
    """Notes in the folder what its runs have in common.

    Raises:
        ValueError: If the folder holds runs of another problem.
    """
    request = {
        "config": Path(options.config).read_text(encoding="utf-8"),
        **{key: getattr(options, key) for key in ("rounds", "every", "schedule", "fit")},
    }
    path = out / "request.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != request:
        raise ValueError(f"--out={out} holds runs of another problem (see {path.name} there): give another folder")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(request, indent=2) + "\n", encoding="utf-8")


def collect(options: argparse.Namespace, out: Path) -> dict[str, list[Cell]]:
    """Carries out all runs, seed by seed so that an early look is of whole grids, and reads them.

    Raises:
        RuntimeError: If a run ends with an error, or the runs of a seed did not start alike.
    """
    grid = options.grid
    plan = [(m, rate, seed) for seed in options.seeds for m in options.methods for rate in grid[m]]
    folders = {(m, rate, seed): out / m / f"lr-{rate:g}" / f"seed-{seed}" for m, rate, seed in plan}
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = [
            pool.submit(fit, options, folder, METHODS[m].preconditioner, rate, seed)
            for (m, rate, seed), folder in folders.items()
        ]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    runs = {key: read(folder, key[2]) for key, folder in folders.items()}
    for seed in options.seeds:
        if len({(run.loss[0], run.rounds) for run in runs.values() if run.seed == seed}) != 1:
            raise RuntimeError(f"the runs of seed {seed} did not start from the same model, or were measured apart")
    return {
        m: [Cell(rate, tuple(runs[m, rate, seed] for seed in options.seeds)) for rate in grid[m]]
        for m in options.methods
    }


# Showing


def report(options: argparse.Namespace, grids: Mapping[str, Sequence[Cell]]) -> str:
    """The comparison as Markdown."""
    target, rates = options.target, {name: [cell.rate for cell in cells] for name, cells in grids.items()}
    by_rounds = {name: best_by_rounds(cells, target) for name, cells in grids.items()}
    by_loss = {name: best_by_loss(cells) for name, cells in grids.items()}
    schedule = "cosine to zero" if options.schedule == "cosine" else "a constant rate"
    extra = f", `{' '.join(options.fit)}`" if options.fit else ""
    return "\n".join(
        [
            f"`{Path(options.config).name}`{extra}: {options.rounds} rounds, {schedule}, a validation every "
            f"{options.every} rounds, seeds {', '.join(map(str, options.seeds))}; mean (range over seeds).",
            "",
            f"Each method at the learning rate of its grid with the fewest rounds to {target:.2f} on validation:",
            "",
            table(by_rounds, rates, target),
            "",
            *ratios(by_rounds, target),
            "",
            "Each method at the learning rate of its grid with the lowest final validation loss:",
            "",
            table(by_loss, rates, target),
            "",
            "The grids:",
            "",
            grid_table(grids, target),
            "",
        ]
    )


def results(options: argparse.Namespace, grids: Mapping[str, Sequence[Cell]]) -> dict[str, Any]:
    """The comparison with all its curves, as plain values."""
    keys = ("rounds", "every", "schedule", "fit", "target", "seeds")
    return {
        "config": str(options.config),
        **{key: getattr(options, key) for key in keys},
        "methods": {
            name: {
                "preconditioner": METHODS[name].preconditioner,
                "best_by_rounds": best_by_rounds(cells, options.target).rate,
                "best_by_final_loss": best_by_loss(cells).rate,
                "grid": [
                    {
                        "rate": cell.rate,
                        "missed": cell.missed(options.target),
                        "rounds_to_target": [run.rounds_to(options.target) for run in cell.runs],
                        "runs": [asdict(run) for run in cell.runs],
                    }
                    for cell in cells
                ],
            }
            for name, cells in grids.items()
        },
    }


def finite(value: Any) -> Any:
    """The same with null for numbers that JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot(path: Path, options: argparse.Namespace, grids: Mapping[str, Sequence[Cell]]) -> None:
    """Draws validation accuracy by rounds and KB sent, and rounds to the target by learning rate."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    target, seeds = options.target, len(options.seeds)
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9}):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(9.6, 3.9), width_ratios=(1.5, 1), layout="constrained", dpi=160
        )
        for axes in (left, right):
            axes.grid(alpha=0.25, linewidth=0.6)
        for i, (name, cells) in enumerate(grids.items()):
            method, cell = METHODS[name], best_by_rounds(cells, target)
            beside = 1.025 ** (i - (len(grids) - 1) / 2)  # equal rates of two methods would hide each other
            curves = np.array([run.accuracy for run in cell.runs])
            rounds = cell.runs[0].rounds
            label = f"{method.title}, lr {cell.rate:g}"
            left.plot(rounds, curves.mean(0), method.line, color=method.colour, linewidth=1.6, label=label)
            left.fill_between(rounds, curves.min(0), curves.max(0), color=method.colour, alpha=0.13, linewidth=0)

            whole = [c for c in cells if not c.missed(target)]
            found = np.array([[run.rounds_to(target) for run in c.runs] for c in whole], dtype=float)
            if len(whole):
                mean = found.mean(1)
                bars = np.stack([mean - found.min(1), found.max(1) - mean])
                x, look = [beside * c.rate for c in whole], {"marker": "o", "markersize": 4, "linewidth": 1.2}
                right.errorbar(x, mean, bars, fmt=method.line, color=method.colour, capsize=2, **look)
            for c in cells:
                if c.missed(target):
                    right.plot(
                        beside * c.rate, options.rounds * 1.06, "x", color=method.colour, markersize=6, clip_on=False
                    )
        left.axhline(target, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
        left.set(xlabel="rounds", ylabel="validation accuracy", xlim=(0, options.rounds), ylim=(0, 1))
        left.legend(frameon=False, loc="lower right")
        sent = next(iter(grids.values()))[0].runs[0]
        # a knot beyond the end: ticks are placed there before the axis is cut
        rounds, kb = (*sent.rounds, 2 * sent.rounds[-1]), (*sent.kb, 2 * sent.kb[-1])
        to_kb = functools.partial(np.interp, xp=rounds, fp=kb)
        to_rounds = functools.partial(np.interp, xp=kb, fp=rounds)
        left.secondary_xaxis("top", functions=(to_kb, to_rounds)).set_xlabel("KB sent by and to a client")
        right.set_xscale("log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        right.xaxis.set_minor_formatter(NullFormatter())
        right.set(xlabel="learning rate", ylabel=f"rounds to {target:.2f}", ylim=(0, options.rounds * 1.12))
        right.set_title(f"\u00d7  not reached by all {seeds} seeds in {options.rounds} rounds")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        pyplot.close(figure)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; what follows ``--`` is for ``fit``."""
    own, fit_options = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, fit_options = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "compare", help="folder of the comparison")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--grid", nargs="+", default=[], metavar="METHOD=RATE,RATE,...", help="other rates of a method")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--target", type=float, default=0.8, help="validation accuracy to reach")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--every", type=int, default=25, help="rounds between validations")
    parser.add_argument("--schedule", choices=("cosine", "constant"), default="cosine", help="cosine ends at zero")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args(own)
    grid = {name: METHODS[name].rates for name in options.methods}
    for text in options.grid:
        name, _, rates = text.partition("=")
        try:
            values = tuple(sorted({float(rate) for rate in rates.split(",")}))
        except ValueError:
            parser.error(f"--grid {text}: METHOD=RATE,RATE,... with numbers is expected")
        if name not in METHODS:
            parser.error(f"--grid {text}: the method must be one of {', '.join(METHODS)}")
        grid[name] = values
    options.grid, options.fit = grid, fit_options
    options.out, options.config = options.out.resolve(), options.config.resolve()
    return options


def main(arguments: Sequence[str]) -> int:
    """Runs the comparison."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the runs under way end before their folders are left
    try:
        claim(options.out, options)
        grids = collect(options, options.out)
    except KeyboardInterrupt:
        sys.stderr.write("compare.py: interrupted; the same command goes on from here\n")
        return 130
    except (RuntimeError, ValueError, OSError) as error:
        sys.stderr.write(f"compare.py: error: {error}\n")
        return 1
    text = report(options, grids)
    (options.out / "results.md").write_text(text, encoding="utf-8")
    plain = json.dumps(finite(results(options, grids)), indent=1, allow_nan=False)
    (options.out / "results.json").write_text(plain + "\n", encoding="utf-8")
    print(text)
    if options.plot:
        plot(options.plot, options, grids)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
