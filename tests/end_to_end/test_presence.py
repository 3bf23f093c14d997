"""Runs whose clients are away, drop out or are late: what they cost, and that they go on, replay and refuse."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hiso_pl.cli import program as cli
from hiso_pl.ledger import LedgerReader

pytestmark = pytest.mark.usefixtures("process_settings")

OPTIONS = [
    *("--data.availability", "Fraction", "--data.availability.share", "0.5", "--data.availability.spell", "2"),
    *("--data.dropout", "0.2", "--data.speeds", "LogNormal", "--data.deadline", "0.6"),
    *("--trainer.max_steps", "10", "--trainer.val_check_interval", "5", "--checkpoint.every_n_train_steps", "4"),
]
COUNTED = ("absent_slots", "catch_up_kb", "simulated_s", "dropped_slots", "digest", "metrics")


def summary(root):
    return json.loads((root / "summary.json").read_text())


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("straight") / "run"
    assert cli.main([*base, *OPTIONS, "--trainer.default_root_dir", str(root)]) == 0
    return root


def test_what_absence_costs_is_told(straight):
    found = summary(straight)
    assert found["dropped_slots"] == 0
    events = EventAccumulator(str(straight)).Reload()
    curves = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for name in ("presence/absent", "presence/late", "presence/missed_rounds", "presence/missed_rounds_max"):
        assert len(curves[name]) == 10
    assert sum(curves["presence/absent"]) == found["absent_slots"] > 0
    assert curves["comm/catch_up_kb"][-1] == pytest.approx(found["catch_up_kb"])
    assert curves["time/simulated_s"][-1] == pytest.approx(found["simulated_s"])
    assert 0.0 < found["simulated_s"] <= 10 * 0.61
    assert set(curves["scalar/dropped"]) == {0.0}
    records = [entry for entry in LedgerReader(straight / "rounds.ledger").entries() if hasattr(entry, "dropped")]
    assert [len(record.dropped) for record in records] == curves["presence/absent"]


@pytest.mark.parametrize("start", ["last", "ledger"])
def test_a_run_goes_on_as_if_it_had_not_been_stopped(straight, base, tmp_path, start):
    """From the ledger with nothing kept of what was counted: it is gone through again."""
    args = [*base, *OPTIONS, "--trainer.default_root_dir", str(tmp_path)]
    assert cli.main([*args, "--trainer.max_steps", "5"]) == 0
    if start == "ledger":
        for path in (tmp_path / "checkpoints").glob("*"):
            path.unlink()
    assert cli.main([*args, "--ckpt_path", start]) == 0
    there, here = summary(straight), summary(tmp_path)
    for name in COUNTED[: -1 if start == "ledger" else None]:
        assert here[name] == there[name], name


def test_the_ledger_replays_without_knowing_who_was_absent(straight):
    assert cli.main(["replay", str(straight / "rounds.ledger"), "--verify", "--threads", "1"]) == 0
