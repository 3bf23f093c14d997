"""Where this process stands among the ranks, as its launcher numbered it, and whether that can be.

Nothing is imported for it: what Lightning reads of the environment, it reads when it is imported.
"""

from __future__ import annotations

import os

RANKS = {"RANK": "WORLD_SIZE", "LOCAL_RANK": "LOCAL_WORLD_SIZE", "GROUP_RANK": "GROUP_WORLD_SIZE"}
"""What a launcher numbers a process by, and the variable that says how many there are of it."""
TASKS = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")
"""How many processes a job has, and how many srun, Open MPI, MPICH and its kin and LSF's jsrun have started."""
STOP_AFTER = "HISO_PL_STOP_AFTER"
"""Set for a run of a study to the round after which it is to stop, saved and to be gone on with."""
NUMBERS = (
    *(*RANKS, *RANKS.values(), "ROLE_RANK", "ROLE_WORLD_SIZE", "NODE_RANK", *TASKS, "JSM_NAMESPACE_RANK"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    STOP_AFTER,
)
"""What is a number of at least 0, and so small that it may count processes."""
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What is a number of at least 1, or several of them: OpenMP takes one for each level of nesting."""
LARGEST = (1 << 31) - 1
BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
BY_LIGHTNING = "HISO_PL_LAUNCHER"
"""Set to its process id by one that has Lightning start the others, so that they know who has numbered them."""
BY_LAUNCH = "HISO_PL_REASONS"
"""Set by ``hiso-pl launch`` to the folder in which its ranks leave why they end."""
STARTED_BY = "HISO_PL_STARTED_BY"
"""Set by ``hiso-pl launch`` to the command line before the run's own, as it is to be repeated."""
BY_STUDY = "HISO_PL_STUDY"
"""Set for the runs of a study to the process that starts them, so that they notice its end."""
_PARENT = os.getppid()
"""The process that started this one."""


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return BY_TORCHRUN in os.environ


def orphaned() -> bool:
    """Whether what has started this process, as torchrun, ``hiso-pl launch`` or a study, has ended before it by a kill.

    Of other launchers nothing is known: a shell, for one, may end before what it has started in the background.
    """
    parent = os.getppid()
    return parent != _PARENT if under_torchrun() else os.environ.get(BY_STUDY, str(parent)) != str(parent)


def stop_after() -> int | None:
    """The round after which a study has this run stop, if it has one."""
    return int(os.environ[STOP_AFTER]) if STOP_AFTER in os.environ else None


def under_lightning() -> bool:
    """Whether Lightning started this process, or this one is the first and had it start the others."""
    return os.environ.get(BY_LIGHTNING) in (str(os.getpid()), str(os.getppid()))


def rank() -> int:
    """This process's rank as its launcher numbered it; 0 without one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))  # Lightning, on one machine, numbers so only


def world_size() -> int:
    """Number of processes of the launch; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's rank on its machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes of the launch on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def check_numbers() -> None:
    """Refuses a variable of a launcher that is no number; before Lightning is imported, which would fail for it.

    Raises:
        ValueError: If one is not.
    """
    for names, least, most in ((NUMBERS, 0, LARGEST), (("MASTER_PORT",), 1, 65535), (THREADS, 1, LARGEST)):
        for name in names:
            value = os.environ.get(name, "" if names is THREADS else str(least))
            parts = [part.strip() for part in value.split(",") if value] if names is THREADS else [value]
            if not all(_is_number(part, least, most) for part in parts):
                limits = f"of at least {least}" + (f" and at most {most}" if value.isdigit() else "")
                raise ValueError(f"{name}={value[:40]!r} in the environment must be a number {limits}, or be unset")


def _is_number(text: str, least: int, most: int) -> bool:
    """Whether a text is a number as launchers write it, within limits."""
    return text.isascii() and text.isdigit() and least <= int(text[:20]) <= most


def check_launch(devices: int | None = None, nodes: int = 1) -> None:
    """Compares what the environment says of the launch with itself and with what the trainer is to have.

    A process that takes itself for another rank than it is writes nothing, or writes beside others of its kind.

    Args:
        devices: Processes of each machine that the trainer is told of; None for as many as there are.
        nodes: Machines that the trainer is told of.

    Raises:
        ValueError: If they contradict each other; it names the variable, its value and what would be right.
    """
    check_numbers()
    if under_torchrun():
        _check_numbering()
        for option, given, found in (
            ("devices", devices, local_world_size()),
            ("num_nodes", None if nodes == 1 else nodes, max(1, world_size() // local_world_size())),
        ):
            if given is not None and given != found:
                raise ValueError(
                    f"trainer.{option}={given} must be {found}, as {launcher()} started WORLD_SIZE={world_size()} "
                    f"processes, LOCAL_WORLD_SIZE={local_world_size()} of them here: leave it out"
                )
    else:
        _check_alone(devices or 1, nodes)


def launcher() -> str:
    """What has started the ranks of a launch."""
    return "hiso-pl launch" if BY_LAUNCH in os.environ else "torchrun"


def _check_numbering() -> None:
    """Whether torchrun's numbers are all there, and each below what it counts to."""
    for name, size in RANKS.items():
        for variable in (name, size):
            if variable not in os.environ:
                raise ValueError(f"{variable} is unset in the environment, and {BY_TORCHRUN} says torchrun sets it")
        if int(os.environ[name]) >= int(os.environ[size]):
            raise ValueError(f"{name}={os.environ[name]} in the environment must be below {size}={os.environ[size]}")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if world_size() > 1 and not os.environ.get(name, "").strip():
            raise ValueError(f"{name} is unset or empty in the environment, and {BY_TORCHRUN} says torchrun sets it")
    if local_world_size() > world_size():
        raise ValueError(f"LOCAL_WORLD_SIZE={local_world_size()} must be at most WORLD_SIZE={world_size()}")


def _check_alone(devices: int, nodes: int) -> None:
    """Whether a process that no launcher of ranks has started says that it is one of several."""
    started = "torchrun did not start this process"
    if nodes > 1:
        raise ValueError(f"trainer.num_nodes={nodes} must be 1, as {started}: start torchrun on each machine")
    tasks = set(TASKS)
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        tasks.remove("SLURM_NTASKS")  # of an allocation with a shell in it, from which nothing else was started
    for name in TASKS:
        if name in tasks and os.environ.get(name, "1") not in ("0", "1"):
            raise ValueError(
                f"{name}={os.environ[name]} in the environment must be 1, as {started}, and each task would be a run "
                "of its own: start torchrun once on each machine, as launch/slurm.sbatch does, or ask for one task"
            )
    for name in (*RANKS, "NODE_RANK", "SLURM_PROCID", *RANKS.values()):
        value, alone = os.environ.get(name), "1" if name in RANKS.values() else "0"
        if value is not None and devices > 1 and name != "SLURM_PROCID":
            raise ValueError(
                f"{name}={value} in the environment must be unset, as {started}: "
                f"the {devices} processes of trainer.devices are started and numbered here"
            )
        if value is not None and value != alone:
            raise ValueError(
                f"{name}={value} in the environment must be {alone} or unset, as {started} and there is no other: "
                "start it by torchrun, or unset it"
            )
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name in os.environ and devices == 1 and "WORLD_SIZE" not in os.environ:
            raise ValueError(
                f"{name}={os.environ[name]} in the environment tells of other processes, and {started}: "
                "start it by torchrun, or unset it"
            )
