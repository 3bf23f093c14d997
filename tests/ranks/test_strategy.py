"""The strategy, the in-step check and deferred signals with real processes over gloo."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from hiso_pl.ranks.strategy import AtomicCheckpointIO, ScalarStrategy

SCRIPT = Path(__file__).parents[1] / "callbacks" / "stand_in.py"
SIZE = 100_000  # of the stand-in's parameters
LAUNCHER_KEYS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
)


def launch(root, runs, *, torchrun=True):
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER_KEYS}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable]
    if torchrun:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            "--master-addr=127.0.0.1",
            f"--master-port={port}",
        ]
    command += [str(SCRIPT), str(root), json.dumps(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return {path.stem: json.loads(path.read_text()) for path in root.glob("*-?.json")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("launch")


@pytest.fixture(scope="module")
def pair(root):
    """Results by run and rank of several fits by two ranks, each told `devices: 1`."""
    runs = {
        "whole": {},
        "apart": {"partitions_differ": True},
        "drift": {"faults": {3: "drift"}},
        "stop": {"faults": {1: "term"}},
    }
    return launch(root, runs)


@pytest.fixture(scope="module")
def alone(root, pair):
    """The same by a process of its own, without torchrun; one of the fits goes on from the pair's checkpoint."""
    resume = {"folder": "stop", "ckpt_path": str(root / "stop" / "checkpoints" / "last.ckpt")}
    return launch(root, {"single": {}, "resume": resume}, torchrun=False)


def test_no_wrapper_and_nothing_as_large_as_a_parameter_is_sent(pair):
    for rank in (0, 1):
        result = pair[f"whole-{rank}"]
        assert result["error"] is None
        assert (result["rounds"], result["world"], result["model"]) == (6, 2, "Module")
        assert result["collectives"]
        # the largest is Lightning's broadcast of a short pickled object; a parameter is 400 kB
        assert max(size for _, size in result["collectives"]) < 4096 < 4 * SIZE


def test_a_round_is_one_collective(pair):
    sizes = [size for name, size in pair["whole-0"]["collectives"] if name == "all_reduce"]
    row = 4 * (2 * (2 + 1) + 1)  # two slots of two scalars and a loss, and a ballot
    assert sizes.count(row) == 6
    assert pair["whole-0"]["exchanged_bytes"] == 6 * row
    # Lightning's flag of every round is gone: fewer broadcasts than rounds times two remain for the whole fit
    assert sum(name == "broadcast" and size == 8 for name, size in pair["whole-0"]["collectives"]) < 6


def test_the_state_is_that_of_one_process(pair, alone):
    assert alone["single-0"]["world"] == 1
    assert not alone["single-0"]["group"]
    assert alone["single-0"]["collectives"] == []
    assert pair["whole-0"]["digest"] == pair["whole-1"]["digest"] == alone["single-0"]["digest"]


def test_a_signal_to_one_rank_stops_all_after_the_same_round(pair, root):
    assert [pair[f"stop-{rank}"]["rounds"] for rank in (0, 1)] == [2, 2]
    assert pair["stop-0"]["digest"] == pair["stop-1"]["digest"]
    assert (root / "stop" / "checkpoints" / "last.ckpt").exists()


def test_another_number_of_ranks_can_resume(pair, alone, root):
    assert alone["resume-0"]["rounds"] == 6
    assert alone["resume-0"]["digest"] == pair["whole-0"]["digest"]
    summaries = [json.loads((root / name / "summary.json").read_text()) for name in ("whole", "stop")]
    assert summaries[0]["metrics"] == summaries[1]["metrics"]
    assert [summary["ranks"] for summary in summaries] == [2, 1]


def test_ranks_that_start_from_different_things_are_told_so_before_anything_is_written(pair, root):
    errors = {pair[f"apart-{rank}"]["error"] for rank in (0, 1)}
    expected = "the ranks do not start from the same partition (0-th partiti on rank 0, 1-th partiti on rank 1)"
    assert errors == {f"RunError: {expected}"}
    assert not (root / "apart").exists()


def test_a_rank_out_of_step_is_named_with_round_and_tensor(pair, root):
    error = pair["drift-0"]["error"]
    assert error == pair["drift-1"]["error"]
    assert error.startswith("OutOfStepError: ranks [1] of 2 are out of step after round 4")
    assert "'weight'" in error
    assert "\n" not in error
    assert not (root / "drift" / "checkpoints").exists()
    assert not (root / "drift" / "summary.json").exists()


@pytest.mark.parametrize("run", ["apart", "drift"])
def test_an_error_of_all_ranks_is_said_once(pair, run):
    assert sorted(pair[f"{run}-{rank}"]["said"] for rank in (0, 1)) == [False, True]


@pytest.mark.slow
def test_without_torchrun_devices_says_how_many_processes_to_start(tmp_path, pair):
    results = launch(tmp_path, {"two": {"devices": 2}}, torchrun=False)
    assert [results[f"two-{rank}"]["world"] for rank in (0, 1)] == [2, 2]
    assert {result["digest"] for result in results.values()} == {pair["whole-0"]["digest"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, for the name its older versions know
def test_it_is_configured_from_yaml():
    parser = ArgumentParser()
    parser.add_subclass_arguments(Strategy, "strategy")
    config = parser.parse_object(
        {"strategy": {"class_path": "hiso_pl.ranks.strategy.ScalarStrategy", "init_args": {"timeout_s": 60}}}
    )
    strategy = parser.instantiate_classes(config)["strategy"]
    assert strategy._timeout.total_seconds() == 60
    assert "scalar" in StrategyRegistry


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s=0 must be above 0"),
        ({"process_group_backend": "mpi"}, "process_group_backend='mpi' must be 'gloo', 'nccl' or null"),
        ({"interface": "nowhere0"}, "interface='nowhere0' must be one of this machine's: .*lo"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        ScalarStrategy(**options)


def test_ranks_share_devices_in_turn_and_nccl_is_refused_then(monkeypatch):
    strategy = ScalarStrategy("nccl")
    strategy.parallel_devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    monkeypatch.setattr(ScalarStrategy, "local_rank", 3)
    assert strategy.root_device == torch.device("cuda", 1)
    assert strategy.distributed_sampler_kwargs == {"num_replicas": 1, "rank": 0}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="needs a GPU for each of the 4 local ranks, and there are 2"):
        strategy._check_own_gpu()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    strategy._check_own_gpu()


def test_a_checkpoint_cut_short_leaves_the_old_one(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "new" / "last.ckpt"
    io.save_checkpoint({"round": 1}, path)

    def cut(checkpoint, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match="disk full"):
        io.save_checkpoint({"round": 2}, path)
    assert io.load_checkpoint(path, weights_only=True) == {"round": 1}
