from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "launch" / "compare.py"


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up postponed annotations
    spec.loader.exec_module(module)
    return module


def make_run(
    compare: ModuleType, accuracy: list[float], loss: list[float] | None = None, seed: int = 1, every: int = 25
) -> Any:
    rounds = tuple(every * i for i in range(len(accuracy)))
    return compare.Run(
        seed=seed,
        rounds=rounds,
        kb=tuple(r * 80 / 1024 for r in rounds),
        accuracy=tuple(accuracy),
        loss=tuple([1.0] * len(accuracy) if loss is None else loss),
        test_accuracy=accuracy[-1] - 0.01,
    )


def test_rounds_to_the_target_are_those_of_the_first_validation_at_it(compare: ModuleType) -> None:
    run = make_run(compare, [0.1, 0.5, 0.8, 0.7, 0.9])
    assert run.rounds_to(0.8) == 50
    assert run.rounds_to(0.05) == 0
    assert run.rounds_to(0.95) is None
    assert not run.fell_back(0.8)


def test_a_run_that_loses_the_target_again_is_said_to(compare: ModuleType) -> None:
    run = make_run(compare, [0.1, 0.85, 0.3])
    assert run.rounds_to(0.8) == 25
    assert run.fell_back(0.8)
    assert not run.fell_back(0.9)  # it was never there


@pytest.mark.parametrize("end", [math.nan, math.inf, 1e30])
def test_a_run_that_diverged_has_not_reached_the_target(compare: ModuleType, end: float) -> None:
    run = make_run(compare, [0.1, 0.85, 0.9], loss=[2.0, 0.5, end])
    assert run.rounds_to(0.8) is None
    assert run.fell_back(0.8)
    assert compare.Cell(0.1, (run,)).final_loss == math.inf


def test_a_rate_at_which_a_seed_misses_loses_to_a_slower_one_at_which_none_does(compare: ModuleType) -> None:
    fast, slow = [0.1, 0.9, 0.9, 0.9], [0.1, 0.5, 0.5, 0.9]
    wild = compare.Cell(0.1, (make_run(compare, fast), make_run(compare, [0.1, 0.1, 0.1, 0.1], seed=2)))
    safe = compare.Cell(0.01, (make_run(compare, slow), make_run(compare, slow, seed=2)))
    assert wild.mean_rounds(0.8) < safe.mean_rounds(0.8)
    assert compare.best_by_rounds([wild, safe], 0.8) is safe


def test_equal_rounds_are_decided_by_the_final_loss(compare: ModuleType) -> None:
    worse = compare.Cell(0.1, (make_run(compare, [0.1, 0.9], loss=[2.0, 0.5]),))
    better = compare.Cell(0.2, (make_run(compare, [0.1, 0.9], loss=[2.0, 0.4]),))
    assert compare.best_by_rounds([worse, better], 0.8) is better
    assert compare.best_by_loss([worse, better]) is better


def test_the_choices_do_not_look_at_the_test(compare: ModuleType) -> None:
    run = make_run(compare, [0.1, 0.9], loss=[2.0, 0.4])
    lucky = compare.Run(**{**vars(run), "loss": (2.0, 0.5), "test_accuracy": 1.0})
    cells = [compare.Cell(0.1, (lucky,)), compare.Cell(0.2, (run,))]
    assert compare.best_by_rounds(cells, 0.8).rate == compare.best_by_loss(cells).rate == 0.2


@pytest.mark.parametrize(("rate", "expected"), [(0.1, "lowest"), (0.2, ""), (0.4, "highest")])
def test_a_best_rate_at_the_edge_of_its_grid_is_pointed_out(compare: ModuleType, rate: float, expected: str) -> None:
    assert compare.edge(rate, [0.1, 0.2, 0.4]) == expected


def test_a_row_holds_mean_and_range_and_the_grids_edge(compare: ModuleType) -> None:
    runs = (make_run(compare, [0.1, 0.8, 0.9]), make_run(compare, [0.1, 0.5, 0.88], seed=2))
    text = compare.table({"hiso": compare.Cell(0.2, runs)}, {"hiso": [0.1, 0.2]}, 0.8)
    row = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert row == [
        "HiSo (diagonal)",
        "0.2 (highest of its grid)",
        "38 (25 to 50)",
        "2.9 (2.0 to 3.9)",
        "0.890 (0.880 to 0.900)",
        "0.880 (0.870 to 0.890)",
        "0 of 2",
    ]


def test_seeds_that_miss_are_counted_in_the_row(compare: ModuleType) -> None:
    assert compare.spread([100, None, 200], "{:.0f}".format) == "150 (100 to 200), 2 of 3"
    assert compare.spread([None, math.nan], "{:.0f}".format) == "none"


def test_rounds_are_compared_seed_by_seed(compare: ModuleType) -> None:
    fast, slow = make_run(compare, [0.1, 0.9, 0.9]), make_run(compare, [0.1, 0.5, 0.9])
    chosen = {"hiso": compare.Cell(0.1, (fast,)), "decomfl": compare.Cell(0.1, (slow,))}
    assert compare.ratios(chosen, 0.8) == [
        "- HiSo (diagonal) needs 0.50 of the rounds of DeComFL (identity) (by seed: 0.50)."
    ]


def test_all_runs_of_a_comparison_differ_in_seed_rate_preconditioner_and_folder_only(compare: ModuleType) -> None:
    options = compare.parse(["--rounds", "40", "--", "--data.init_args.cohort", "2"])
    one = compare.command(options, Path("a"), "Diagonal", 0.1, 1)
    two = compare.command(options, Path("b"), "Identity", 0.2, 2)
    changed = {one[i - 1] for i in range(len(one)) if one[i] != two[i]}
    assert changed == {
        "--trainer.default_root_dir",
        "--seed_everything",
        "--model.method.init_args.lr",
        "--model.method.init_args.preconditioner",
    }
    assert one[-2:] == ["--data.init_args.cohort", "2"]
    assert one[one.index("--model.lr_scheduler.init_args.T_max") + 1] == "40"


def test_a_constant_rate_leaves_out_the_schedule(compare: ModuleType) -> None:
    options = compare.parse(["--schedule", "constant"])
    arguments = compare.command(options, Path("a"), "Diagonal", 0.1, 1)
    assert arguments[arguments.index("--model.lr_scheduler") + 1] == "null"
    assert "--model.lr_scheduler.init_args.T_max" not in arguments


def test_grids_are_sorted_and_unknown_methods_refused(compare: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.parse(["--grid", "hiso=0.1,0.01"]).grid["hiso"] == (0.01, 0.1)
    with pytest.raises(SystemExit):
        compare.parse(["--grid", "adam=0.1"])
    assert "hiso, decomfl, scalar, per_tensor" in capsys.readouterr().err


def test_only_a_run_with_all_rounds_and_a_test_is_complete(compare: ModuleType, tmp_path: Path) -> None:
    assert not compare.complete(tmp_path, 10)
    summary: dict[str, Any] = {"rounds": 10, "interrupted": False, "metrics": {"test/accuracy": {"last": 0.5}}}
    for change, expected in (
        ({}, True),
        ({"rounds": 9}, False),
        ({"interrupted": True}, False),
        ({"metrics": {}}, False),
    ):
        (tmp_path / "summary.json").write_text(json.dumps(summary | change))
        assert compare.complete(tmp_path, 10) is expected
    (tmp_path / "summary.json").write_text('{"rounds"')
    assert not compare.complete(tmp_path, 10)


def test_a_folder_of_another_problem_is_refused(compare: ModuleType, tmp_path: Path) -> None:
    compare.claim(tmp_path, compare.parse(["--rounds", "40"]))
    compare.claim(tmp_path, compare.parse(["--rounds", "40", "--methods", "hiso", "--seeds", "7"]))
    with pytest.raises(ValueError, match="another problem"):
        compare.claim(tmp_path, compare.parse(["--rounds", "41"]))


def test_results_have_null_for_what_is_not_a_number(compare: ModuleType) -> None:
    options = compare.parse(["--methods", "hiso"])
    cells = [compare.Cell(0.1, (make_run(compare, [0.1, 0.2], loss=[2.0, math.nan]),))]
    plain = compare.finite(compare.results(options, {"hiso": cells}))
    json.dumps(plain, allow_nan=False)
    found = plain["methods"]["hiso"]["grid"][0]
    assert found["runs"][0]["loss"] == [2.0, None]
    assert found["missed"] == 1


def test_curves_are_read_from_the_event_files(compare: ModuleType, tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for i, step in enumerate((0, 25, 50)):
            writer.add_scalar("val/accuracy", 0.25 * i, step)
            writer.add_scalar("val/loss", 2.0 - i, step)
            writer.add_scalar("val_by_paper_bytes/accuracy", 0.25 * i, 80 * 25 * i)
    summary = {"metrics": {"test/accuracy": {"last": 0.4}}, "digest": "d"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run = compare.read(tmp_path, 3)
    assert run.rounds == (0, 25, 50)
    assert run.accuracy == (0.0, 0.25, 0.5)
    assert run.loss == (2.0, 1.0, 0.0)
    assert run.kb[-1] == pytest.approx(50 * 80 / 1024)
    assert (run.seed, run.test_accuracy) == (3, 0.4)


def test_the_plot_is_written(compare: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = compare.parse(["--rounds", "50", "--methods", "hiso", "decomfl", "--seeds", "1"])
    reaches, misses = make_run(compare, [0.1, 0.5, 0.9]), make_run(compare, [0.1, 0.2, 0.3])
    grids = {
        "hiso": [compare.Cell(0.1, (reaches,)), compare.Cell(0.2, (misses,))],
        "decomfl": [compare.Cell(0.1, (misses,))],
    }
    compare.plot(tmp_path / "new" / "curves.png", options, grids)
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
