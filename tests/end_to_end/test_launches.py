"""Launches that can be work, and one that contradicts itself ends at once with a line and a status that says so."""

from __future__ import annotations

import json

import pytest

from hiso_pl.ranks import environment

pytestmark = [pytest.mark.slow]

SHORT = ("--trainer.max_steps", "3", "--trainer.val_check_interval", "3")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nothing is said of a launch but what a test says."""
    for name in (*environment.NUMBERS, *environment.TASKS, "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NODE_RANK", "1", "must be 0 or unset"),
        ("LOCAL_RANK", "1", "must be 0 or unset"),
        ("WORLD_SIZE", "2", "must be 1 or unset"),
        ("RANK", "abc", "must be a number"),
    ],
)
def test_one_process_that_takes_itself_for_one_of_several_is_told(
    start, base, tmp_path, monkeypatch, name, value, message
):
    monkeypatch.setenv(name, value)
    launch = start(1, [*base, *SHORT], tmp_path / "run")
    assert launch.wait() == 1
    [line] = launch.out.splitlines()
    assert line.startswith("hiso-pl: error")
    assert name in line
    assert message in line
    assert not (tmp_path / "run").exists()


def test_devices_that_contradict_torchrun_are_told_once(start, base, tmp_path):
    launch = start(2, [*base, *SHORT, "--trainer.devices", "3"], tmp_path / "run", forks=False)
    assert launch.wait() != 0
    [line] = launch.errors
    assert "trainer.devices=3 must be 2, as torchrun started WORLD_SIZE=2" in line
    assert not (tmp_path / "run").exists()


def test_the_same_run_comes_of_every_launch(start, base, tmp_path, monkeypatch):
    digests = []
    # alone, by the options, by hiso-pl launch, by torchrun, and by torchrun in the second task of a Slurm job
    for name, ranks, options, given in (
        ("alone", 1, [], {}),
        ("devices", 1, ["--trainer.devices", "2"], {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}),
        ("torchrun", 2, ["--trainer.devices", "2"], {}),
        ("slurm", 2, [], {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}),
    ):
        with monkeypatch.context() as patched:
            for variable, value in given.items():
                patched.setenv(variable, value)
            launch = start(ranks, [*base, *SHORT, *options], tmp_path / name, forks=False)
            assert launch.wait() == 0, launch.out[-3000:]
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["ranks"] == (1 if name == "alone" else 2)
        digests.append(summary["digest"])
    assert len(set(digests)) == 1
