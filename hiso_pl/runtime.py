"""The process a run lives in: threads and determinism, versions, its place among the ranks, and its end."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from datetime import timedelta
from importlib import metadata

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import hiso_pl
from hiso_pl import roll_call
from hiso_pl.zeroth_order.kernels.base import NUMERICS
from hiso_pl.zeroth_order.philox import STREAM

log = logging.getLogger(__name__)

CUBLAS_WORKSPACE = ":4096:8"
SAY_TIMEOUT_S = 5.0
PACKAGES = (
    *("torch", "lightning", "transformers", "tokenizers", "peft", "datasets", "safetensors", "jsonargparse"),
    *("numpy", "numba", "triton"),
)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def rank() -> int:
    """This process's rank as its launcher numbered it; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes of the launch; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's rank on its machine; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes of the launch on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def configure(threads: int | None = None, deterministic: bool = True) -> dict[str, int | bool | str]:
    """Sets what the bits of a result depend on besides the configuration.

    TF32 and cuDNN's benchmark are off in any case. Call it before anything has run on a GPU.

    Args:
        threads: CPU threads of this rank. If none is given, 1 under torchrun and all cores otherwise.
        deterministic: Whether an operation without a deterministic implementation is an error.

    Returns:
        What was set, as plain values to be recorded with the run.

    Raises:
        ValueError: If ``threads`` is below 1.
    """
    if threads is None:
        threads = 1 if under_torchrun() else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads={threads} must be at least 1")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE
    torch.use_deterministic_algorithms(deterministic)
    # with determinism torch also fills every new tensor, which costs a pass over memory and changes no result here
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return {
        "threads": threads,
        "deterministic": deterministic,
        "tf32": False,
        "cudnn_benchmark": False,
        "cublas_workspace": CUBLAS_WORKSPACE if deterministic else "",
    }


def versions() -> dict[str, str]:
    """The versions a result may depend on, and the numbers of the formats that it does depend on."""
    found = {"hiso_pl": hiso_pl.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found | {"stream": str(STREAM), "numerics": str(NUMERICS)}


def say_once(message: str) -> bool:
    """Decides which rank says a line that all ranks might say.

    The store of torchrun's agent, which is there before the process group and after it, counts who came first. Ranks
    that will miss this one in a collective are told the line as well, and have nothing to add to it.

    Args:
        message: The line.

    Returns:
        True on exactly one rank for a message; True everywhere where there is no such store to ask.
    """
    if not under_torchrun() or world_size() == 1:
        return True
    first = _is_first(message)
    roll = roll_call.current()
    if first and roll is not None:
        _leave_word(roll, message)
    return first


def _is_first(line: str) -> bool:
    """Whether nobody has said a line yet; also where there is no store to ask."""
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")

    def count() -> int:
        store = _launch_store()
        return 1 if store is None else int(store.add(f"hiso_pl/say/{restart}/{_short(line)}", 1))

    return roll_call.within(2 * SAY_TIMEOUT_S, count, 1) == 1


def _leave_word(roll: roll_call.RollCall, message: str) -> None:
    """Tells those who will miss this rank why it ends, as something that has been said already."""
    words = roll.words(message)
    _is_first(words)
    roll.farewell(words)


def note_begun(root: str) -> None:
    """Notes for later attempts of this launch that the run in ``root`` is its own; without torchrun there are none."""
    store = _launch_store() if under_torchrun() else None
    if store is not None:
        store.set(f"hiso_pl/begun/{_short(os.path.abspath(root))}", "1")


def has_begun(root: str) -> bool:
    """Whether an earlier attempt of this very launch began the run in ``root``, so that this one may go on with it."""
    store = _launch_store() if under_torchrun() else None
    return store is not None and bool(store.check([f"hiso_pl/begun/{_short(os.path.abspath(root))}"]))


def _launch_store() -> TCPStore | None:
    """The store of torchrun's agent: there before any process group, and one for all attempts of a launch."""
    try:
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=SAY_TIMEOUT_S),
            wait_for_workers=False,
        )
    except (KeyError, ValueError, RuntimeError) as error:  # torch's store errors are RuntimeErrors
        log.debug("no store of a launch: %s", error)
        return None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def close() -> None:
    """Leaves the process group; a gloo group still open when Python exits may abort the process.

    While an exception is on its way, the others are told of it: their own collectives are about to fail.
    """
    error, roll = sys.exc_info()[1], roll_call.current()
    if error is not None and roll is not None:
        _leave_word(roll, str(error).partition("\n")[0] or type(error).__name__)
    roll_call.close_roll_call()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
