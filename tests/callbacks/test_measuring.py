"""Metrics and predictions of any measure, the same for every number of ranks; and data that has to be prepared."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hiso_pl.run.folder import held_by_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # two launches of the program

HERE = Path(__file__).parent
RANKS = (1, 3)
NETWORK = ["--model.network", "measured.Guess"]
KEEP = ["--trainer.callbacks", "measured.Keep"]


def data(**options):
    return ["--data", json.dumps({"class_path": "measured.NumbersData", "init_args": options})]


def jobs(folder):
    bad = [*NETWORK, "--model.network.bad", "1003"]
    runs = {
        "texts": ("validate", NETWORK, {}),
        "classes": ("validate", NETWORK, {"texts": False}),
        "not finite": ("validate", bad, {}),
        "two batches": ("validate", NETWORK, {"validation": 7}),
        "fit": ("fit", [*NETWORK, "--trainer.max_steps", "1", "--trainer.logger", "false"], {}),
        "lines": ("predict", bad, {}),
        "lines of classes": ("predict", bad, {"texts": False}),
        "lines of two batches": ("predict", NETWORK, {"validation": 7}),
        "unprepared": ("validate", NETWORK, {"fail": 0}),
        "unprepared fit": ("fit", NETWORK, {"fail": 0}),
    }
    return [
        (
            name,
            [
                *(command, "--threads", "1", "--trainer.enable_progress_bar", "false", *KEEP, *options),
                *data(folder=str(folder / f"{name} data"), **more),
                *("--trainer.default_root_dir", str(folder / name)),
            ],
        )
        for name, (command, options, more) in runs.items()
    ]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """By number of ranks: the folder, and of each run and rank the exit status, the error lines and the metrics."""
    processes, found = {}, {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    for ranks in RANKS:
        folder = tmp_path_factory.mktemp(f"ranks{ranks}-")
        (folder / "jobs.json").write_text(json.dumps(jobs(folder)))
        agent = str(HERE.parent / "end_to_end" / "forked_ranks.py")
        torchrun = [agent, "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [*torchrun, str(HERE / "measured.py"), str(folder / "jobs.json"), str(folder / "out")]
        processes[ranks] = (
            folder,
            subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ),
        )
    try:
        for ranks, (folder, process) in processes.items():
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said[-4000:]
            found[ranks] = folder, [json.loads((folder / f"out.{rank}").read_text()) for rank in range(ranks)]
    finally:
        for _, process in processes.values():
            process.kill()
            process.wait()
    return found


@pytest.mark.parametrize("name", ["texts", "classes", "not finite", "two batches", "fit"])
def test_metrics_are_equal_to_the_bit_for_any_number_of_ranks(outcomes, name):
    (_, [alone]), (_, together) = outcomes[1], outcomes[3]
    assert [rank[name][:2] for rank in [alone, *together]] == [[0, []]] * 4
    assert alone[name][2] is not None
    assert [rank[name][2] for rank in together] == [alone[name][2]] * 3


def test_a_model_as_given_is_measured_without_a_checkpoint(outcomes):
    metrics = {name: float.fromhex(value) for name, value in outcomes[3][1][0]["texts"][2].items()}
    numbers = range(1000, 1023)
    assert metrics["val/loss"] == pytest.approx(sum((0.3 - n / 7) ** 2 for n in numbers) / 23, rel=1e-6)
    shares = [len({int(d) for d in str(n)} & {n // 10 % 10, n % 10, 3}) / len(set(str(n))) for n in numbers]
    assert metrics["val/share"] == pytest.approx(sum(shares) / 23)
    assert list(metrics) == ["val/loss", "val/share", "val/distance", "val/worst"]
    assert math.isnan(metrics["val/worst"])  # it is minus infinity
    classes = outcomes[3][1][0]["classes"][2]
    guesses = [max(range(3), key=lambda c, n=n: math.cos(0.3 * n + c)) for n in numbers]
    right = sum(guess == n % 3 for guess, n in zip(guesses, numbers, strict=True))
    assert 0 < right < 23
    assert {"val/accuracy": (right / 23).hex()}.items() <= classes.items()


def test_one_bad_loss_makes_the_mean_loss_nan_and_nothing_else(outcomes):
    good, bad = (outcomes[3][1][0][name][2] for name in ("texts", "not finite"))
    assert bad == {**good, "val/loss": "nan"}


def test_the_first_number_of_a_run_is_that_of_the_model_as_given(outcomes):
    folder, [alone] = outcomes[1]
    first = {
        name: entry["first"] for name, entry in json.loads((folder / "fit/summary.json").read_text())["metrics"].items()
    }
    validated = {name: float.fromhex(value) for name, value in alone["texts"][2].items()}
    assert first == {name: None if math.isnan(value) else value for name, value in validated.items()}


@pytest.mark.parametrize("name", ["lines", "lines of classes", "lines of two batches"])
def test_predictions_are_the_same_for_any_number_of_ranks(outcomes, name):
    one, three = ((outcomes[ranks][0] / name / "predictions.jsonl").read_bytes() for ranks in RANKS)
    assert one == three
    assert b"NaN" not in one
    lines = [json.loads(line) for line in one.decode().splitlines()]
    assert [line["index"] for line in lines] == list(range(7 if "two" in name else 23))
    assert "input" not in lines[0]  # the number 1000, which has no text
    assert lines[1]["input"] == "the number\n1001\u2028é"
    if name == "lines":
        assert lines[3] == {
            "index": 3,
            "input": "the number\n1003\u2028é",
            "prediction": "0 3 3",
            "references": ["1003"],
            "score": None,
        }
        assert lines[4]["score"] == pytest.approx((0.3 - 1004 / 7) ** 2)
    if name == "lines of classes":
        assert lines[3]["scores"] == {"none": None, "one": None, "two": None}
        assert lines[4]["label"] == "two"
        assert lines[4]["prediction"] == max(lines[4]["scores"], key=lines[4]["scores"].get)


@pytest.mark.parametrize("name", ["unprepared", "unprepared fit"])
def test_data_that_one_rank_cannot_prepare_is_an_error_of_all_said_once(outcomes, name):
    for folder, ranks in outcomes.values():
        assert [rank[name][0] for rank in ranks] == [1] * len(ranks)
        [line] = [line for rank in ranks for line in rank[name][1]]
        assert line.endswith(": the shelf is empty")
        assert held_by_run(folder / name) is None
