import json
import math
from types import SimpleNamespace

import pytest

from hiso_pl.callbacks import RunSummary
from hiso_pl.callbacks.contract import OrderedCallback
from hiso_pl.callbacks.summary import forwards_with
from hiso_pl.zeroth_order.digest import digest

KEYS = [
    "rounds", "clients", "cohort", "ranks", "parameters", "metrics", "comm", "seconds", "forwards_per_second",
    "dropped_slots", "digest", "versions", "interrupted",
]  # fmt: skip


def test_a_run_in_one_file(stand_in, tmp_path):
    trainer = stand_in.make_trainer(tmp_path, 7)
    module = stand_in.Module()
    history = stand_in.History()
    trainer.callbacks.append(history)
    trainer.fit(module, datamodule=stand_in.Data())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == KEYS
    assert (summary["rounds"], summary["clients"], summary["cohort"], summary["ranks"]) == (7, 4, 2, 1)
    assert summary["parameters"] == 40
    losses = [value for _, value in history.seen]
    assert summary["metrics"]["val/loss"] == {"first": losses[0], "last": losses[-1], "best": min(losses)}
    accuracies = [1 / (1 + loss) for loss in losses]
    assert summary["metrics"]["val/accuracy"] == pytest.approx(
        {"first": accuracies[0], "last": accuracies[-1], "best": max(accuracies)}
    )
    assert summary["comm"] == {
        "paper_kb": 7 * 2 * 2 * 4 / 1024,
        "protocol_kb": 7 * (8 * 2 / 4 + 8) / 1024,
        "measured_kb": 0.0,
    }
    assert summary["digest"] == digest(trainer.optimizers[0])
    assert 0 < summary["seconds"] < 60
    # 7 rounds of two clients with P + 1 = 3 forwards, in less time than the whole run took
    assert summary["forwards_per_second"] >= 7 * 2 * 3 / summary["seconds"]
    assert summary["versions"]["stream"] == "1"
    assert summary["interrupted"] is False

    trainer.test(module, datamodule=stand_in.Data(), verbose=False)
    tested = json.loads((tmp_path / "summary.json").read_text())
    assert tested["metrics"].pop("test/accuracy") == {"first": 0.5, "last": 0.5, "best": 0.5}
    assert tested == summary


def test_a_sanity_check_of_a_few_batches_is_no_measurement(stand_in, tmp_path):
    trainer = stand_in.make_trainer(tmp_path, 3)
    trainer.num_sanity_val_steps = 1
    trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    entry = json.loads((tmp_path / "summary.json").read_text())["metrics"]["val/loss"]
    assert entry["first"] == entry["last"]


def test_a_backward_pass_counts_as_two_forwards_and_the_round_at_hand_is_in():
    summary = RunSummary()
    summary.forwards = 12
    trainer = SimpleNamespace(callbacks=[summary])
    for backwards, expected in ((0, 18.0), (6, 54.0)):
        report = SimpleNamespace(forwards=6, backwards=backwards)
        assert forwards_with(trainer, report) == {"cost/forwards": expected}
    assert forwards_with(SimpleNamespace(callbacks=[]), report) == {}


def test_the_best_of_a_loss_is_its_lowest_and_nan_is_no_best():
    summary = RunSummary()
    for value in (math.nan, 0.5, 0.75, 0.25, math.nan):
        summary.record({"val/loss": value, "val/accuracy": value, "test/rougeL": value})
    assert summary.metrics["val/loss"]["best"] == 0.25
    assert summary.metrics["test/rougeL"]["best"] == 0.75
    assert summary.metrics["val/accuracy"]["best"] == 0.75
    other = RunSummary()
    other.load_state_dict(summary.state_dict())
    assert other.metrics["val/loss"]["best"] == 0.25
    assert math.isnan(other.metrics["val/loss"]["last"])


def test_the_order_of_callbacks_does_not_depend_on_the_configuration(stand_in, tmp_path):
    trainer = stand_in.make_trainer(tmp_path, 1, stand_in.History())
    trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    assert [type(callback).__name__ for callback in trainer.callbacks] == [
        "InStepCheck", "RunFolder", "CompleteValidation", "History", "DeferredSignals", "RunSummary", "Participation",
    ]  # fmt: skip
    assert all(isinstance(c, OrderedCallback) for c in trainer.callbacks if not isinstance(c, stand_in.History))
