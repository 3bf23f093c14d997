"""Curves from what loggers have left, whole, resumed, cut short, damaged or missing."""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hiso_pl import bounds
from hiso_pl.report.comparison import compare
from hiso_pl.report.curve import read_curve
from hiso_pl.report.outcome import outcome
from hiso_pl.report.run import read_run
from hiso_pl.report.run_data import Aim, RunData
from hiso_pl.report.tables import tables

Make = Callable[..., Path]


def events(folder: Path) -> Path:
    return next(folder.glob("events*"))


def test_curves_are_those_of_a_run_and_its_resume(tmp_path: Path, events_of: Callable[..., None]) -> None:
    events_of(tmp_path, 25, [0.1, 0.25, 0.7], [2.0, 1.0, 0.5])
    events_of(tmp_path, 25, [0.7, 0.75], [0.5, 0.25], start=50, purge_step=51)
    curve, notes = read_curve(tmp_path, {"board.every_n_rounds": "5"}, {})
    assert notes == ()
    assert curve["round"].tolist() == [0, 25, 50, 75]
    assert curve["val/accuracy"].tolist() == [0.1, 0.25, 0.7, 0.75]  # not what fp32 makes of them
    assert curve["val/loss"].tolist() == [2.0, 1.0, 0.5, 0.25]
    assert curve["seconds"].tolist() == [0, 12.5, 25, 37.5]
    for name, each in (("forwards", 24), ("paper_kb", 40 / 1024), ("protocol_kb", 30 / 1024)):
        assert curve[name].tolist() == pytest.approx([each * done for done in (0, 25, 50, 75)], rel=1e-6)


def test_simulated_seconds_are_a_cost_where_clients_take_time(tmp_path: Path, run_of: Callable[..., RunData]) -> None:
    text = "step,val/accuracy,val/loss,time/simulated_s\n0,0.1,1.0,\n10,,,30.0\n20,0.8,0.5,70.0\n40,0.9,0.4,90.0\n"
    (tmp_path / "metrics.csv").write_text(text)
    curve, _ = read_curve(tmp_path, {}, {})
    assert curve["simulated_s"].tolist() == [0.0, 70.0, 90.0]
    run = replace(run_of([0.1, 0.8, 0.9]), curve=curve)
    aim = Aim("val/accuracy", targets=(0.8,))
    assert [outcome(run, aim)[name] for name in ("simulated_s", "simulated_s@0.8")] == [90.0, 70.0]
    heads = [table.head for table in tables(compare([run], aim))]
    assert "simulated seconds to 0.8" in heads[0]
    (tmp_path / "metrics.csv").write_text("step,val/accuracy\n0,0.1\n")
    assert "simulated_s" not in read_curve(tmp_path, {}, {})[0]
    assert math.isnan(outcome(run_of([0.1, 0.8]), aim)["simulated_s@0.8"])


def test_a_resume_takes_back_what_it_does_not_compute_again(tmp_path: Path, events_of: Callable[..., None]) -> None:
    events_of(tmp_path, 25, [0.1, 0.25, 0.7, 0.9], [2.0, 1.0, 0.5, 0.25])
    events_of(tmp_path, 25, [0.2], [1.0], start=50, purge_step=26)
    curve, _ = read_curve(tmp_path, {"board.every_n_rounds": "5"}, {})
    assert curve["val/accuracy"].tolist() == [0.1, 0.25, 0.2]
    assert math.isnan(curve["paper_kb"].iloc[-1])  # and not that of round 25


def test_of_a_file_that_is_cut_short_the_rest_counts(folder_of: Make, tmp_path: Path) -> None:
    path = events(folder_of(tmp_path / "run", [0.1, 0.5, 0.8]))
    data = path.read_bytes()
    for kept in (len(data) - 3, len(data) * 3 // 4, 100, 13, 5, 0):
        path.write_bytes(data[:kept])
        run = read_run(tmp_path / "run")
        assert list(run.curve.get("val/accuracy", ())) == [0.1, 0.5, 0.8][: len(run.curve)]
        assert any("cut short" in note for note in run.notes) is (kept > 0)
        assert (run.complete, run.value("val/accuracy", "best")) == (True, 0.8)
    assert any("no validation in its folder" in note for note in run.notes)


def test_a_damaged_file_gives_no_wrong_number(folder_of: Make, tmp_path: Path) -> None:
    path = events(folder_of(tmp_path / "run", [0.125, 0.5, 0.8]))
    data = path.read_bytes()
    whole = read_run(tmp_path / "run").curve
    generator = np.random.default_rng(0)
    for at in generator.integers(len(data), size=60).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        curve = read_run(tmp_path / "run").curve
        for name in curve:
            known = curve[name].notna()
            assert curve[name][known].tolist() == whole[name][: len(curve)][known].tolist(), (at, name)


def test_a_file_may_not_ask_for_more_than_is_allowed(
    folder_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = events(folder_of(tmp_path / "run"))
    data = path.read_bytes()
    path.write_bytes(data + struct.pack("<QI", 1 << 60, 0))
    run = read_run(tmp_path / "run")
    assert len(run.curve) == 3
    assert f"an event has {1 << 60} bytes, must have at most {bounds.EVENT_BYTES}" in run.notes[0]
    monkeypatch.setattr("hiso_pl.report.events.EVENTS_BYTES", 10)
    assert "must have at most 10" in read_run(tmp_path / "run").notes[0]


def test_a_link_to_what_is_no_file_is_not_waited_for(folder_of: Make, tmp_path: Path) -> None:
    path = events(folder_of(tmp_path / "run"))
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "it is a device" in read_run(tmp_path / "run").notes[0]


def test_rows_of_a_csv_logger_are_read_up_to_a_line_without_an_end(folder_of: Make, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", events=False)
    path = folder / "lightning_logs" / "version_0" / "metrics.csv"
    path.parent.mkdir(parents=True)
    head = "comm/paper_kb,step,time/round_s,val/accuracy,val/loss,val_best/loss\n"
    rows = [",0,,0.1,2.0,2.0", *(f"{r / 100},{r},0.5,," for r in range(5, 26, 5)), "0.25,25,,0.85,0.5,0.5"]
    path.write_text(head + "\n".join(rows) + "\n0.3,50,,0.8")
    run = read_run(folder)
    assert run.notes == ("metrics.csv is cut short: its last line is left out",)
    assert run.curve["round"].tolist() == [0, 25]
    assert run.curve["val/accuracy"].tolist() == [0.1, 0.85]
    assert run.curve["seconds"].tolist() == [0, 12.5]
    assert run.curve["paper_kb"].tolist() == [0, 0.25]
    assert run.curve["protocol_kb"].isna()[1]
    path.write_text(head + "0.1,five,,0.5,1,1\n")
    assert "metrics.csv is damaged: line 2 has no step" in read_run(folder).notes[0]


def test_a_run_without_curves_says_so(folder_of: Make, tmp_path: Path) -> None:
    run = read_run(folder_of(tmp_path / "run", events=False))
    assert len(run.curve) == 0
    assert "no files of curves, by TensorBoard's or CSV's logger, in its folder" in run.notes[0]
    assert run.metrics == {"val/accuracy", "val/loss"}


def test_runs_within_a_run_and_a_loggers_prefix_are_not_its_own(folder_of: Make, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", [0.1, 0.2])
    folder_of(folder / "inner", [0.1, 0.9])
    assert read_run(folder).curve["val/accuracy"].tolist() == [0.1, 0.2]
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder / "inner")
    events(folder).unlink()
    with SummaryWriter(str(folder / "logs")) as writer:
        for name in ("mine-val/accuracy", "val_best/accuracy", "mine-val_by_paper_bytes/accuracy", "evil-val"):
            writer.add_scalar(name, 0.5, 25)
    assert read_run(folder).curve["val/accuracy"].tolist() == [0.5]


def test_seconds_are_not_known_beyond_a_round_that_is_missing(tmp_path: Path, events_of: Callable[..., None]) -> None:
    events_of(tmp_path, 25, [0.1, 0.25], [2.0, 1.0])
    events_of(tmp_path, 25, [0.5, 0.75], [0.5, 0.25], start=50)
    curve, notes = read_curve(tmp_path, {"board.every_n_rounds": "5"}, {})
    assert curve["seconds"].tolist()[:2] == [0, 12.5]
    assert curve["seconds"].isna().tolist() == [False, False, True, True]
    assert "time/round_s is missing from round 26 on" in notes[0]


METHODS = {
    "forward": ({"num_directions": 5, "local_steps": 2, "difference": "forward"}, 4 * 2 * 6),
    "central": ({"num_directions": 5, "local_steps": 2, "difference": "central"}, 4 * 2 * 10),
    "schedule": ({"num_directions": 5, "local_steps": 1, "num_directions_schedule": {"class_path": "x"}}, None),
}


@pytest.mark.parametrize("case", [*METHODS, "gradients", "epochs", "foreign", "changed"])
def test_forwards_that_are_not_logged_are_the_methods_where_they_are_the_same_each_round(
    folder_of: Make, tmp_path: Path, case: str
) -> None:
    kind, options, each = "hiso_pl.zeroth_order.Method", *METHODS.get(case, METHODS["forward"])
    if case in ("gradients", "epochs"):
        kind, options = "hiso_pl.first_order.FedAvg", {"local_steps": 5, "local_epochs": int(case == "epochs")}
        each = 4 * 5 * 3 if case == "gradients" else None
    if case in ("foreign", "changed"):
        kind, each = (kind if case == "changed" else "mine.Method"), None
    folder = folder_of(tmp_path / "run", method={"class_path": kind, "init_args": options}, forwards=False)
    if case == "changed":
        (folder / "config.until-round-25.yaml").write_text("")
    found = read_run(folder).curve["forwards"]
    assert found[1:].isna().all() if each is None else found.tolist() == [0, 25 * each, 50 * each]
