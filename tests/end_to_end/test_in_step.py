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
    "item",
    ["train data", "validation data", "initial state", "frozen weights"],
)
def test_ranks_that_do_not_start_from_the_same_are_refused(matrix, item):
    run = matrix(2)[f"start: {item}"]
    assert run.statuses == [1, 1]
    assert f"the ranks do not start from the same {item} (" in run.said
    assert run.said.count("on rank 0") == run.said.count("on rank 1") == 1
    assert files(run.root) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("configuration", "model.method.init_args.lr (0.002 on rank 0, 0.012 on rank 1)"),
        ("partition", "seed_everything (10 on rank 0, 11 on rank 1)"),
        # these would meet in collectives of other sizes, in other collectives, or some in none
        ("validation data ", "data.init_args.validation (100 on rank 0, 110 on rank 1)"),
        ("command", "command (fit on rank 0, validate on rank 1)"),
        ("trainer.max_steps", "(10 on rank 0, 11 on rank 1)"),
        ("trainer.val_check_interval", "(3 on rank 0, 4 on rank 1)"),
        ("trainer.num_sanity_val_steps", "(-1 on rank 0, 0 on rank 1)"),
        ("trainer.limit_val_batches", "(0 on rank 0, 1.0 on rank 1)"),
        ("trainer.strategy.init_args.timeout_s", "(60.0 on rank 0, 61.0 on rank 1)"),
        ("trainer.strategy.init_args.process_group_backend", "('gloo' on rank 0, None on rank 1)"),
        ("trainer.callbacks", "([{'class_path': 'lightning.pytorch.callbacks"),
        ("checkpoint.every_n_train_steps", "(3 on rank 0, 13 on rank 1)"),
        ("in_step.every_n_rounds", "(0 on rank 0, 1 on rank 1)"),
        ("ledger.enabled", "(True on rank 0, False on rank 1)"),
        ("test_at_end", "(True on rank 0, False on rank 1)"),
        ("version of torch", "on rank 0, 0.0 on rank 1)"),
    ],
)
def test_ranks_that_were_not_given_the_same_are_told_so_when_they_meet(matrix, name, told):
    run = matrix(2)[f"start: {name}"]
    assert run.statuses == [1, 1]
    assert "the ranks were not started alike: " in run.said
    assert (f"{name} {told}" if told.startswith("(") else told) in run.said
    assert files(run.root) == []


def test_a_rank_that_has_nothing_to_do_is_not_waited_for(matrix):
    run = matrix(2)["start: help"]
    assert run.statuses == [1, 0]
    assert "rank 1 has ended: hiso-pl fit was done" in run.said
