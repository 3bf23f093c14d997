"""What a run leaves: the summary, the curves, texts and pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROUNDS = 12
EVERY_ROUND = {
    *("train/loss", "scalar/mean_abs", "scalar/std", "scalar/max_abs", "scalar/snr", "scalar/headroom"),
    "scalar/dropped",
    *("time/round_s", "time/probe_s", "time/update_s", "comm/paper_kb", "comm/protocol_kb", "comm/measured_kb"),
    *("lr", "mu", "cost/forwards"),
}
HESSIAN = {"hessian/min", "hessian/p01", "hessian/median", "hessian/p99", "hessian/max"}
VALIDATION = {"val/loss", "val/accuracy"}
BY_BYTES = {"val_by_paper_bytes/loss", "val_by_paper_bytes/accuracy"}
BEST = {"val_best/loss", "val_best/accuracy"}
GLANCE = {"at a glance/train loss", "at a glance/val loss", "at a glance/val accuracy"}


def events(root):
    accumulator = EventAccumulator(str(root), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def board(matrix):
    return events(matrix(1)["default"].root)


def steps(board, tag):
    return [event.step for event in board.Scalars(tag)]


def test_the_curves_are_those_of_the_design(board):
    tags = set(board.Tags()["scalars"])
    assert tags == EVERY_ROUND | HESSIAN | VALIDATION | BY_BYTES | BEST | GLANCE
    for tag in EVERY_ROUND:
        assert steps(board, tag) == list(range(1, ROUNDS + 1))
    for tag in HESSIAN:
        assert steps(board, tag) == [0, 6, 12]
    bytes_a_round = 2 * 3 * 4
    for name in ("loss", "accuracy"):
        assert steps(board, f"val/{name}") == [0, 5, 10, 12]
        assert steps(board, f"val_by_paper_bytes/{name}") == [r * bytes_a_round for r in (0, 5, 10, 12)]
        by_round, by_bytes = board.Scalars(f"val/{name}"), board.Scalars(f"val_by_paper_bytes/{name}")
        assert [event.value for event in by_round] == [event.value for event in by_bytes]


def test_the_curves_hold_what_the_summary_says(matrix, board):
    summary = matrix(1)["default"].summary
    last = {tag: board.Scalars(tag)[-1].value for tag in board.Tags()["scalars"]}
    for name, entry in summary["metrics"].items():
        assert last[name] == pytest.approx(entry["last"], rel=1e-6)
        assert board.Scalars(name)[0].value == pytest.approx(entry["first"], rel=1e-6)
    for name, value in summary["comm"].items():
        assert last[f"comm/{name}"] == pytest.approx(value, rel=1e-6)
    assert last["lr"] == pytest.approx(0.02)
    assert last["mu"] == pytest.approx(0.001)
    values = [last[f"hessian/{name}"] for name in ("min", "p01", "median", "p99", "max")]
    assert values == sorted(values)
    assert values[0] < values[-1]
    for tag in EVERY_ROUND - {"comm/measured_kb", "scalar/dropped"}:
        assert last[tag] > 0.0


def test_configuration_partition_and_hyperparameters_are_shown(matrix, board):
    root = matrix(1)["default"].root
    text = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text.removeprefix("```yaml\n").removesuffix("\n```")) == yaml.safe_load(
        (root / "config.yaml").read_text()
    )
    [picture] = board.Images("partition")
    assert picture.width > 100
    assert picture.height > 50
    plugin = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for words in (b"num_directions", b"HiSo", b"DigitsCNN", b"Dirichlet"):
        assert words in plugin


def test_the_summary_has_its_keys(matrix):
    summary = matrix(2)["default"].summary
    assert set(summary) == {
        *("rounds", "clients", "cohort", "ranks", "parameters", "metrics", "comm", "seconds", "forwards_per_second"),
        *("dropped_slots", "digest", "versions", "interrupted"),
    }
    assert (summary["rounds"], summary["clients"], summary["cohort"], summary["ranks"]) == (ROUNDS, 8, 4, 2)
    assert summary["parameters"] == 448
    assert set(summary["metrics"]) == VALIDATION
    assert all(set(entry) == {"first", "last", "best"} for entry in summary["metrics"].values())
    assert set(summary["comm"]) == {"paper_kb", "protocol_kb", "measured_kb"}
    assert summary["seconds"] > 0
    assert summary["forwards_per_second"] > 0
    assert len(bytes.fromhex(summary["digest"])) == 32
    assert {"hiso_pl", "torch", "lightning", "numpy", "python", "stream", "numerics"} <= set(summary["versions"])
    assert summary["interrupted"] is False


def test_the_configuration_that_a_run_leaves_repeats_it(matrix, here, tmp_path):
    run = matrix(1)["default"]
    config = yaml.safe_load((run.root / "config.yaml").read_text())
    config["trainer"]["callbacks"] = None
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    status, out, root = here(["fit", "--config", str(path)], tmp_path / "again")
    assert status == 0, out
    again = json.loads((root / "summary.json").read_text())
    assert (again["digest"], again["metrics"]) == (run.summary["digest"], run.summary["metrics"])


def test_a_client_without_finite_scalars_is_left_out_and_counted(matrix):
    """Only rounds with a minibatch of the label 3 in them lose slots, and the run goes on."""
    dropped = {}
    for ranks in (1, 2):
        run = matrix(ranks)["nan"]
        assert run.summary["rounds"] == ROUNDS
        dropped[ranks] = [event.value for event in events(run.root).Scalars("scalar/dropped")]
    assert dropped[1] == dropped[2]
    assert len(dropped[1]) == ROUNDS
    assert 0 < sum(dropped[1]) < 4 * ROUNDS
    assert [matrix(ranks)["nan"].summary["dropped_slots"] for ranks in (1, 2)] == [sum(dropped[1])] * 2
    losses = [event.value for event in events(matrix(1)["nan"].root).Scalars("train/loss")]
    assert np.isfinite(losses).all()
    assert len(losses) == sum(number < 4 for number in dropped[1])
    assert matrix(1)["nan"].summary["metrics"]["val/loss"]["last"] is not None
