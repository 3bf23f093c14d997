"""A module and data as small as they can be, offering the callbacks what the package's own module does.

Run as a script under torchrun it fits and leaves `result-RANK.json` in the folder given.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, IterableDataset

from hiso_pl.callbacks import CompleteValidation, DeferredSignals, InStepCheck, Participation, RunFolder, RunSummary
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.federation.traffic import Traffic
from hiso_pl.ranks import environment, launch_store, process
from hiso_pl.ranks.strategy import ScalarStrategy
from hiso_pl.run.restored import keep_known
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import Slots
from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer

COHORT = 2
SIZE = 100_000


class Rounds(IterableDataset):
    """Round numbers without end, from the trainer's round on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[torch.Tensor]:
        round = self.first
        while True:
            yield torch.tensor(round)
            round += 1


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.clients, self.cohort = 4, COHORT
        labels = np.arange(12) % 3
        self.parts = [np.arange(3 * i, 3 * i + 3) for i in range(4)]
        self.splits = SimpleNamespace(train=SimpleNamespace(labels_at=labels.__getitem__, classes=("a", "b", "c")))

    def describe_clients(self) -> str:
        return "| client | examples |\n| --- | --- |\n| 0 | 3 |"

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Rounds(self.trainer.global_step), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.arange(3.0), batch_size=1)

    test_dataloader = val_dataloader


class Module(LightningModule):
    """Fits a vector; `faults` maps a round to what happens there: "term", "int", "raise", "drift", "nan", "nans" or
    "away", where nobody answers, or "half", where one does.

    `logs` has Lightning log what was validated as well.
    """

    def __init__(
        self, faults: dict[int, str] | None = None, fault_rank: int = 0, size: int = 40, logs: bool = True
    ) -> None:
        super().__init__()
        self.logs = logs
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.linspace(-1.0, 1.0, size))
        self.exchange = AllReduceExchange()
        self.traffic = Traffic()
        self.last_round = None
        self.last_validation: dict[str, float] = {}
        self.last_test: dict[str, float] = {}
        self.faults = faults or {}
        self.fault_rank = fault_rank
        self.items: dict[str, str] = {}

    @property
    def stop_agreed(self) -> bool:
        return self.exchange.stop_agreed

    def request_stop(self) -> None:
        self.exchange.stop_requested = True

    def fingerprints(self) -> dict[str, str]:
        return {"config": "c0ffee", "digest": digest(self.optimizers()), **self.items}

    def configure_optimizers(self) -> ZerothOrderOptimizer:
        return ZerothOrderOptimizer(self.named_parameters(), lr=0.01, num_directions=2, exchange=self.exchange)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        round = int(batch)
        assert round == self.trainer.global_step
        fault = self.faults.get(round) if self.global_rank == self.fault_rank else None
        if fault == "raise":
            raise OSError("out of paper")
        if fault in ("term", "int"):
            signal.raise_signal(signal.SIGTERM if fault == "term" else signal.SIGINT)  # to this thread, at once
        own = tuple(slot for slot in range(COHORT) if slot % self.trainer.world_size == self.global_rank)
        absent = {"away": (0, 1), "half": (1,)}.get(fault or "", ())
        own = tuple(slot for slot in own if slot not in absent)
        slots = Slots(COHORT, own, tuple(range(COHORT)), (1.0,) * COHORT, absent=absent)
        broken = {"nan": 1, "nans": COHORT}.get(fault or "", 0)  # slots without a finite loss, the first ones
        losses = [
            lambda k, slot=slot: ((self.weight - slot) ** 2).mean() * (math.nan if slot < broken else 1.0)
            for slot in own
        ]
        self.optimizers().step(losses=losses, slots=slots)
        self.last_round = report = self.optimizers().report
        self.traffic.record(4, COHORT, report.bits)
        if fault == "drift":
            with torch.no_grad():
                self.weight[7] += 1.0

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        loss = float((self.weight.detach() ** 2).mean())
        self.last_validation = {"val/loss": loss, "val/accuracy": 1.0 / (1.0 + loss)}
        self.log_dict(self.last_validation, logger=self.logs)

    def on_test_epoch_end(self) -> None:
        self.last_test = {"test/accuracy": 0.5}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["traffic"] = self.traffic.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.traffic.load_state_dict(checkpoint["traffic"])
        keep_known(checkpoint, self.trainer)


def newest(root: Path) -> Path:
    """The checkpoint of the latest round, of several the one written last."""

    def age(path: Path) -> tuple[int, int]:
        return torch.load(path, weights_only=True)["global_step"], path.stat().st_mtime_ns

    return max((root / "checkpoints").glob("*.ckpt"), key=age)


class History(Callback):
    """Where validation ran, with its values; carried through checkpoints."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        assert not torch.is_grad_enabled()
        self.seen.append([trainer.global_step, pl_module.last_validation["val/loss"]])

    def state_dict(self) -> dict:
        return {"seen": [list(entry) for entry in self.seen]}

    def load_state_dict(self, state_dict: dict) -> None:
        self.seen = state_dict["seen"]


class Memory(Logger):
    """A logger that keeps `(name, step) -> value`."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[tuple[str, int], float] = {}

    name, version = "memory", "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            if name != "epoch":
                self.points[name, step] = value

    def log_hyperparams(self, params: object) -> None:
        pass


def make_trainer(
    root: Path,
    rounds: int,
    *callbacks: Callback,
    interval: int = 3,
    participation: Participation | None = None,
    **options: object,
) -> Trainer:
    """A trainer as the program makes it, with the callbacks that every run has, in an order that is not theirs."""
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "devices": 1} | options
    essential = [RunSummary(), DeferredSignals(), CompleteValidation(), RunFolder("seed: 1\n"), InStepCheck(2)]
    essential.append(participation or Participation())
    return Trainer(
        accelerator="cpu",
        strategy=ScalarStrategy(timeout_s=60),
        max_steps=rounds,
        max_epochs=-1,
        val_check_interval=interval,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=-1,
        use_distributed_sampler=False,
        default_root_dir=root,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[*essential, *callbacks],
        **options,
    )


def main(root: Path, runs: dict[str, dict]) -> None:
    """Fits as each of the runs says, in a folder of its name, recording what is handed to the process group."""
    collectives: list[list] = []
    for name in ("all_reduce", "broadcast", "all_gather", "reduce", "reduce_scatter", "all_gather_into_tensor"):
        record_sizes(name, collectives)
    for name, options in runs.items():
        collectives.clear()
        folder = root / options.get("folder", name)
        faults = {int(round): fault for round, fault in options.get("faults", {}).items()}
        module = Module(faults, fault_rank=1, size=SIZE)
        if options.get("partitions_differ"):
            module.items["partition"] = f"{environment.rank()}-th partition"
        trainer = make_trainer(folder, 6, History(), devices=options.get("devices", 1))
        error = None
        try:
            trainer.fit(module, datamodule=Data(), ckpt_path=options.get("ckpt_path"))
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        result = {
            "error": error,
            "said": launch_store.say_once(error) if error else None,
            "rounds": trainer.global_step,
            "world": trainer.world_size,
            "group": dist.is_initialized(),
            "model": type(trainer.strategy.model).__name__,
            "collectives": list(collectives),
            "digest": digest(trainer.optimizers[0]),
            "checked_bytes": next(c.payload_bytes for c in trainer.callbacks if isinstance(c, InStepCheck)),  # type: ignore[attr-defined]
            "exchanged_bytes": module.exchange.payload_bytes,
        }
        (root / f"{name}-{trainer.global_rank}.json").write_text(json.dumps(result))
    process.close()


def record_sizes(name: str, collectives: list[list]) -> None:
    """Has a function of torch.distributed note the bytes of each tensor given to it."""
    original = getattr(dist, name)

    def recording(first: object, *args: object, **kwargs: object) -> object:
        for tensor in [first, *args] if name != "all_gather" else args:
            if isinstance(tensor, torch.Tensor):
                collectives.append([name, tensor.numel() * tensor.element_size()])
                break
        return original(first, *args, **kwargs)

    setattr(dist, name, recording)
    for module in list(sys.modules.values()):
        if getattr(module, name, None) is original:
            setattr(module, name, recording)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
