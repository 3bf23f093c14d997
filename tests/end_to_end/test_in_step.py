"""Ranks that are not in step stop at once, say where, and leave nothing of the round."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LEDGER = ["rounds.ledger", "rounds.ledger.safetensors"]


def files(root):
    """What a run has left, but for what Lightning's logger leaves of any start."""
    found = [path.name for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in found if "tfevents" not in name and name != "hparams.yaml")


def test_one_bit_of_one_rank_ends_the_launch(launch, base, tmp_path):
    flip = {"rank": 1, "round": 7, "tensor": "second.weight"}
    checked = ["--in_step.every_n_rounds", "5", "--checkpoint.every_n_train_steps", "5"]
    callback = json.dumps({"class_path": "meddling.Flip", "init_args": flip})
    status, out, root = launch(3, [*base, *checked, "--trainer.callbacks+", callback], tmp_path / "run")
    assert status != 0
    [line] = [line for line in out.splitlines() if "hiso-pl: error" in line]
    assert "ranks [1] of 3 are out of step after round 10: the first tensor that differs is 'second.weight';" in line
    assert files(root) == ["config.yaml", *LEDGER, "step=5.ckpt"]


@pytest.mark.parametrize(
    ("name", "message", "left"),
    [
        # by then the change has moved the parameter itself, which is named before what belongs to it
        (
            "flip of H",
            "ranks [2] of 3 are out of step after round 10: the first tensor that differs is 'head.bias",
            ["step=5.ckpt"],
        ),
        (
            "flip of momentum",
            "ranks [0] of 3 are out of step after round 10: the first tensor that differs is 'second.weight",
            ["step=5.ckpt"],
        ),
        (
            "flip before a checkpoint",
            "ranks [1] of 3 are out of step after round 8: the first tensor that differs is 'first.weight'",
            ["step=4.ckpt"],
        ),
        (
            "flip before the end",
            "ranks [1] of 3 are out of step after round 12: the first tensor that differs is 'first.weight'",
            [],
        ),
    ],
)
def test_a_bit_of_the_state_is_found_before_anything_is_written(matrix, name, message, left):
    run = matrix(3)[name]
    assert run.statuses == [1, 1, 1]
    assert message in run.said
    assert files(run.root) == ["config.yaml", *LEDGER, *left]


@pytest.mark.parametrize(
    ("item", "others"),
    [
        ("configuration", []),
        ("partition", ["configuration", "initial state"]),
        ("train data", []),
        ("validation data", []),
        ("initial state", []),
        ("frozen weights", []),
        ("version of torch", []),
        ("options of trainer", []),
        ("options of checkpoint", []),
        ("options of in_step", []),
        # these would meet in collectives of other sizes, or in other collectives
        ("validation data ", ["train data", "test data", "configuration", "partition"]),
    ],
)
def test_ranks_that_do_not_start_from_the_same_are_refused(matrix, item, others):
    run = matrix(2)[f"start: {item}"]
    assert run.statuses == [1, 1]
    assert f"{item.strip()} (" in run.said
    assert "on rank 0" in run.said
    assert "on rank 1" in run.said
    assert run.said.count("on rank 0") == 1 + len(others)
    assert files(run.root) == []
