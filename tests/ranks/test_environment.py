"""What a launcher says in the environment is compared with itself and with the trainer."""

from __future__ import annotations

import os

import pytest

from hiso_pl.ranks import environment

TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"},
}
SLURM = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}
ALL = {*environment.NUMBERS, *environment.THREADS, *environment.TASKS, *TORCHRUN, *SLURM, environment.BY_LIGHTNING}


@pytest.fixture
def launched(monkeypatch):
    """Checks a launch of which the environment says no more than what is given."""

    def launched(given: dict[str, str | None], devices: int | None = None, nodes: int = 1) -> None:
        for name in ALL:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            if value is not None:
                monkeypatch.setenv(name, value)
        environment.check_launch(devices, nodes)

    return launched


def test_the_place_in_a_launch_is_read_from_its_environment(launched):
    def place() -> tuple[int, ...]:
        return environment.rank(), environment.world_size(), environment.local_rank(), environment.local_world_size()

    launched({})
    assert place() == (0, 1, 0, 1)
    launched(TORCHRUN)
    assert place() == (3, 4, 1, 2)
    with pytest.raises(ValueError, match="LOCAL_RANK=1"):  # Lightning's, in a script: the program starts none that way
        launched({environment.BY_LIGHTNING: str(os.getppid()), "LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"})
    assert place() == (1, 2, 1, 1)


@pytest.mark.parametrize(
    ("given", "devices", "nodes"),
    [
        ({}, None, 1),
        ({}, 2, 1),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, None, 1),
        ({"OMP_NUM_THREADS": "4, 2", "NUMBA_NUM_THREADS": ""}, None, 1),
        ({"MASTER_PORT": "29500"}, 2, 1),  # where the processes that are started here are to meet
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}, 2, 1),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"}, None, 1),
        (TORCHRUN, None, 1),
        (TORCHRUN, 2, 2),
        (TORCHRUN | SLURM, None, 1),  # launch/slurm.sbatch: srun, and torchrun in each task
        (TORCHRUN | {"NODE_RANK": "5", "OMPI_COMM_WORLD_SIZE": "2"}, None, 1),
    ],
)
def test_launches_that_can_be(launched, given, devices, nodes):
    launched(given, devices, nodes)


@pytest.mark.parametrize(
    ("given", "devices", "message"),
    [
        *(({name: "abc"}, None, rf"{name}='abc' .*must be a number") for name in environment.NUMBERS),
        *(({name: ""}, None, rf"{name}='' .*must be a number") for name in environment.NUMBERS),
        ({"RANK": "-1"}, None, "RANK='-1' .*must be a number of at least 0"),
        ({"RANK": "9" * 9999}, None, "RANK='9{40}' .*must be a number of at least 0 and at most 2147483647"),
        ({"RANK": "\u0663"}, None, "RANK='\u0663' .*must be a number"),
        ({"MASTER_PORT": "x"}, None, "MASTER_PORT='x' .*must be a number of at least 1, or be unset"),
        *(({"MASTER_PORT": port}, None, "must be .* at least 1 and at most 65535") for port in ("0", "65536")),
        *(({"OMP_NUM_THREADS": n}, None, "OMP_NUM_THREADS=.* at least 1") for n in ("abc", "0", "-1", "2,", "1.5")),
        (TORCHRUN | {"MASTER_ADDR": " "}, None, "MASTER_ADDR is unset or empty"),
        (TORCHRUN | {"MASTER_PORT": None}, None, "MASTER_PORT is unset or empty"),
        # one process that takes itself for one of several
        *(
            ({name: "1"}, None, f"{name}=1 .*must be 0 or unset, as torchrun did not")
            for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID")
        ),
        *(
            ({name: "2"}, None, f"{name}=2 .*must be 1 or unset, as torchrun did not")
            for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
        ),
        ({"WORLD_SIZE": "0"}, None, "WORLD_SIZE=0 .*must be 1 or unset"),
        ({"MASTER_ADDR": "node7"}, None, "MASTER_ADDR=node7 .*torchrun did not start this process"),
        ({"MASTER_PORT": "29500"}, 1, "MASTER_PORT=29500 .*torchrun did not start this process"),
        *(({name: "2"}, None, f"{name}=2 .*must be 1.*launch/slurm.sbatch") for name in environment.TASKS),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NAME": "bash"}, None, "SLURM_STEP_NUM_TASKS=2 .*must be 1"),
        # Lightning starts none where it finds a number, and takes this process for the others as well
        ({"LOCAL_RANK": "0"}, 2, "LOCAL_RANK=0 .*must be unset.* 2 processes of trainer.devices"),
        ({"WORLD_SIZE": "1"}, 2, "WORLD_SIZE=1 .*must be unset"),
        ({environment.BY_LIGHTNING: "1", "LOCAL_RANK": "1"}, None, "LOCAL_RANK=1 .*must be 0 or unset"),
        (TORCHRUN | {environment.BY_LAUNCH: "/x"}, 3, r"trainer.devices=3 must be 2, as hiso-pl launch started"),
        # torchrun's own, meddled with
        (TORCHRUN | {"RANK": "4"}, None, "RANK=4 .*must be below WORLD_SIZE=4"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, None, "LOCAL_RANK=2 .*must be below LOCAL_WORLD_SIZE=2"),
        (TORCHRUN | {"GROUP_RANK": "2"}, None, "GROUP_RANK=2 .*must be below GROUP_WORLD_SIZE=2"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "8"}, None, "LOCAL_WORLD_SIZE=8 must be at most WORLD_SIZE=4"),
        (TORCHRUN | {"WORLD_SIZE": None}, None, "WORLD_SIZE is unset .*TORCHELASTIC_RUN_ID"),
        (TORCHRUN, 3, r"trainer.devices=3 must be 2, as torchrun started WORLD_SIZE=4 .*leave it out"),
        (TORCHRUN, 1, r"trainer.devices=1 must be 2, as torchrun started WORLD_SIZE=4 .*leave it out"),
    ],
)
def test_launches_that_contradict_themselves(launched, given, devices, message):
    with pytest.raises(ValueError, match=message) as refused:
        launched(given, devices)
    assert "\n" not in str(refused.value)


def test_machines_that_contradict_the_launch(launched):
    with pytest.raises(ValueError, match=r"trainer.num_nodes=3 must be 2, as torchrun"):
        launched(TORCHRUN, None, 3)
    with pytest.raises(ValueError, match=r"trainer.num_nodes=2 must be 1, as torchrun did not start"):
        launched({}, None, 2)
