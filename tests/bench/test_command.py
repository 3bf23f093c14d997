"""The whole command on a tiny model, and the command lines it refuses."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hiso_pl.cli import bench
from hiso_pl.cli import program as cli
from hiso_pl.cli.parser import ConfigurationError

TINY = ["--model", "opt-tiny", "--batch_size", "2", "--tokens", "8", "--num_directions", "2", "--device", "cpu"]
ON_RANKS = ["--stages.on", "ranks", "--stages.count", "2"]
SHORT = ["--threads", "1", "--repetitions", "3", "--warmup", "1", "--kernel_elements", "5000"]


def run(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[dict[str, Any], str]:
    found = bench.run([*TINY, *SHORT, *more])
    return found, capsys.readouterr().out


def test_writes_json_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bench.json"
    found, out = run(capsys, "--sweep_tokens", "[4, 16]", "--clients", "2", "--output", str(output))
    assert json.loads(output.read_text()) == found
    assert list(tmp_path.iterdir()) == [output]

    assert found["settings"]["tokens"] == 8
    assert found["machine"]["threads"] == 1
    assert found["forwards"] == {"per_slot": 3, "per_round": 6}
    seconds = found["seconds"]
    assert set(seconds) == {"forwards", "round", "usual"}
    for one in seconds.values():
        assert len(one["all"]) == 3
        assert one["median"] == statistics.median(one["all"])
        assert 0 < one["q1"] <= one["median"] <= one["q3"]
    ratio = found["ratio"]
    assert ratio["of_medians"] == seconds["round"]["median"] / seconds["forwards"]["median"]
    pairs = zip(seconds["round"]["all"], seconds["forwards"]["all"], strict=True)
    assert ratio["all"] == [a / b for a, b in pairs]
    assert found["usual_ratio"]["of_medians"] == seconds["usual"]["median"] / seconds["round"]["median"]

    split = found["split"]
    assert split["displacements"] == 2
    assert 0 < split["displace_s"] < split["probe_s"]
    assert split["measured_apart"] == []
    assert found["bytes"] == {"client_up": 8, "client_paper": 16, "payload": 0}
    assert found["throughput"]["forwards_per_second"] == 6 / seconds["round"]["median"]
    assert found["throughput"]["tokens_per_second"] == 6 * 16 / seconds["round"]["median"]
    points = found["sweep"]["points"]
    assert [(p["tokens"], p["tokens_per_batch"]) for p in points] == [(4, 8), (8, 16), (16, 32)]
    assert points[1]["ratio"] == ratio["of_medians"]

    memory = found["memory"]
    assert memory["inference"] > memory["resident"] > 0
    assert memory["hessian"] == 4 * found["model"]["trainable"]
    assert memory["round"] > memory["inference"]
    kernels = found["kernels"]
    assert kernels["copy_bytes_per_second"] > 0
    assert kernels["displace"]["floor_bytes_per_element"] == 12
    assert kernels["update"]["floor_bytes_per_element"] == 16
    assert kernels["usual_update"]["published"]["times_ours"] > 0

    for line in ("6 plain forwards", "round / forwards", "usual way / round", "16 tokens a batch"):
        assert line in out


def test_leaves_out_what_is_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--usual", "false", "--memory_measure", "false", "--kernel_elements", "0", "--repetitions", "1")
    found, out = run(capsys, *options)
    assert set(found["seconds"]) == {"forwards", "round"}
    assert found["kernels"] is None
    assert found["memory"] is None
    assert found["usual_ratio"] is None
    assert "usual" not in out


def test_options_reach_the_round(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--local_steps", "2", "--difference", "central", "--preconditioner", "Identity", "--peft.r", "2")
    more = ("--compute_dtype", "bfloat16", "--distribution", "rademacher", "--memory", "low", "--clients", "2")
    found, _ = run(capsys, *options, *more, "--usual", "true")
    assert found["forwards"] == {"per_slot": 8, "per_round": 16}
    assert found["model"]["trainable"] < found["model"]["parameters"] / 5
    assert found["memory"]["hessian"] == 0
    assert found["memory"]["inference_in_dtype"] < found["memory"]["inference"]
    assert found["kernels"]["displace"]["floor_bytes_per_element"] == 6
    assert found["bytes"]["client_up"] == 16


def launched(ranks: int, output: Path, *more: str) -> tuple[dict[str, Any], str]:
    """What several ranks have measured and said."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*torchrun, "-m", "hiso_pl", "bench", *TINY, *SHORT, *more, "--output", str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), done.stdout


@pytest.mark.slow
def test_ranks_share_a_cohort(tmp_path: Path) -> None:
    options = ["--clients", "3", "--usual", "false", "--kernel_elements", "0"]
    found, out = launched(2, tmp_path / "bench.json", *options)
    assert out.count("round / forwards") == 1
    assert found["machine"]["ranks"] == 2
    assert found["forwards"]["per_round"] == 9
    assert found["bytes"]["payload"] == 4 * (3 * 3 + 1)
    assert found["split"]["exchange_alone_s"]["median"] > 0


@pytest.mark.slow
def test_ranks_hold_a_network_together(tmp_path: Path) -> None:
    """Two clients of two ranks each: each rank says what it holds, hands on and takes."""
    options = ["--clients", "2", "--kernel_elements", "0", *ON_RANKS]
    found, out = launched(4, tmp_path / "bench.json", *options)
    assert found["usual_ratio"] is None
    assert found["forwards"]["per_round"] == 6
    each = found["stages"]
    assert [(one["group"], one["stage"]) for one in each] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # three points of one client, two sequences of eight tokens, 32 numbers each; and a header
    assert [one["sent_bytes"] for one in each] == [3 * 2 * 8 * 32 * 4 + 512, 0] * 2
    whole = 4 * found["model"]["parameters"]
    assert all(one["parameters_bytes"] < 0.9 * whole < one["peak_bytes"] < 4 * whole for one in each)
    assert found["memory"]["hessian"] == each[0]["parameters_bytes"]
    assert "rank 3: group 1, stage 1" in out
    assert "2 stages on ranks" in out


@pytest.mark.parametrize(
    ("options", "status", "line"),
    [
        (["--peft.r", "0"], 2, "hiso-pl: error: peft.r=0 must be at least 1\n"),
        (["--tokens", "500"], 1, "hiso-pl: error: tokens=500 must be at most 128, the positions of model='opt-tiny'\n"),
    ],
)
def test_errors_are_one_line(options: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *TINY, *SHORT, *options]) == status
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "opt-9b"], r"model='opt-9b' must be one of opt-tiny, .*, a model's folder, or owner/name"),
        (["--model", "./nowhere"], r"model='./nowhere': no such folder"),
        (["--tokens", "500"], r"tokens=500 must be at most 128, the positions of model='opt-tiny'"),
        (["--sweep_tokens", "[500]"], r"tokens=500 must be at most 128"),
        (ON_RANKS, r"stages.count=2 must divide the number of ranks, 1"),
    ],
)
def test_refuses_what_does_not_fit(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench.run([*TINY, *SHORT, *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_size", "0"], r"batch_size=0 must be at least 1"),
        (["--clients", "-1"], r"clients=-1 must be at least 1"),
        (["--mu", "0"], r"mu=0.0 must be finite and positive"),
        (["--threads", "0"], r"threads=0 must be at least 1"),
        (["--sweep_tokens", "[8, 0]"], r"sweep_tokens=\[8, 0\] must be at least 1 each"),
        (["--directions_per_forward", "0"], r"directions_per_forward=0 must be at least 1, or 'auto'"),
        (["--peft.r", "0"], r"peft.r=0 must be at least 1"),
        (["--tokens", "many"], r"tokens=many must be an integer"),
        (["--preconditioner", "other"], r"preconditioner=other is no known class: there are .*Diagonal"),
        (["--output", "no/such/folder/bench.json"], r"output='no/such/folder/bench.json': there is no folder"),
        (["--output", "."], r"output='.' is a folder, must be a file"),
        ([*ON_RANKS, "--usual", "true"], r"usual=true must be false with stages.on=ranks"),
        (["--unknown", "1"], r"--unknown"),
    ],
)
def test_refuses_a_command_line_before_anything_is_built(options: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        bench.run([*TINY, *SHORT, *options])
