"""What the tests put into a run through its public surface: callbacks, networks and data named by their class path."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hiso_pl.data.digits import DigitsData
from hiso_pl.data.examples import Splits
from hiso_pl.models import DigitsCNN
from hiso_pl.ranks import environment
from hiso_pl.run import versions
from hiso_pl.zeroth_order.update import Update


class Beat(Callback):
    """Leaves each rank's process id and last round in ``path.RANK``, and gives signals time to come.

    Args:
        path: Where.
        pause: Seconds added to a round.
    """

    def __init__(self, path: str, pause: float = 0.01) -> None:
        self.path = path
        self.pause = pause

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        path = Path(f"{self.path}.{trainer.global_rank}")
        part = path.with_name(path.name + ".part")
        part.write_text(f"{os.getpid()} {trainer.global_step}")
        part.replace(path)
        time.sleep(self.pause)


class Waiting(Callback):
    """Has rank 0 wait after a round until a file is there.

    Args:
        path: The file.
        round: How many rounds are done by then.
    """

    def __init__(self, path: str, round: int) -> None:
        self.path, self.round = Path(path), round

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        until = time.monotonic() + 180.0
        while trainer.global_rank == 0 and trainer.global_step == self.round and not self.path.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"{self.path} does not come")
            time.sleep(0.02)


class Flip(Callback):
    """Flips a bit of one element on one rank, at the end of a round.

    Args:
        rank: The rank.
        round: How many rounds are done by then.
        tensor: A parameter's name.
        key: Which state of the parameter; none for the parameter itself.
        element: Which element.
        bit: Which bit; 0 is the lowest.
        once: Whether a process does it once in all to a run of this folder, however often it passes the round.
    """

    done: ClassVar[set[str]] = set()

    def __init__(
        self,
        rank: int,
        round: int,
        tensor: str,
        key: str | None = None,
        element: int = 5,
        bit: int = 0,
        once: bool = False,
    ) -> None:
        self.rank, self.round, self.tensor, self.key, self.element, self.bit = rank, round, tensor, key, element, bit
        self.once = once

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if (trainer.global_rank, trainer.global_step) != (self.rank, self.round):
            return
        if self.once and trainer.default_root_dir in self.done:
            return
        self.done.add(trainer.default_root_dir)
        optimizer = trainer.optimizers[0]
        parameter = optimizer.parameters[optimizer.names.index(self.tensor)]  # type: ignore[attr-defined]
        tensor = parameter.data if self.key is None else optimizer.state[parameter][self.key]
        tensor.view(-1).view(torch.int32)[self.element] ^= 1 << self.bit


class Stop(Callback):
    """Sends a signal to one rank's own process in the middle of a round.

    Args:
        rank: The rank.
        round: The round, counted from 1.
        number: The signal.
    """

    def __init__(self, rank: int, round: int, number: int) -> None:
        self.rank, self.round, self.number = rank, round, number

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.round - 1):
            signal.raise_signal(self.number)


class Killed(Callback):
    """Kills one rank's own process while a checkpoint is written, or in the middle of an update.

    Args:
        rank: The rank.
        round: The first round, counted from 1, in which it may happen.
        during: ``checkpoint`` or ``update``. Of a checkpoint, rank 0 has written half by then.
    """

    def __init__(self, rank: int, round: int, during: str = "checkpoint") -> None:
        self.rank, self.round, self.during = rank, round, during

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank != self.rank or trainer.global_step + 1 < self.round:
            return
        if self.during == "update":
            Update._fused = _half_an_update  # type: ignore[method-assign]

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        if self.during != "checkpoint" or trainer.global_rank != self.rank or trainer.global_step < self.round:
            return
        if self.rank != 0:
            os.kill(os.getpid(), signal.SIGKILL)
        save = torch.save

        def half(content: Any, file: Any) -> None:
            whole = io.BytesIO()
            save(content, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half


def _half_an_update(update: Update, parameters: Any, hessians: Any, sites: Any) -> None:
    half = len(parameters) // 2
    _fused(update, parameters[:half], hessians[:half], sites[:half])  # type: ignore[call-arg]
    os.kill(os.getpid(), signal.SIGKILL)


_fused = Update._fused


class _Collectives(TorchDispatchMode):
    """Notes every collective at the level of the dispatcher, which no wrapper of Python's can pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
            self.seen.append((func.__name__, max((t.numel() * t.element_size() for t in tensors), default=0)))
        return func(*args, **(kwargs or {}))


class Collectives(Callback):
    """Writes the collectives of each round, name and largest tensor's bytes, into ``path.RANK``.

    A round lasts until the next one begins: what callbacks do after a round is part of it.

    Args:
        path: Where.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.rounds: list[list[tuple[str, int]]] = []
        self.mode: _Collectives | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        if self.mode is None:
            self.mode = _Collectives()
            self.mode.__enter__()
        else:
            self._take()

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self._take()
        self.mode.__exit__(None, None, None)
        Path(f"{self.path}.{trainer.global_rank}").write_text(json.dumps(self.rounds))

    def _take(self) -> None:
        self.rounds.append(self.mode.seen)
        self.mode.seen = []


class Opened(Callback):
    """Notes the files of a folder that this process opens from now on in ``path.RANK``, a name a line.

    Args:
        folder: The folder.
        path: Where.
    """

    def __init__(self, folder: str, path: str) -> None:
        notes = f"{path}.{environment.rank()}"

        def hear(event: str, args: tuple[Any, ...]) -> None:
            if event == "open" and str(args[0]).startswith(folder):
                with open(notes, "a") as file:
                    file.write(Path(str(args[0])).name + "\n")

        sys.addaudithook(hear)


class Metrics(Callback):
    """Writes the metrics that Lightning knows after a validation or a test into ``path.RANK``.

    Args:
        path: Where.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        Path(f"{self.path}.{trainer.global_rank}").write_text(json.dumps(metrics))

    on_test_end = on_validation_end


class OtherVersion(Callback):
    """Makes one rank believe that it runs another torch.

    Args:
        rank: The rank.
    """

    def __init__(self, rank: int) -> None:
        found = versions.package_versions

        def changed() -> dict[str, str]:
            return found() | {"torch": "0.0"} if environment.rank() == rank else found()

        versions.package_versions = changed

        def restore(*_: Any) -> None:
            versions.package_versions = found

        self.on_exception = restore  # type: ignore[method-assign]


class NaNForLabel(DigitsCNN):
    """Has no finite loss on a minibatch with an example of some label.

    Args:
        label: The label.
        channels: As in DigitsCNN.
    """

    def __init__(self, label: int = 3, channels: int = 3) -> None:
        super().__init__(channels)
        self.label = label

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        loss = super().loss(batch)
        return loss * float("nan") if bool((batch["label"] == self.label).any()) else loss


class OtherWeights(DigitsCNN):
    """Starts with other weights on one rank.

    Args:
        rank: The rank; none for no rank.
        buffer_rank: The rank on which a buffer differs; none for no rank.
    """

    def __init__(self, rank: int = -1, buffer_rank: int = -1) -> None:
        super().__init__(3)
        self.register_buffer("constant", torch.full((2,), float(environment.rank() == buffer_rank)))
        if environment.rank() == rank:
            self.head.bias.data[3] += 1e-7


class OtherData(DigitsData):
    """Holds another pixel of another split on one rank.

    Args:
        rank: The rank.
        split: train, val or test.
        base: As in DigitsData.
    """

    def __init__(self, rank: int = -1, split: str = "train", **base: Any) -> None:
        super().__init__(**base)
        self.rank, self.split = rank, split

    def load(self) -> Splits:
        splits = super().load()
        if environment.rank() == self.rank:
            getattr(splits, self.split).pixels[0, 0, 0, 0] += 1.0
        return splits
