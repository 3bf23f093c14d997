"""Ranks, devices and the process group of a run; nothing is wrapped and no tensor of the model is ever sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy, StrategyRegistry
from torch import Tensor
from torch.nn import Module
from typing_extensions import override

from hiso_pl.lightning_privates import optimizers_stay, refuse_stop_iteration
from hiso_pl.ranks import environment, gathering, rendezvous, roll_call
from hiso_pl.run import versions
from hiso_pl.run.checkpoint import Checked
from hiso_pl.run.folder import traceback_path
from hiso_pl.run.restored import without_counters
from hiso_pl.run.start import Start
from hiso_pl.run.whole_file import whole_file
from hiso_pl.stages.held import move_absent
from hiso_pl.zeroth_order.points import absent, standing_at

T = TypeVar("T")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that a stop at any time leaves a whole file.

    Lightning's own way stages the file in the system's temporary folder; moving it from there to another file
    system is a copy, which can be cut short.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves ``checkpoint`` at ``path``, replacing what is there.

        Raises:
            TypeError: If ``storage_options`` are given; there are none.
        """
        if storage_options is not None:
            raise TypeError("storage_options are not supported: checkpoints are local files")
        # written through a file of Python's: torch's own writer tells no more of a full disk than that it failed
        with whole_file(Path(path)) as part, part.open("wb") as file:
            torch.save(checkpoint, file)


class ScalarStrategy(DDPStrategy):
    """Every rank keeps a whole model of its own, and the ranks share a process group for scalars.

    It is DDP without DistributedDataParallel: no broadcast of parameters at the start, no gradient buckets. Ranks are
    kept in step by the optimizer's exchange alone, and a callback checks that they are.

    ``hiso-pl launch`` or torchrun numbers the ranks; in a script of one's own without either Lightning does, which
    starts ``devices`` of them. A rank's device is ``devices[local_rank % len(devices)]``, so several ranks may share a
    GPU, and the number of processes need not be repeated in ``trainer.devices``. Alone in the world, a process makes no
    group.

    Attributes:
        start: Where the run goes on from; set by the program.
        configuration: What else must be the same on all ranks, by name; set by the program.

    Args:
        process_group_backend: Backend of the process group. ``gloo`` works with any number of ranks to a GPU and is the
            choice if none is given; ``nccl`` needs a GPU for each local rank.
        timeout_s: Seconds that a rank waits for the others in a collective before it gives up, and says which did not
            come. It must cover the longest time by which one rank may be behind another: compiling kernels in the first
            round, a round's forwards on the slowest rank, its part of a validation, and on rank 0 the writing of a
            checkpoint. To start, all have ten minutes at least, and data that rank 0 prepares for all are waited for
            without limit. A rank that hangs ends by itself soon after it was named; one that cannot run Python any more
            is killed by its launcher half a minute later. With ``nccl``, torch's own watchdog may
            end the processes first, and then names no rank.
        interface: Network interface of this machine that the process group's connections go through, for instance
            ``eth0``; ``ip route get <HOST OF ANOTHER RANK>`` names it. If none is given, the environment's
            GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME counts; without these gloo takes the interface that the machine's
            own host name resolves to, which is often the loopback, and ranks of several machines do not meet. Where the
            machines name their interfaces differently, use the environment.
    """

    def __init__(
        self,
        process_group_backend: Literal["gloo", "nccl"] | None = None,
        timeout_s: float = 1800.0,
        interface: str | None = None,
    ) -> None:
        if process_group_backend not in (None, "gloo", "nccl"):
            raise ValueError(f"process_group_backend={process_group_backend!r} must be 'gloo', 'nccl' or null")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s} must be above 0")
        if interface is not None:
            there = [name for _, name in socket.if_nameindex()]
            if interface not in there:
                raise ValueError(f"interface={interface!r} must be one of this machine's: {', '.join(there)}")
        super().__init__(
            process_group_backend=process_group_backend,
            timeout=timedelta(seconds=timeout_s),
            checkpoint_io=AtomicCheckpointIO(),
            # nobody else numbers the ranks: of a Slurm job Lightning would take any process for one of its tasks
            cluster_environment=TorchElasticEnvironment() if environment.under_torchrun() else LightningEnvironment(),
        )
        self._interface = interface
        self.start: Start | None = None
        self.configuration: Mapping[str, str] = {}

    @property
    @override
    def root_device(self) -> torch.device:
        """The device of this rank."""
        devices = self.parallel_devices
        assert devices
        return devices[self.local_rank % len(devices)]

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Keeps Lightning from cutting a client's data once more: the loaders know their rank themselves."""
        return {"num_replicas": 1, "rank": 0}

    @property
    def collective_device(self) -> torch.device:
        """Where a tensor must be to be handed to the process group."""
        return self.root_device if self._get_process_group_backend() == "nccl" else torch.device("cpu")

    @property
    def patience(self) -> timedelta:
        """How long a rank waits for the others."""
        assert self._timeout is not None
        return self._timeout

    @override
    def _configure_launcher(self) -> None:
        # Lightning's launcher insists on devices == WORLD_SIZE even where it has nothing to launch
        assert self.cluster_environment is not None
        if not self.cluster_environment.creates_processes_externally and self.num_processes * self.num_nodes > 1:
            os.environ[environment.BY_LIGHTNING] = str(os.getpid())
            super()._configure_launcher()

    @override
    def _get_process_group_backend(self) -> str:
        return self._process_group_backend or "gloo"

    @override
    def setup_distributed(self) -> None:
        """Joins the process group, unless this process is the only one.

        Raises:
            ValueError: If NCCL is asked for and ranks would share a GPU.
            LostRankError: If a rank does not come, or the ranks cannot connect to one another.
        """
        reset_seed()
        self.set_world_ranks()
        if self.world_size == 1 or dist.is_initialized():
            return
        backend = self._get_process_group_backend()
        if backend == "nccl":
            self._check_own_gpu()
        assert self.cluster_environment is not None
        os.environ["MASTER_ADDR"] = self.cluster_environment.main_address
        os.environ["MASTER_PORT"] = str(self.cluster_environment.main_port)
        if self._interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = self._interface
            os.environ["NCCL_SOCKET_IFNAME"] = f"={self._interface}"  # without = it is what names begin with
        assert self._timeout is not None
        meets = rendezvous.await_store(self.global_rank, self.world_size, self._timeout)
        store = gathering.gather(meets, self.global_rank, self.world_size, self._timeout, self._given())
        roll = roll_call.begin(store, self.global_rank, self.world_size, self._timeout.total_seconds())
        with roll.connecting():
            dist.init_process_group(
                backend,
                store=store,
                rank=self.global_rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=self.root_device if backend == "nccl" else None,
            )

    def _given(self) -> dict[str, str]:
        """What must be the same on all ranks, as it decides which collectives come, by name."""
        trainer = self.lightning_module.trainer if self.lightning_module is not None else None
        command = {} if trainer is None or trainer.state.fn is None else {"command": trainer.state.fn.value}
        start = {} if self.start is None else {"start": str(self.start)}
        found = {f"version of {name}": version for name, version in versions.package_versions().items()}
        return command | start | found | dict(self.configuration)

    def _check_own_gpu(self) -> None:
        gpus = len({device for device in self.parallel_devices or () if device.type == "cuda"})
        ranks = max(environment.local_world_size(), self.num_processes)
        if gpus < ranks:
            raise ValueError(
                f"process_group_backend='nccl' needs a GPU for each of the {ranks} local ranks, and there are {gpus}:"
                " use gloo or fewer ranks"
            )

    @override
    def setup(self, trainer: Trainer) -> None:
        """Places model and optimizer on the device, skipping what DDP does in between."""
        roll = roll_call.current()
        if roll is not None:
            roll.rounds_done = lambda: trainer.global_step
            roll.watch.stacks = traceback_path(Path(trainer.default_root_dir))
        refuse_stop_iteration(trainer)
        with optimizers_stay():
            Strategy.setup(self, trainer)

    @override
    def _setup_model(self, model: Module) -> Module:  # type: ignore[override]
        return model

    @override
    def model_to_device(self) -> None:
        """Moves the model to the device, but for what stays in host memory or is another rank's."""
        assert self.model is not None
        move_absent(self.model, self.root_device)
        carry = getattr(self.model, "carry", None)  # a module of one's own need not have it
        stay = carry(self.root_device) if carry is not None else []
        with standing_at(stay, [absent(p, p.dtype, self.root_device) for p in stay]):
            super().model_to_device()

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Hands the optimizer its state, which it puts where it lives."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Gives what the program has read, or rebuilt, already; otherwise reads the file as data."""
        if self.start is not None and self.start.content is not None:
            return Checked(without_counters(self.start.content))
        return without_counters(super().load_checkpoint(checkpoint_path, weights_only=True))

    @override
    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Waits for all ranks, and names those that do not come."""
        with roll_call.meeting("to a barrier after round {done}"):
            super().barrier(*args, **kwargs)

    @override
    def broadcast(self, obj: T, src: int = 0) -> T:
        """Gives every rank a rank's object, and names those that do not come."""
        with roll_call.meeting("to a broadcast after round {done}"):
            return super().broadcast(obj, src)

    @override
    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        """Reduces a tensor over the ranks, and names those that do not come."""
        with roll_call.meeting("to a reduction after round {done}"):
            return super().reduce(tensor, group, reduce_op)

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Finds out which ranks did not come, where a collective failed for want of them."""
        roll = roll_call.current()
        if roll is not None:
            roll.explain(exception)


# under a name as well, as a class given by its path on the command line is not understood there
StrategyRegistry.register(
    "scalar", ScalarStrategy, description="Whole models in step through scalars alone.", override=True
)
