from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from hiso_pl.run.folder import json_text
from hiso_pl.study.choice import Grid, best, grids, place
from hiso_pl.study.grid import Setting
from hiso_pl.study.plot import plot
from hiso_pl.study.report import ratios, report, spread
from hiso_pl.study.runner import note_asked
from hiso_pl.study.runs import Aim, Outcome, Point, choose_metric, read_outcome, read_study

ACCURACY = Aim("val/accuracy")
ROUNDS = Aim("val/accuracy", "rounds", 0.8)


def outcome(
    lr: float, seed: int = 1, best: float | None = 0.5, last: float | None = None, group: Any = (), **other: Any
) -> Outcome:
    last = best if last is None else last
    return Outcome(Setting(lr, seed, *group), True, 0.1, best, last, kb=10.0, **{"loss": 1.0, **other})


def curve_of(values: list[float], losses: list[float] | None = None, lr: float = 0.1, **setting: Any) -> Outcome:
    """A run as it is read, with a validation each 25 rounds."""
    losses = losses or [1.0] * len(values)
    metrics = {
        "val/accuracy": {"first": values[0], "best": max(values), "last": values[-1]},
        "val/loss": {"first": losses[0], "last": losses[-1]},
        "test/accuracy": {"last": values[-1] - 0.01},
    }
    summary = {"metrics": metrics, "comm": {"paper_kb": 10.0}}
    points = tuple(Point(25 * i, value, 25 * i * 80 / 1024, 2 * i, 5.0 * i) for i, value in enumerate(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hiso_pl.study.runs.read_curve", lambda *_: points)
        return read_outcome(Path(), Setting(lr, setting.pop("seed", 1), **setting), summary, ROUNDS)


def cells(text: str, which: int = 1) -> list[list[str]]:
    """The cells of a report's first or second table."""
    table = [part for part in text.split("\n\n") if part.startswith("|")][which]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


def chosen(outcomes: list[Outcome], aim: Aim) -> float | None:
    (row,) = [best(grid, aim) for grid in grids(outcomes)]
    return None if row is None else row[0].setting.lr


# Reading


def test_rounds_and_kb_to_the_target_are_those_of_the_first_validation_at_it() -> None:
    run = curve_of([0.1, 0.5, 0.8, 0.7, 0.9])
    assert (run.rounds, run.kb_to, run.protocol_kb_to, run.seconds_to) == (50, 50 * 80 / 1024, 4, 10.0)
    assert (run.fell_back, run.test) == (False, 0.9 - 0.01)
    assert curve_of([0.9, 0.9]).rounds == 0
    assert curve_of([0.1, 0.7]).rounds is None
    assert not curve_of([0.1, 0.7]).fell_back  # it was never there
    lost = curve_of([0.1, 0.85, 0.3])
    assert (lost.rounds, lost.fell_back) == (25, True)


@pytest.mark.parametrize("end", [math.nan, math.inf, 1e30])
def test_a_run_that_diverged_has_not_reached_the_target(end: float) -> None:
    run = curve_of([0.1, 0.85, 0.9], [2.0, 0.5, end])
    assert (run.diverged, run.rounds, run.kb_to, run.fell_back) == (True, None, None, True)
    assert place((run,), ROUNDS) == (0, math.inf, math.inf)
    assert chosen([run], Aim("val/accuracy", "loss")) is None


@pytest.mark.parametrize(("metric", "target", "expected"), [("val/accuracy", 0.5, 50), ("val/loss", 1.0, 25)])
def test_curves_are_read_from_the_event_files_of_a_run_and_its_resume(
    tmp_path: Path, metric: str, target: float, expected: int
) -> None:
    setting, folder = Setting(0.1, 1), tmp_path / "lr-0.1" / "seed-1"
    note_asked(tmp_path, None, {})
    note_asked(folder, setting, {"test_at_end": "False", "trainer.max_steps": "75"})
    for steps, resumed in (((0, 25, 50), {}), ((50, 75), {"purge_step": 26})):
        with SummaryWriter(str(folder), **resumed) as writer:
            for step in steps:
                for name, value in (("accuracy", 0.01 * step), ("loss", 2.0 - 0.04 * step)):
                    writer.add_scalar(f"val/{name}", value, step)
            for step in range(steps[0] + 5, steps[-1] + 1, 5):  # not each round is logged
                costs = {"comm/paper_kb": step * 80 / 1024, "comm/protocol_kb": step * 50 / 1024, "time/round_s": 0.5}
                for name, value in costs.items():
                    writer.add_scalar(name, value, step)
    assert read_study(tmp_path, metric, "best", None)[0] == [Outcome(setting)]  # not complete
    metrics = {name: {"first": 2.0, "last": 0.5, "best": 0.5} for name in ("val/accuracy", "val/loss")}
    summary = {"rounds": 75, "interrupted": False, "metrics": metrics, "comm": {"paper_kb": 5.9}, "digest": "d"}
    (folder / "summary.json").write_text(json.dumps(summary))
    (run,), aim = read_study(tmp_path, metric, "best", target)
    assert [point[2:] for point in run.curve] == [
        (step * 80 / 1024, step * 50 / 1024, step / 2) for step in (0, 25, 50, 75)
    ]
    assert [point.rounds for point in run.curve] == [0, 25, 50, 75]
    assert [point.value for point in run.curve][::3] == (
        [0, 0.75] if aim == Aim("val/accuracy", "best", 0.5) else [2, -1]
    )
    assert (run.rounds, run.kb_to, run.digest) == (expected, expected * 80 / 1024, "d")
    kb, protocol = (f"{expected * each / 1024:.1f}" for each in (80, 50))
    assert cells(report(grids([run]), aim)[0], 0)[0][2:6] == [str(expected), kb, protocol, f"{expected / 2:.1f}"]
    (run,), _ = read_study(tmp_path, None, "best", None)
    assert (run.complete, run.curve) == (True, ())
    for path in folder.glob("events*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no curve of val"):
        read_study(tmp_path, metric, "best", target)


def test_methods_come_in_the_order_given(tmp_path: Path) -> None:
    for method in ("b", "a", "c"):
        setting = Setting(0.1, 1, method)
        note_asked(tmp_path / setting.folder, setting, {})
    outcomes, _ = read_study(tmp_path, None, "best", None, ["c"])
    assert [run.setting.method for run in outcomes] == ["c", "a", "b"]
    with pytest.raises(ValueError, match="holds no run of a study"):
        read_study(tmp_path / "none", None, "best", None)


def test_the_metric_is_accuracy_or_what_there_is() -> None:
    found: list[dict[str, Any]] = [{"metrics": {name: {} for name in ("val/loss", "val/em", "val/f1")}}, {}]
    assert choose_metric(found, None) == "val/f1"
    assert choose_metric(found, "val/em") == "val/em"
    with pytest.raises(ValueError, match="must be one of val/em, val/f1, val/loss"):
        choose_metric(found, "val/accuracy")
    assert choose_metric([{}], None) == "val/accuracy"


# Choosing


def test_the_best_or_the_last_value_chooses() -> None:
    found = [outcome(0.1, best=0.7), outcome(0.2, best=0.9, last=0.2)]
    assert [chosen(found, Aim("val/accuracy", by)) for by in ("best", "last")] == [0.2, 0.1]
    equal = [outcome(0.1, best=0.7, last=0.5), outcome(0.2, best=0.7, last=0.6)]
    assert chosen(equal, ACCURACY) == 0.2
    assert chosen([outcome(0.1, best=0.3), outcome(0.2, best=0.5)], Aim("val/loss")) == 0.1
    assert chosen([replace(outcome(0.1), best=None, last=None)], ACCURACY) is None


def test_a_rate_at_which_a_seed_misses_loses_to_a_slower_one_at_which_none_does() -> None:
    wild = [outcome(0.1, 1, rounds=25), outcome(0.1, 2)]
    safe = [outcome(0.2, seed, rounds=75) for seed in (1, 2)]
    assert chosen(wild + safe, ROUNDS) == 0.2


def test_equal_rounds_are_decided_by_the_final_loss_which_can_choose_alone() -> None:
    found = [outcome(0.1, rounds=25, loss=0.5), outcome(0.2, rounds=25, loss=0.4), outcome(0.3, rounds=50, loss=0.1)]
    assert chosen(found, ROUNDS) == 0.2
    assert chosen(found, replace(ROUNDS, by="loss")) == 0.3
    lost = [replace(run, rounds=None) for run in found]
    assert chosen(lost, ROUNDS) == 0.3  # nobody is there


def test_the_choices_do_not_look_at_the_test() -> None:
    found = [outcome(0.1, rounds=25, loss=0.5, test=1.0), outcome(0.2, best=0.6, rounds=25, loss=0.4, test=0.1)]
    assert {chosen(found, replace(ROUNDS, by=by)) for by in ("best", "last", "rounds", "loss")} == {0.2}


# Telling


def test_the_tables_have_means_and_ranges_and_mark_the_best() -> None:
    found = [outcome(0.1, s, b, a) for s, b, a in ((1, 0.7, 0.6), (2, 0.8, 0.7))]
    found += [outcome(0.2, s, b, test=b - 0.1) for s, b in ((1, 0.9), (2, 0.8))]
    found += [outcome(0.4, s, 0.1, diverged=s == 1) for s in (1, 2)]
    text, plain = report(grids(found), ACCURACY)
    assert cells(text, 0) == [
        ["**0.2** (best)", "2", "0.8500 (0.8000 to 0.9000)", "0.7500 (0.7000 to 0.8000)"],
    ]
    assert cells(text) == [
        ["0.1", "2", "0.7500 (0.7000 to 0.8000)", "0.6500 (0.6000 to 0.7000)", "1", "0", "10.0"],
        ["**0.2** (best)", "2", *["0.8500 (0.8000 to 0.9000)"] * 2, "1", "0", "10.0"],
        ["0.4", "2", "0.1000", "0.1000", "1", "1", "10.0"],
    ]
    assert [run["setting"]["lr"] for run in plain["runs"] if run["chosen"]] == [0.2, 0.2]
    assert plain["notes"] == []


def test_methods_are_told_at_their_rates_and_compared_seed_by_seed() -> None:
    found = [curve_of([0.1, at, 0.9], method="hiso", seed=seed) for seed, at in ((1, 0.8), (2, 0.5))]
    found += [curve_of([0.1, 0.5, 0.9], lr=0.2, method="decomfl", seed=seed) for seed in (1, 2)]
    text, _ = report(grids(found), ROUNDS)
    assert cells(text, 0)[0] == [
        *(
            "hiso",
            "**0.1** (best)",
            "2",
            "38 (25 to 50)",
            "2.9 (2.0 to 3.9)",
            "3.0 (2.0 to 4.0)",
            "7.5 (5.0 to 10.0)",
            "0",
            "0.9000",
            "0.8900",
        )
    ]
    assert "- hiso needs 0.75 of the rounds of decomfl (by seed: 0.50, 1.00)." in text
    assert "Best of all: hiso with learning rate 0.1." in text
    one, other = (tuple(replace(run, setting=replace(run.setting, value=v)) for run in found[:1]) for v in ("2", "3"))
    assert ratios([one, other]) == []  # of another problem


def test_seeds_that_miss_are_counted() -> None:
    assert spread([100, 200], ".0f", 3) == "150 (100 to 200), 2 of 3"
    assert spread([], ".0f", 3) == "none"


@pytest.mark.parametrize(("values", "end"), [((0.9, 0.5, 0.1), "lowest"), ((0.1, 0.5, 0.9), "highest")])
def test_a_best_rate_at_the_edge_of_its_grid_is_warned_of(values: tuple[float, ...], end: str) -> None:
    found = [outcome(lr, best=value) for lr, value in zip((0.1, 0.2, 0.4), values, strict=True)]
    assert f"is the {end} of its grid" in report(grids(found), ACCURACY)[0]
    assert "Warning" not in report(grids(found[:1]), ACCURACY)[0]  # one rate is no grid


def test_a_seed_that_is_missing_or_no_number_does_not_make_a_rate_the_best() -> None:
    found = [outcome(0.1, seed, 0.6) for seed in (1, 2)]
    found += [outcome(0.2, 1, 0.9), Outcome(Setting(0.2, 2))]
    found += [outcome(0.3, 1, 0.9), outcome(0.3, 2, None)]
    text, plain = report(grids(found), ACCURACY)
    assert cells(text, 0)[0][0] == "**0.1** (best)"
    assert cells(text)[1][1:3] == ["1 of 2", "0.9000"]
    assert cells(text)[2][1:3] == ["2", "0.9000, 1 of 2"]
    assert "Not complete: lr-0.2/seed-2." in text
    json.loads(json_text(plain))


def test_each_value_of_a_varied_option_has_a_grid_and_a_best_of_its_own() -> None:
    values = (("2", 0.1, 0.5), ("2", 0.2, 0.4), ("4", 0.1, 0.6), ("4", 0.2, 0.7))
    found = [outcome(lr, best=value, group=("", "data.cohort", cohort)) for cohort, lr, value in values]
    found.append(outcome(0.1, best=None, group=("", "data.cohort", "8")))
    text, _ = report(grids(found), ACCURACY)
    assert [row[:2] for row in cells(text, 0)] == [["2", "**0.1** (best)"], ["4", "**0.2** (best)"]]
    assert "data.cohort=2, 0.1, is the lowest" in text
    assert "Best of all: data.cohort=4 with learning rate 0.2." in text
    assert "no learning rate with data.cohort=8 can be chosen" in text


def test_runs_that_did_not_start_alike_are_pointed_out() -> None:
    found = [outcome(0.1, 1, group=("hiso",)), outcome(0.1, 2, group=("hiso",))]
    apart = [replace(run, first=0.2, setting=replace(run.setting, method="other")) for run in found[1:]]
    assert "the runs of seed 2 did not start from the same model" in report(grids(found + apart), ACCURACY)[0]
    alike = [replace(run, first=0.1) for run in apart]
    varied = [replace(run, setting=replace(run.setting, key="k", value="v")) for run in apart]
    assert "did not start" not in report(grids(found + alike + varied), ACCURACY)[0]


def test_the_picture_is_written(tmp_path: Path) -> None:
    reaches, misses = [0.1, 0.5, 0.9], [0.1, 0.2, 0.3]
    runs = [curve_of(v, lr=lr, method=m) for v, lr, m in ((reaches, 0.1, "a"), (misses, 0.2, "a"), (misses, 0.1, "b"))]
    found: list[Grid] = grids(runs)
    plot(tmp_path / "new" / "curves.png", found, ROUNDS)
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no learning rate to draw"):
        plot(tmp_path / "curves.png", [], ROUNDS)
