"""Baselines whose clients send differences of models run as the program: ranks, resumes, bytes, and no ledger."""

from __future__ import annotations

import json
import logging
import re
import signal

import pytest

from hiso_pl.cli import program as cli

from .conftest import NO_BOARD, of_class

ROUNDS, CLIENTS, COHORT = 12, 8, 4
ADAM = {"lr": 0.1, "server_lr": 0.03, "local_epochs": 1, "weighted": True, "momentum": 0.5}
ZO = {"lr": 0.01, "local_steps": 2, "num_directions": 3}
SLOW = [pytest.mark.slow, pytest.mark.timeout(900)]


def of_method(name: str, **init_args: object) -> list[str]:
    return ["--model.method", of_class(f"hiso_pl.first_order.{name}", **init_args)]


def callback(name: str, **init_args: object) -> list[str]:
    return ["--trainer.callbacks+", of_class(f"meddling.{name}", **init_args)]


@pytest.fixture(scope="module")
def runs(run_jobs, base):
    """All runs on so many ranks, of one launch each."""
    quiet = [*base, *NO_BOARD]
    adam, zo = [*quiet, *of_method("FedAdam", **ADAM)], [*quiet, *of_method("FedZO", **ZO), "--data.cohort", "2"]
    flipped = ["--in_step.every_n_rounds", "5", "--trainer.callbacks+"]
    flip = of_class("meddling.Flip", rank=2, round=6, tensor="head.bias", key="second_moment", bit=12)
    alone = run_jobs(1, [("adam", adam), ("zo", zo)])
    three = [
        ("adam", [*adam, *callback("Collectives", path="{root}/seen")]),
        ("zo", zo),  # a rank has no slot, and waits
        ("part", [*adam, *callback("Stop", rank=1, round=6, number=int(signal.SIGTERM))]),
        ("again@part", [*adam, "--ckpt_path", "last"]),
        ("flip", [*adam, *flipped, flip]),
    ]
    return {1: alone, 3: run_jobs(3, three)}


class TestOnRanks:
    pytestmark = SLOW

    @pytest.mark.parametrize("name", ["adam", "zo"])
    def test_every_number_of_ranks_gives_the_same_bits(self, runs, name):
        assert runs[1][name].summary["dropped_slots"] == 0
        assert runs[3][name].result() == runs[1][name].result()
        metrics = runs[1][name].summary["metrics"]["val/loss"]
        assert metrics["last"] < metrics["first"]

    def test_an_interrupted_run_goes_on_to_the_same_bits(self, runs):
        resumed = runs[3]["again@part"]
        assert resumed.summary["interrupted"] is False
        assert resumed.result() == runs[1]["adam"].result()

    def test_a_rank_out_of_step_is_found_and_its_tensor_named(self, runs):
        said = runs[3]["flip"].said
        assert "ranks [2] of 3 are out of step after round 10: the first tensor that differs is" in said
        assert "head.bias" in said

    def test_bytes_are_those_of_models_each_way(self, runs):
        size = runs[1]["adam"].summary["parameters"]
        for ranks in (1, 3):
            comm = runs[ranks]["adam"].summary["comm"]
            assert comm["paper_kb"] == ROUNDS * 2 * 4 * size / 1024
            assert comm["protocol_kb"] == ROUNDS * 2 * 4 * size * COHORT / CLIENTS / 1024
        # of each slot loss, presence and norm, then its difference; each with a ballot
        payload = [4 * (COHORT * 3 + 1), 4 * (COHORT * size + 1)]
        assert runs[1]["adam"].summary["comm"]["measured_kb"] == 0.0
        assert runs[3]["adam"].summary["comm"]["measured_kb"] == ROUNDS * sum(payload) / 1024
        seen = json.loads((runs[3]["adam"].root.parent / "seen.0").read_text())
        assert [[bytes for _, bytes in round[:2]] for round in seen] == [payload] * ROUNDS
        assert all(len(round) == 2 for number, round in enumerate(seen, 1) if number % 5 and number != ROUNDS)

    def test_a_rank_that_dies_is_named_and_the_run_goes_on_from_its_checkpoint(self, start, base, runs, tmp_path):
        trouble = of_class("trouble.InForward", path=str(tmp_path / "told"), rank=1, round=6, kind="kill")
        adam = [*base, *of_method("FedAdam", **ADAM), "--checkpoint.every_n_train_steps", "4"]
        launch = start(2, [*adam, "--trainer.callbacks+", trouble], tmp_path / "run")
        assert launch.wait() != 0
        [line] = launch.errors
        assert re.search(r"rank 1 \(process \d+ on \S+\) did not come to the exchange of round 6: it has ended", line)
        again = start(1, [*adam, "--ckpt_path", "last"], tmp_path / "run")
        assert again.wait() == 0
        assert (
            json.loads((tmp_path / "run" / "summary.json").read_text())["digest"] == runs[1]["adam"].summary["digest"]
        )


@pytest.fixture
def said(base, capsys, tmp_path):
    """The status of a command, and what it wrote to stderr."""

    def said(*args: str, run: bool = True) -> tuple[int, str]:
        capsys.readouterr()
        short = ["--trainer.max_steps", "2", "--trainer.default_root_dir", str(tmp_path / "run")]
        status = cli.main([*base, *of_method("FedAvg", lr=0.1), *short, *args] if run else [*args])
        return status, capsys.readouterr().err

    return said


@pytest.mark.usefixtures("process_settings")
def test_a_run_says_once_that_it_keeps_no_ledger_and_what_wants_one_says_why(said, tmp_path, caplog):
    root = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        status, _ = said("--trainer.val_check_interval", "2")
    assert status == 0
    assert caplog.text.count("This run keeps no ledger, as FedAvg is not scalar-only") == 1
    assert not (root / "rounds.ledger").exists()
    for command in ("replay", "ledger"):
        status, err = said(command, str(root / "rounds.ledger"), run=False)
        assert status == 1
        assert "rounds.ledger does not exist: the run there keeps none (its method is not scalar-only" in err


@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--ckpt_path", "ledger"], "ckpt_path=ledger must be last: FedAvg is not scalar-only, and keeps no ledger"),
        (["--ledger.enabled", "true"], "ledger.enabled=true must be false or null: FedAvg is not scalar-only, and its"),
        (
            ["--in_step.on_mismatch", "repair"],
            "in_step.on_mismatch=repair must be stop with FedAvg, which is not scalar",
        ),
        (
            ["--data.spare_ranks", "help"],
            "spare_ranks='help' must be idle or auto: with FedAvg a slot is one rank's work",
        ),
        (["--model.method.memory", "low"], "model.method.memory is no option of FedAvg"),
        (["--model.method.compute_dtype", "bfloat16"], "model.method.compute_dtype is no option of FedAvg"),
        (["--model.method.mu", "0.1"], "model.method.mu is no option of FedAvg"),
        (["--model.method.lr", "-1"], "lr=-1.0 must be finite and not negative"),
        (["--model.method.momentum", "1"], "momentum=1.0 must be in [0, 1)"),
        (
            ["--model.method", "FedZO", "--model.method.num_directions", "5000"],
            "num_directions x cohort=5000 x 4=20000 must be an integer in [1, 16384)",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_what_is_asked_and_cannot_be_had_is_refused_in_a_line(said, tmp_path, args, line):
    status, err = said(*args)
    assert status != 0
    assert [found for found in err.splitlines() if found.startswith("hiso-pl: error")][-1].count(line) == 1, err
    assert not (tmp_path / "run" / "checkpoints").exists()
