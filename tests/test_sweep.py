from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from hiso_pl.cli import program as cli

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "launch" / "sweep.py"
DIGITS = ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--model.lr_scheduler", "null"]
ASKED = {"test_at_end": "False", "trainer.max_steps": "10"}


@pytest.fixture(scope="module")
def sweep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sweep_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up postponed annotations
    spec.loader.exec_module(module)
    return module


def finish(folder: Path, **change: Any) -> None:
    """Leaves what a complete run of ten rounds leaves."""
    summary = {"rounds": 10, "interrupted": False, "metrics": {"val/accuracy": {"best": 0.5, "last": 0.4}}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({**summary, "comm": {"paper_kb": 1.5}, **change}))


def outcome(
    sweep: ModuleType, lr: float, seed: int, best: float | None, last: float | None = None, **other: Any
) -> Any:
    key, value, metric = other.get("key", ""), other.get("value", ""), other.get("metric", "val/accuracy")
    metrics = {metric: {"best": best, "last": best if last is None else last}}
    return sweep.Outcome(sweep.Setting(lr, seed, key, value), metrics, 10.0, other.get("reached"))


def cells(text: str) -> list[list[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


# What is asked


def test_every_setting_has_its_own_folder_and_says_what_it_is(sweep: ModuleType) -> None:
    assert sweep.Setting(3e-4, 2).folder == "lr-0.0003/seed-2"
    assert sweep.Setting(5e-6, 2, "data.cohort", "4").folder == "cohort-4/lr-5e-06/seed-2"
    odd = [sweep.Setting(1.0, 1, key, value).folder for key in ("a.x", "b.x") for value in ("{'r': 8}", "{'r': 9}")]
    assert len(set(odd)) == 4
    assert sweep.Setting(1.0, 1, "k", "../../x").folder.count("/") == 2
    flags = sweep.Setting(5e-6, 2, "data.cohort", "4").flags
    assert flags == ["--data.cohort", "4", "--model.method.init_args.lr", "5e-06", "--seed_everything", "2"]


def test_the_plan_goes_seed_by_seed_and_the_users_options_win(sweep: ModuleType, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("threads: 3\n")
    options = sweep.parse(
        ["--root", str(tmp_path), "--seeds", "1", "2", "--lrs", "0.1", "0.01", "--", *DIGITS, "--config", str(own)]
    )
    runs = sweep.plan(options)
    assert [(run.setting.seed, run.setting.lr) for run in runs] == [(1, 0.01), (1, 0.1), (2, 0.01), (2, 0.1)]
    assert {run.asked["threads"] for run in runs} == {"3"}
    assert runs[2].asked["seed_everything"] == "2"
    assert runs[2].asked["model.method.init_args.lr"] == "0.01"
    assert sweep.resolve([*sweep.FIRST, "--model.network", "hiso_pl.models.DigitsCNN"])["threads"] == "1"


def test_without_rates_the_configurations_own_is_taken_and_an_option_varies(sweep: ModuleType, tmp_path: Path) -> None:
    options = sweep.parse(["--root", str(tmp_path), "--vary", "data.cohort", "2", "3", "--", *DIGITS])
    runs = sweep.plan(options)
    assert [(run.setting.lr, run.asked["data.init_args.cohort"]) for run in runs] == [(0.006, "2"), (0.006, "3")]


def test_a_configuration_that_cannot_be_is_said_before_anything_begins(
    sweep: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    assert sweep.main(["--root", str(root), "--", *DIGITS, "--trainer.max_rounds", "5"]) == 2
    assert "trainer.max_rounds" in capsys.readouterr().err
    assert not root.exists()


@pytest.mark.parametrize(
    ("own", "fit", "said"),
    [
        ([], ["--seed_everything=4"], "give --seeds"),
        ([], ["--model.method.lr", "1"], "give --lrs"),
        ([], ["--trainer.default_root_dir", "x"], "give --root"),
        ([], ["--ckpt_path", "last"], "resumed by themselves"),
        (["--vary", "data.cohort", "2"], ["--data.cohort", "3"], "--vary"),
        (["--vary", "data.cohort"], [], "values"),
        (["--lrs", "0"], [], "positive"),
        (["--nproc", "0"], [], "at least 1"),
    ],
)
def test_what_the_sweep_sets_itself_is_not_to_be_given(
    sweep: ModuleType, own: list[str], fit: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sweep.parse(["--root", "r", *own, "--", *DIGITS, *fit])
    assert said in capsys.readouterr().err


# What is there


def test_only_a_run_with_all_rounds_and_its_test_is_complete(sweep: ModuleType, tmp_path: Path) -> None:
    assert not sweep.complete(tmp_path, ASKED)
    for change, expected in (({}, True), ({"rounds": 9}, False), ({"interrupted": True}, False)):
        finish(tmp_path, **change)
        assert sweep.complete(tmp_path, ASKED) is expected
    finish(tmp_path)
    tested = ASKED | {"test_at_end": "True"}
    assert not sweep.complete(tmp_path, tested)
    finish(tmp_path, metrics={"test/accuracy": {"last": 0.5}})
    assert sweep.complete(tmp_path, tested)
    (tmp_path / "summary.json").write_text('{"rounds"')
    assert not sweep.complete(tmp_path, ASKED)


def test_a_run_of_another_configuration_is_refused_by_folder_and_key(sweep: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sweep.prepare(folder, sweep.Setting(0.1, 1), ASKED | {"data.cohort": "2", sweep.FOLDER: "here"})
    sweep.check_asked(folder, ASKED | {"data.cohort": "2", sweep.FOLDER: "there"})
    with pytest.raises(ValueError, match=r"run holds a run with data\.cohort=2, but 3 is asked"):
        sweep.check_asked(folder, ASKED | {"data.cohort": "3"})
    with pytest.raises(ValueError, match=r"data\.new=absent"):
        sweep.check_asked(folder, ASKED | {"data.cohort": "2", "data.new": "1"})


def test_a_run_that_somebody_else_began_is_left_alone(sweep: ModuleType, tmp_path: Path) -> None:
    finish(tmp_path / "run")
    with pytest.raises(ValueError, match="has not begun"):
        sweep.check_asked(tmp_path / "run", ASKED)


def test_a_run_without_a_checkpoint_begins_anew(sweep: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("half")
    assert sweep.prepare(tmp_path / "run", sweep.Setting(0.1, 1), ASKED) == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["asked.json"]


def test_two_sweeps_do_not_share_a_folder_nor_does_one_with_a_run_that_outlived_it(
    sweep: ModuleType, tmp_path: Path
) -> None:
    with sweep.locked(tmp_path) as lock:
        with pytest.raises(ValueError, match="in use"), sweep.locked(tmp_path):
            pass
        left = sweep.start([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, [lock])
    try:
        with pytest.raises(ValueError, match="outlived"), sweep.locked(tmp_path):
            pass
    finally:
        left.kill()
        left.wait()
    with sweep.locked(tmp_path):
        pass


# Running, with stand-ins

STAND_IN = """
import json, pathlib, signal, sys, time
folder, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
(folder / "began").touch()
until = time.monotonic() + (0.3 if kind != "long" else 60)
while time.monotonic() < until and not came:
    time.sleep(0.01)
if kind == "fails":
    sys.exit("hiso-pl: error: lr=-1.0 must be finite")
summary = {"rounds": 3 if came else 10, "interrupted": bool(came), "metrics": {"val/accuracy": {"best": 1, "last": 1}}}
(folder / "summary.json").write_text(json.dumps({**summary, "comm": {"paper_kb": 1}}))
"""


def stand_ins(sweep: ModuleType, root: Path, kinds: list[str]) -> tuple[list[Any], Any]:
    runs = [sweep.Run(root / f"{i}-{kind}", sweep.Setting(0.1, i), ASKED) for i, kind in enumerate(kinds)]

    def begin(run: Any) -> subprocess.Popen[bytes]:
        run.folder.mkdir(parents=True)
        command = [sys.executable, "-c", STAND_IN, str(run.folder), run.folder.name.rpartition("-")[2]]
        return sweep.start(command, run.folder)

    return runs, begin


def test_a_failing_run_is_named_with_its_error_and_the_others_go_on(sweep: ModuleType, tmp_path: Path) -> None:
    runs, begin = stand_ins(sweep, tmp_path, ["good", "fails", "good"])
    failed, came = sweep.carry_out(runs, 1, begin, 0.01)
    assert came == 0
    assert [sweep.complete(run.folder, ASKED) for run in runs] == [True, False, True]
    assert failed == [f"{runs[1].folder} ended with status 1: hiso-pl: error: lr=-1.0 must be finite"]


def test_an_error_of_an_earlier_start_is_not_told_again(sweep: ModuleType, tmp_path: Path) -> None:
    for said in ("hiso-pl: error: no such file", "killed by the machine"):
        sweep.start([sys.executable, "-c", f"print({said!r})"], tmp_path).wait()
    assert sweep.last_line(tmp_path) == "killed by the machine"


def test_no_more_runs_at_a_time_than_jobs(sweep: ModuleType, tmp_path: Path) -> None:
    runs, begin = stand_ins(sweep, tmp_path, ["good"] * 5)
    alive: list[subprocess.Popen[bytes]] = []
    most = []

    def counted(run: Any) -> subprocess.Popen[bytes]:
        alive.append(begin(run))
        most.append(sum(process.poll() is None for process in alive))
        return alive[-1]

    assert sweep.carry_out(runs, 2, counted, 0.01) == ([], 0)
    assert max(most) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_runs_cleanly_and_begins_no_other(
    sweep: ModuleType, tmp_path: Path, number: signal.Signals
) -> None:
    runs, begin = stand_ins(sweep, tmp_path, ["long", "long", "long"])

    def interrupt() -> None:
        until = time.monotonic() + 30
        while not all((run.folder / "began").exists() for run in runs[:2]) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(number)
    assert sweep.carry_out(runs, 2, begin, 0.01) == ([], number)
    assert signal.getsignal(number) is before
    assert [json.loads((run.folder / "summary.json").read_text())["interrupted"] for run in runs[:2]] == [True, True]
    assert not runs[2].folder.exists()


# Reporting


def test_the_table_has_means_and_ranges_and_marks_the_best(sweep: ModuleType) -> None:
    found = [outcome(sweep, 0.1, s, b, a) for s, b, a in ((1, 0.7, 0.6), (2, 0.8, 0.7))]
    found += [outcome(sweep, 0.2, s, b) for s, b in ((1, 0.9), (2, 0.8))]
    found += [outcome(sweep, 0.4, s, 0.1) for s in (1, 2)]
    text, plain = sweep.report(found, "val/accuracy", "best", None)
    assert cells(text) == [
        ["0.1", "2", "0.7500 (0.7000 to 0.8000)", "0.6500 (0.6000 to 0.7000)", "10.0"],
        ["**0.2** (best)", "2", "0.8500 (0.8000 to 0.9000)", "0.8500 (0.8000 to 0.9000)", "10.0"],
        ["0.4", "2", "0.1000 (0.1000 to 0.1000)", "0.1000 (0.1000 to 0.1000)", "10.0"],
    ]
    assert [row["is_best"] for row in plain["rows"]] == [False, True, False]
    assert plain["notes"] == []


def test_the_best_or_the_last_value_chooses(sweep: ModuleType) -> None:
    found = [outcome(sweep, 0.1, 1, 0.7, 0.7), outcome(sweep, 0.2, 1, 0.9, 0.2)]
    best = [sweep.best_row(sweep.rows_of(found), "val/accuracy", by).lr for by in ("best", "last")]
    assert best == [0.2, 0.1]
    losses = [outcome(sweep, lr, 1, value, metric="val/loss") for lr, value in ((0.1, 0.3), (0.2, 0.5))]
    assert sweep.best_row(sweep.rows_of(losses), "val/loss", "best").lr == 0.1


@pytest.mark.parametrize(("values", "end"), [((0.9, 0.5, 0.1), "lowest"), ((0.1, 0.5, 0.9), "highest")])
def test_a_best_rate_at_the_edge_of_its_grid_is_warned_of(
    sweep: ModuleType, values: tuple[float, ...], end: str
) -> None:
    found = [outcome(sweep, lr, 1, value) for lr, value in zip((0.1, 0.2, 0.4), values, strict=True)]
    text, _ = sweep.report(found, "val/accuracy", "best", None)
    assert f"is the {end} of its grid" in text
    assert "Warning" not in sweep.report(found[:1], "val/accuracy", "best", None)[0]  # one rate is no grid


def test_a_seed_that_is_missing_or_no_number_does_not_make_a_rate_the_best(sweep: ModuleType) -> None:
    found = [outcome(sweep, 0.1, s, 0.6) for s in (1, 2)]
    found += [outcome(sweep, 0.2, 1, 0.9), sweep.Outcome(sweep.Setting(0.2, 2), {})]
    found += [outcome(sweep, 0.3, 1, 0.9), outcome(sweep, 0.3, 2, None)]
    text, plain = sweep.report(found, "val/accuracy", "best", None)
    assert [row["is_best"] for row in plain["rows"]] == [True, False, False]
    assert cells(text)[1][1:3] == ["1 of 2", "0.9000"]
    assert cells(text)[2][1:3] == ["2", "0.9000, 1 of 2"]
    assert "Not complete: lr-0.2/seed-2." in text
    json.dumps(plain, allow_nan=False)


def test_each_value_of_a_varied_option_has_a_grid_and_a_best_of_its_own(sweep: ModuleType) -> None:
    found = [
        outcome(sweep, lr, 1, value, key="data.cohort", value=cohort)
        for cohort, lr, value in (("2", 0.1, 0.5), ("2", 0.2, 0.4), ("4", 0.1, 0.6), ("4", 0.2, 0.7))
    ]
    text, plain = sweep.report(found, "val/accuracy", "best", None)
    assert [(row["data.cohort"], row["lr"]) for row in plain["rows"] if row["is_best"]] == [("2", 0.1), ("4", 0.2)]
    assert "data.cohort=2, 0.1, is the lowest" in text
    assert "Best of all: data.cohort=4 with learning rate 0.2." in text


def test_the_metric_is_accuracy_or_what_there_is(sweep: ModuleType) -> None:
    found = [sweep.Outcome(sweep.Setting(0.1, 1), {name: {} for name in ("val/loss", "val/em", "val/f1")})]
    assert sweep.choose_metric(found, None) == "val/f1"
    assert sweep.choose_metric(found, "val/em") == "val/em"
    with pytest.raises(ValueError, match="must be one of val/em, val/f1, val/loss"):
        sweep.choose_metric(found, "val/accuracy")
    assert sweep.choose_metric([sweep.Outcome(sweep.Setting(0.1, 1), {})], None) == "val/accuracy"


@pytest.mark.parametrize(("metric", "target", "expected"), [("val/accuracy", 0.5, 50), ("val/loss", 1.0, 25)])
def test_rounds_and_kb_to_a_target_are_those_of_the_curves(
    sweep: ModuleType, tmp_path: Path, metric: str, target: float, expected: int
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    setting = sweep.Setting(0.1, 1)
    sweep.prepare(tmp_path / setting.folder, setting, ASKED)
    with SummaryWriter(str(tmp_path / setting.folder)) as writer:
        for i, step in enumerate((0, 25, 50)):
            for name, value in (("accuracy", 0.25 * i), ("loss", 2.0 - i)):
                writer.add_scalar(f"val/{name}", value, step)
                writer.add_scalar(f"val_by_paper_bytes/{name}", value, 80 * step)
    finish(tmp_path / setting.folder)
    (found,) = sweep.read_all(tmp_path)
    found = sweep.with_target(tmp_path, found, metric, target)
    assert found.reached == (expected, pytest.approx(expected * 80 / 1024))
    assert sweep.with_target(tmp_path, sweep.read_all(tmp_path)[0], "val/accuracy", 0.6).reached is None
    text, _ = sweep.report([found], metric, "best", target)
    assert cells(text)[0][4:6] == [str(expected), f"{expected * 80 / 1024:.1f}"]


# The real program


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_ends_as_if_nothing_had_been(
    sweep: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], process_settings: None
) -> None:
    """About 20 s: a process of the program takes several to start."""
    fit = [*DIGITS, "--trainer.max_steps", "150", "--trainer.val_check_interval", "50", "--test_at_end", "true"]
    fit += ["--checkpoint.every_n_train_steps", "5", "--data.batch_size", "4"]
    root = tmp_path / "sweep"
    arguments = ["--root", str(root), "--seeds", "1", "--lrs", "0.006", "--", *fit]
    folder = root / "lr-0.006" / "seed-1"
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while newest(folder) is None and time.monotonic() < until:
            time.sleep(0.02)
        children = psutil.Process().children()
        killed.extend(child.pid for child in children if str(folder) in child.cmdline())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert sweep.main(arguments) == 1
    killer.join()
    assert f"{folder} ended with status -9" in capsys.readouterr().err
    assert not (folder / "summary.json").exists()

    assert sweep.main(arguments) == 0
    said = capsys.readouterr()
    assert f"{folder}: goes on" in said.err
    resumed = json.loads((folder / "summary.json").read_text())

    straight = ["--threads", "1", "--trainer.enable_progress_bar", "false", "--seed_everything", "1"]
    assert cli.main(["fit", *fit, *straight, "--trainer.default_root_dir", str(tmp_path / "straight")]) == 0
    summary = json.loads((tmp_path / "straight" / "summary.json").read_text())
    assert {key: resumed[key] for key in ("digest", "metrics", "rounds")} == {
        key: summary[key] for key in ("digest", "metrics", "rounds")
    }

    written = (folder / "summary.json").stat().st_mtime_ns
    assert sweep.main(arguments) == 0
    assert (folder / "summary.json").stat().st_mtime_ns == written  # it was not run again
    assert sweep.main([*arguments, "--data.cohort", "3"]) == 2
    assert f"{folder} holds a run with data.init_args.cohort=4, but 3 is asked" in capsys.readouterr().err

    assert sweep.main(["--root", str(root), "--report", "--target", "0.05"]) == 0
    row = cells(capsys.readouterr().out)[0]
    assert row[:4] == ["**0.006** (best)", "1", f"{summary['metrics']['val/accuracy']['best']:.4f}", row[3]]
    assert row == cells((root / "sweep.md").read_text())[0]
    assert json.loads((root / "sweep.json").read_text())["rows"][0]["rounds_to_target"] is not None
