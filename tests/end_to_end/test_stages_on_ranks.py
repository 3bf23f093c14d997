"""Runs whose ranks hold a network together: the bits, files and curves of the run uncut, and on from there anywhere."""

from __future__ import annotations

import json
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hiso_pl.cli import program as cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ON_RANKS = ["--model.stages.on", "ranks", "--model.stages.count"]
TASK = {"template": "{sentence} It", "answer": "sentence", "stop": "", "max_new_tokens": 4}
GENERATION = ["--data.task", json.dumps(TASK)]
CHANGED = {
    "plain": [],
    "lora": ["--model.network.peft", '{"r": 2, "alpha": 4}'],
    "scalar own": ["--model.method.preconditioner", "Scalar", "--model.method.directions", "client"],
    "trace": ["--model.method.preconditioner.normalize", "trace"],
    "momentum": ["--model.method.update_rule", "Momentum"],
    # validations run the blocks more than once
    "generation": GENERATION,
    "generation lora": [
        *(*GENERATION, "--model.network.peft", '{"r": 2, "alpha": 4}'),
        *("--model.method.compute_dtype", "bfloat16", "--model.method.mu", "0.1"),
    ],
}


@pytest.fixture(scope="module")
def args(four_blocks):
    """A run that has a split to test on, and looks at H now and then."""
    test = four_blocks[four_blocks.index("--data.validation_file") + 1]
    return [*four_blocks, "--data.test_file", test, "--board.hessian_every_n_rounds", "2"]


@pytest.fixture(scope="module")
def uncut(run_jobs, args):
    fits = [(name, ["fit", *args, *options]) for name, options in CHANGED.items()]
    return run_jobs(1, [*fits, *measured(args)])


def measured(args, *options):
    last = [*options, "--ckpt_path", "last"]
    jobs = [(f"{name}@plain", [name, *args, *last]) for name in ("validate", "predict")]
    return [*jobs, ("predict@generation", ["predict", *args, *GENERATION, *last])]


@pytest.fixture(scope="module")
def cut(run_jobs, args):
    fits = [(name, ["fit", *args, *options, *ON_RANKS, "2"]) for name, options in CHANGED.items()]
    return run_jobs(2, [*fits, *measured(args, *ON_RANKS, "2")])


def curves(root):
    events = EventAccumulator(str(root), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("name", CHANGED)
def test_two_ranks_give_the_run_uncut(uncut, cut, name):
    assert cut[name].result() == uncut[name].result()
    assert cut[name].summary["ranks"] == 2
    for file in ("rounds.ledger", "rounds.ledger.safetensors"):
        mine, whole = cut[name].root / file, uncut[name].root / file
        assert mine.exists() == whole.exists()
        assert not mine.exists() or mine.read_bytes() == whole.read_bytes()


def test_the_checkpoint_is_that_of_the_run_uncut(uncut, cut):
    for name in CHANGED:
        mine, whole = (
            torch.load(run[name].root / "checkpoints" / "last.ckpt", weights_only=True) for run in (cut, uncut)
        )
        assert list(mine["state_dict"]) == list(whole["state_dict"])
        for key, value in whole["state_dict"].items():
            assert torch.equal(mine["state_dict"][key], value)
        ours, theirs = mine["optimizer_states"][0], whole["optimizer_states"][0]
        assert ours["param_groups"] == theirs["param_groups"]
        assert {t: set(kept) for t, kept in ours["state"].items() if kept} == {
            t: set(kept) for t, kept in theirs["state"].items() if kept
        }
        for t, kept in theirs["state"].items():
            assert all(torch.equal(ours["state"][t][kind], value) for kind, value in kept.items())


def test_curves_are_those_of_the_run_uncut_and_count_what_stages_send_apart(uncut, cut):
    mine, whole = curves(cut["plain"].root), curves(uncut["plain"].root)
    assert set(mine) - set(whole) == {"comm/stages_kb"}
    assert [value for _, value in mine["comm/stages_kb"]] == sorted(value for _, value in mine["comm/stages_kb"])
    for tag in [tag for tag in whole if tag.startswith(("hessian/", "scalar/", "val/", "train/", "comm/paper"))]:
        assert mine[tag] == whole[tag], tag


def test_measuring_by_ranks_that_hold_a_network_together(uncut, cut):
    for name in ("validate@plain", "predict@plain", "predict@generation"):
        assert cut[name].statuses == [0, 0], cut[name].errors
    for name in ("plain", "generation"):
        mine, whole = ((run[name].root / "predictions.jsonl").read_text() for run in (cut, uncut))
        assert mine == whole
        assert len(mine.splitlines()) == 20


def test_a_run_goes_on_with_more_ranks_to_a_stage_on_the_host_and_whole(run_jobs, here, args, uncut, tmp_path):
    def until(rounds, path, *options):
        on = ["--ckpt_path", str(path / "checkpoints" / "last.ckpt")] if path else []
        return [*("fit", *args), *options, *on, "--trainer.max_steps", str(rounds)]

    two = run_jobs(2, [("run", until(2, None, *ON_RANKS, "2"))])["run"]
    assert two.statuses == [0, 0], two.errors
    held = [*ON_RANKS, "3"]
    found = run_jobs(3, [("run", until(4, two.root, *held)), ("generation", ["fit", *args, *GENERATION, *held])])
    three = found["run"]
    assert three.statuses == [0, 0, 0], three.errors
    assert found["generation"].result() == uncut["generation"].result()
    assert here(until(5, three.root, "--model.stages.count", "2"), tmp_path / "host")[0] == 0
    assert here(until(6, tmp_path / "host"), tmp_path / "whole")[0] == 0
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["digest"] == uncut["plain"].summary["digest"]
    # what one process does with a configuration of stages on ranks
    config = str(three.root / "config.yaml")
    assert cli.main(["export", "--config", config, "--output", str(tmp_path / "exported")]) == 0
    status, out, _ = here(["validate", "--config", config], tmp_path / "alone")
    assert status != 0
    assert "stages.count=3 must divide the number of ranks, 1" in out


def test_two_clients_of_two_ranks_each(run_jobs, args, uncut, tmp_path):
    """With as many groups as clients each client is one, and stays there; a bit changed in one is found."""
    few = ["--data.clients", "2", "--data.cohort", "2"]
    flip = {"class_path": "meddling.Flip", "init_args": {"rank": 3, "round": 2, "tensor": FLIPPED}}
    often = ["--in_step.every_n_rounds", "2"]
    alone = run_jobs(1, [("fixed", ["fit", *args, *few])])["fixed"]
    found = run_jobs(
        4,
        [
            ("plain", ["fit", *args, *ON_RANKS, "2"]),
            ("fixed", ["fit", *args, *few, *ON_RANKS, "2", "--data.hosting", "fixed"]),
            ("files", ["fit", *args, *ON_RANKS, "2", "--model.stages.offload_dir", str(tmp_path / "scratch")]),
            ("flip", ["fit", *args, *ON_RANKS, "2", *often, "--trainer.callbacks+", json.dumps(flip)]),
        ],
    )
    assert found["plain"].result() == found["files"].result() == uncut["plain"].result()
    assert found["fixed"].result() == alone.result()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert found["flip"].statuses == [1] * 4
    assert "ranks [2, 3] of 4 are out of step after round 4: the first tensor that differs is" in found["flip"].said


FLIPPED = "model.model.decoder.layers.3.fc1.weight"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_is_named_and_nobody_hangs(start, args, tmp_path, lost):
    beat = json.dumps({"class_path": "meddling.Beat", "init_args": {"path": str(tmp_path / "beat"), "pause": 0.0}})
    more = ["--trainer.max_steps", "100000", "--trainer.callbacks+", beat, "--trainer.val_check_interval", "100000"]
    launched = start(2, ["fit", *args, *more, *ON_RANKS, "2", "--trainer.strategy.timeout_s", "60"], tmp_path / "run")
    until = time.monotonic() + 120
    while not (tmp_path / f"beat.{lost}").exists():
        assert time.monotonic() < until, launched.out[-3000:]
        time.sleep(0.05)
    launched.ranks[lost].kill()
    assert launched.wait(120) != 0
    [line] = launched.errors
    assert f"rank {lost} (process" in line
    assert "it has ended" in line


TIED = {
    "class_path": "meddling.Flip",
    "init_args": {"rank": 1, "round": 2, "tensor": "model.model.decoder.embed_tokens.weight"},
}
REFUSED = {
    "blocks": ([*ON_RANKS, "5"], "count=5 must be at most 4, the number of blocks in model.model.decoder"),
    "method": ([*ON_RANKS, "2", "--model.method", "FedAvg"], "model.stages must be null with method=FedAvg"),
    "exception": (
        [*ON_RANKS, "2", "--checkpoint.save_on_exception", "true"],
        "checkpoint.save_on_exception=true must be false with model.stages.on=ranks",
    ),
    "tied": (  # a weight that both ends have
        [*ON_RANKS, "2", "--trainer.callbacks+", json.dumps(TIED)],
        "ranks [0, 1] of 2 are out of step after round 6: the first tensor that differs is "
        "'model.model.decoder.embed_tokens.weight'",
    ),
    "starts": ([*ON_RANKS, "2", "--model.stages.starts", "[0, 0]"], "starts=[0, 0] must be the first block of each"),
}


@pytest.fixture(scope="module")
def refused(run_jobs, args):
    return run_jobs(2, [(name, ["fit", *args, *options]) for name, (options, _) in REFUSED.items()])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_or_kept_is_refused_in_a_line(refused, name):
    run = refused[name]
    assert 0 not in run.statuses
    assert REFUSED[name][1] in run.said
    assert not (run.root / "summary.json").exists()


def test_ranks_that_come_to_no_whole_groups_are_refused(run_jobs, args):
    run = run_jobs(3, [("run", ["fit", *args, *ON_RANKS, "2"])])["run"]
    assert 0 not in run.statuses
    assert "stages.count=2 must divide the number of ranks, 3" in run.said
