"""The Slurm script with stand-ins for Slurm's programs: what it starts, and what it does when time is up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"


@pytest.fixture
def slurm(tmp_path):
    """Starts the script as Slurm does, from a copy elsewhere; a call of Slurm's programs is a line of ``calls``."""
    programs, repository, spool = tmp_path / "bin", tmp_path / "repository" / "launch", tmp_path / "spool"
    for folder in (programs, repository, spool):
        folder.mkdir(parents=True)
    calls = tmp_path / "calls"
    stand_ins = {
        programs / "scontrol": 'if [[ $1 == show && $2 == job ]]; then printf "   Command=%s more\\n" "$COMMAND"\n'
        'elif [[ $1 == show ]]; then seq -f node%g 7 20000\nelse echo "scontrol $*" >> "$CALLS"; fi',
        programs / "scancel": 'echo "scancel $*" >> "$CALLS"; kill -TERM "$(cat "$CALLS.step")"',
        # a run that ends at its round when it is told to, after a while
        programs / "srun": 'echo $$ > "$CALLS.step"\ntrap \'sleep 0.3; echo "stopped" >> "$CALLS"; exit 1\' TERM\n'
        'printf "srun %s\\n" "${*/$ROOT/ROOT}" "$NNODES $MASTER $RUN_ID ${NPROC:-}" >> "$CALLS"\n'
        'for _ in $(seq "${TENTHS:-0}"); do sleep 0.1; done\nexit "${STATUS:-0}"',
        repository / "environment.sh": 'echo "environment" >> "$CALLS"',
        repository / "several_nodes.sh": "",
    }
    for path, text in stand_ins.items():
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    shutil.copy(SCRIPT, repository / "slurm.sbatch")
    script = shutil.copy(SCRIPT, spool / "slurm_script")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "COMMAND": str(repository / "slurm.sbatch"),
        "ROOT": str(repository.parent),
        "CALLS": str(calls),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_CPUS_PER_TASK": "8",
    }

    def start(*, when_up=False, **more):
        process = subprocess.Popen(
            ["bash", script, "--config", "a b.yaml"], env=environment | more, stderr=subprocess.PIPE, text=True
        )
        if when_up:
            deadline = time.monotonic() + 20
            while not (calls.exists() and "slurm-12345" in calls.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGUSR1)
        _, said = process.communicate(timeout=60)
        return process.returncode, calls.read_text().splitlines() if calls.exists() else [], said

    return start


RUN = (
    "srun --ntasks-per-node=1 --cpus-per-task=8 --kill-on-bad-exit=1 "
    "bash ROOT/launch/several_nodes.sh --config a b.yaml"
)


def test_a_first_start_begins_a_run_on_all_nodes(slurm):
    status, calls, _ = slurm(SLURM_GPUS_ON_NODE="4")
    assert (status, calls) == (0, ["environment", RUN, "srun 2 node7:22345 slurm-12345 4"])


def test_a_job_that_was_queued_again_goes_on(slurm):
    status, calls, _ = slurm(SLURM_RESTART_COUNT="1", PORT="29400", GPUS_PER_NODE="2", SLURM_GPUS_ON_NODE="4")
    assert (status, calls[1:]) == (0, [f"{RUN} --ckpt_path auto", "srun 2 node7:29400 slurm-12345 2"])


def test_a_run_that_fails_fails_the_job_and_is_not_queued_again(slurm):
    status, calls, _ = slurm(STATUS="7")
    assert (status, len(calls)) == (7, 3)


@pytest.mark.parametrize(("requeue", "last"), [({}, ["scontrol requeue 12345"]), ({"REQUEUE": "no"}, [])])
def test_when_time_is_up_the_run_is_told_waited_for_and_queued_again(slurm, requeue, last):
    _, calls, _ = slurm(when_up=True, TENTHS="300", **requeue)
    assert calls[3:] == ["scancel --signal=TERM 12345", "stopped", *last]


def test_a_repository_that_is_not_found_is_told(slurm, tmp_path):
    status, calls, said = slurm(COMMAND="/nowhere/launch/slurm.sbatch")
    assert (status, calls) == (2, [])
    assert said.startswith(
        "hiso_pl: there is no launch/several_nodes.sh in '/nowhere': name the repository with HISO_PL_R"
    )
    assert slurm(COMMAND="/nowhere/launch/slurm.sbatch", HISO_PL_ROOT=str(tmp_path / "repository"))[0] == 0
