"""Runs compared: what is told of them, and what is said besides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from hiso_pl.report.comparison import Comparison, aim_of, compare
from hiso_pl.report.run_data import Aim, RunData

Run = Callable[..., RunData]
AIM = Aim("val/accuracy", "rounds", (0.8,))


def said(comparison: Comparison, words: str) -> list[str]:
    return [note for note in comparison.notes if words in note]


def pair_of(comparison: Comparison, column: str) -> dict[str, float]:
    (row,) = comparison.paired[comparison.paired["column"] == column].to_dict("records")
    return {str(name): value for name, value in row.items()}


def test_a_target_is_reached_at_the_first_validation_at_it(run_of: Run) -> None:
    runs = [
        run_of([0.1, 0.5, 0.8, 0.7, 0.9], seed=1, test=0.89),
        run_of([0.9, 0.9], seed=2),
        run_of([0.1, 0.7], seed=3),
        run_of([0.1, 0.85, 0.3], seed=4),
    ]
    found = compare(runs, AIM).results
    assert found["rounds@0.8"].tolist()[:2] == [50, 0]
    assert found["paper_kb@0.8"].iloc[0] == 50 * 40 / 1024
    assert (found["protocol_kb@0.8"].iloc[0], found["forwards@0.8"].iloc[0]) == (50 * 30 / 1024, 1200)
    assert found["seconds@0.8"].iloc[0] == 10.0
    assert math.isnan(found["rounds@0.8"].iloc[2])
    assert found["short@0.8"].tolist() == [False, False, False, True]
    assert (found["best"].iloc[0], found["last"].iloc[0], found["test"].iloc[0]) == (0.9, 0.9, 0.89)


@pytest.mark.parametrize("end", [math.nan, math.inf, 1e30])
def test_a_run_that_diverged_has_not_reached_the_target(run_of: Run, end: float) -> None:
    comparison = compare([run_of([0.1, 0.85, 0.9], [2.0, 0.5, end], lr=lr) for lr in (0.1, 0.2)], AIM)
    assert comparison.groups[0].told == ()
    assert comparison.grid["rounds@0.8"].isna().all()
    assert comparison.grid["short@0.8"].all()
    assert said(comparison, "no learning rate of run can be chosen: it diverged at every rate")
    assert comparison.summary.empty
    assert comparison.paired.empty


def test_a_lower_loss_is_better(run_of: Run) -> None:
    runs = [
        run_of([2.0, 1.0], [2.0, 1.0], metric="val/loss", lr=0.1),
        run_of([2.0, 0.4], [2.0, 0.4], metric="val/loss", lr=0.2),
    ]
    comparison = compare(runs, Aim("val/loss", "best", (1.5, 0.5)))
    assert comparison.groups[0].chosen == 0.2
    assert (comparison.results["rounds@1.5"].iloc[0], comparison.results["rounds@0.5"].iloc[0]) == (25, 25)
    assert said(comparison, "is the highest of its grid")


def test_methods_are_compared_on_the_seeds_that_they_have_in_common(run_of: Run) -> None:
    runs = [run_of([0.1, at, 0.9], method="hiso", seed=seed) for seed, at in ((1, 0.8), (2, 0.5), (3, 0.5))]
    runs += [run_of([0.1, 0.5, 0.9], lr=0.2, method="decomfl", seed=seed) for seed in (1, 2)]
    comparison = compare(runs, AIM)
    found = pair_of(comparison, "rounds@0.8")
    assert (found["difference"], found["ratio"], found["seeds"], found["missed"]) == (-12.5, 0.75, 2, 0)
    assert (found["ratio low"], found["ratio high"]) == (0.5, 1.0)
    assert said(comparison, "Not all have the same seeds")
    assert said(comparison, "Of 2 seeds an interval is their range")[0].endswith(
        "in 50 of 100 cases, not in 95: decomfl."
    )
    assert said(comparison, "Of 3 seeds")[0].endswith("in 75 of 100 cases, not in 95: hiso.")
    assert said(comparison, "Best of all") == [
        "Best of all, by most seeds at the target, then fewest rounds to it, then most seeds run, "
        "then the lowest final loss: hiso with learning rate 0.1."
    ]


def test_seeds_that_miss_a_target_are_counted_and_leave_both_of_a_pair(run_of: Run) -> None:
    runs = [
        run_of([0.1, at, end], method="a", seed=seed) for seed, at, end in ((1, 0.8, 0.9), (2, 0.5, 0.9), (3, 0.1, 0.2))
    ]
    runs += [run_of([0.1, 0.1, end], method="b", seed=seed) for seed, end in ((1, 0.9), (2, 0.2), (3, 0.9))]
    comparison = compare(runs, AIM)
    row = comparison.summary.to_dict("records")[0]
    assert (row["rounds@0.8"], row["rounds@0.8 seeds"], row["runs"]) == (37.5, 2, 3)
    found = pair_of(comparison, "rounds@0.8")
    assert (found["difference"], found["seeds"], found["missed"]) == (-25, 1, 2)
    assert math.isnan(found["difference low"])
    assert said(comparison, "Not all runs reach 0.8, and a mean of those that do flatters: a; b.")


def test_groups_of_different_settings_are_no_pair(run_of: Run) -> None:
    runs = [run_of([0.1, 0.9], method=method, setting=setting) for method in ("a", "b") for setting in ("x", "y")]
    comparison = compare(runs, AIM)
    pairs = comparison.paired[["setting", "one", "other"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["x", "a, x", "b, x"], ["y", "a, y", "b, y"]]
    assert [group.label for group in comparison.groups] == ["a, x", "a, y", "b, x", "b, y"]
    alone = compare([run for run in runs if run.method == "a"], AIM)
    assert [group.label for group in alone.groups] == ["x", "y"]


def test_a_run_that_is_not_complete_counts_only_where_none_is(run_of: Run) -> None:
    whole, half = run_of([0.1, 0.5, 0.9], seed=1), run_of([0.1, 0.95], seed=2, complete=False)
    comparison = compare([whole, half], AIM)
    assert (comparison.summary["best"].iloc[0], comparison.summary["complete"].iloc[0]) == (0.9, 1)
    assert said(comparison, "Not complete, and left out where there are complete runs: run/lr-0.1/seed-2.")
    assert len(comparison.results) == 2
    alone = compare([half], AIM)
    assert (alone.summary["best"].iloc[0], alone.summary["rounds@0.8"].iloc[0]) == (0.95, 25)
    assert said(alone, "no run of run is complete: it is told as far as it got")
    two = compare([half, replace(half, lr=0.2)], AIM)
    assert two.groups[0].told == ()
    assert said(two, "no learning rate of run can be chosen: none is complete")


def test_a_target_that_nobody_reaches_is_said_with_the_best_that_there_is(run_of: Run) -> None:
    comparison = compare([run_of([0.1, 0.7, 0.6])], Aim("val/accuracy", "best", (0.8,)))
    assert said(comparison, "No run reaches val/accuracy 0.8; the best there is is 0.7.")
    assert said(comparison, "One seed only")


def test_a_run_without_curves_does_not_count_as_one_that_missed(run_of: Run) -> None:
    runs = [run_of([0.1, 0.9], seed=1), run_of([0.1, 0.9], seed=2, curve=False)]
    assert said(compare(runs, AIM), "Reached 0.8, but there is no curve that tells when")[0].endswith("seed-2.")
    with pytest.raises(ValueError, match=r"targets=\[0.8\] need curves of val/accuracy, and none of the runs has one"):
        compare(runs[1:], AIM)
    assert compare(runs[1:], Aim("val/accuracy")).summary["best"].tolist() == [0.9]


def test_runs_of_different_problems_are_not_compared_silently(run_of: Run) -> None:
    plain = {"data.init_args.batch_size": "32", "model.method.init_args.mu": "1"}
    other = {"data.init_args.batch_size": "64", "model.method.init_args.mu": "2"}
    runs = [run_of([0.1, 0.9], method="a", options=plain), run_of([0.1, 0.9], method="b", options=other, cohort=2)]
    notes = said(compare(runs, AIM), "Not the same problem")
    assert [note.rpartition(": ")[2] for note in notes] == [
        "data.init_args.batch_size is 32 of a, 64 of b.",
        "cohort is 4 of a, 2 of b.",
    ]
    apart = [runs[0], run_of([0.2, 0.9], method="b", options=plain)]
    assert said(compare(apart, AIM), "The runs of seed 1 did not start from the same model, or were measured apart.")
    longer = [runs[0], run_of([0.1, 0.9, 0.9], method="b", options=plain)]
    assert said(compare(longer, AIM), "Runs of different lengths")[0].endswith("same rounds: a 25; b 50.")
    settings = [
        run_of([i / 10, 0.9], method="a", setting=name, options=kind)
        for i, (name, kind) in enumerate((("x", plain), ("y", other)))
    ]
    assert not [note for note in compare(settings, AIM).notes if "Warning" in note]


def test_first_order_runs_say_what_a_backward_pass_counts_as(run_of: Run) -> None:
    kinds = {"avg": "'hiso_pl.first_order.FedAvg'", "zo": "'hiso_pl.first_order.FedZO'"}
    runs = [run_of([0.1, 0.9], method=name, options={"model.method.class_path": kind}) for name, kind in kinds.items()]
    assert said(compare(runs, AIM), "Forwards count a backward pass as 2: avg.")


def test_two_runs_of_one_seed_are_pointed_out(run_of: Run) -> None:
    comparison = compare([run_of([0.1, 0.9]), run_of([0.1, 0.7])], AIM)
    assert said(comparison, "run has several runs at 0.1 of seed 1, each counted")


def test_notes_of_runs_are_told_once_for_all_of_them(run_of: Run) -> None:
    runs = [replace(run_of([0.1, 0.9], seed=seed), notes=("it is odd",)) for seed in range(9)]
    assert len(said(compare(runs, AIM), "seed-5 and 3 more: it is odd.")) == 1


def test_the_metric_is_the_one_asked_for_or_the_first_usual_one_of_all(run_of: Run) -> None:
    runs = [run_of([0.1, 0.5], metric="val/f1"), run_of([0.1, 0.5], metric="val/f1")]
    assert aim_of(runs).metric == "val/f1"
    assert aim_of([*runs, run_of([0.1, 0.5])]).metric == "val/loss"
    assert aim_of([run_of([0.1, 0.5], metric="val/odd", curve=False)]).metric == "val/loss"
    with pytest.raises(ValueError, match="metric=val/em must be one of val/f1, val/loss"):
        compare(runs, aim_of(runs, "val/em"))
    with pytest.raises(ValueError, match="the runs have no metric of validation in common"):
        aim_of([replace(runs[0], summary={}, curve=runs[0].curve[["round"]])])
    with pytest.raises(ValueError, match="there are no runs"):
        compare([], AIM)
