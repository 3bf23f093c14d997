"""Trainings of a tiny causal model by ZerothOrderTrainer: of one process for tests, or under torchrun."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from hiso_pl.integrations import ZerothOrderTrainer
from hiso_pl.zeroth_order import Linear, Method
from hiso_pl.zeroth_order.digest import digest

STEPS, STOP, SAVE = 9, 5, 2
LR = 1e-2
METHOD = Method(lr=LR, num_directions=3, mu_schedule=Linear(5e-4))


def model(seed: int = 1) -> transformers.GPT2LMHeadModel:
    transformers.logging.set_verbosity_error()
    transformers.set_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def examples(count: int = 20) -> list[dict[str, Tensor]]:
    """Sequences of which different parts are labels, so that batches hold different numbers of them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        ids = torch.randint(0, 20, (8,), generator=generator)
        found.append({"input_ids": ids, "labels": ids.masked_fill(torch.arange(8) < i % 5, -100)})
    return found


class Stop(transformers.TrainerCallback):
    """Ends a training after some steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self.after


class Recording(ZerothOrderTrainer):
    """Keeps what each step was given."""

    seen: list[dict[str, Any]]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.seen.append(dict(inputs))
        return super().training_step(model, inputs, num_items_in_batch)


def trainer(folder: Path, stop: int = STEPS, network: Any = None, **given: Any) -> Recording:
    options = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": LR,
        "save_steps": SAVE,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        **given.pop("args", {}),
    }
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    made = Recording(
        model=network or model(),
        args=transformers.TrainingArguments(**options),
        train_dataset=examples(),
        callbacks=[Stop(stop)],
        **{"method": METHOD, **given},
    )
    made.remove_callback(transformers.PrinterCallback)
    made.seen = []
    return made


def main(folder: Path) -> None:
    """What each of several processes does: a whole training, one that stops, and one that goes on from there."""
    whole = trainer(folder / "whole")
    whole.train()
    trainer(folder / "parts", STOP).train()
    resumed = trainer(folder / "parts")
    resumed.train(resume_from_checkpoint=str(folder / "parts" / f"checkpoint-{STOP - STOP % SAVE}"))
    rank = whole.args.process_index
    wrapped = type(whole.model_wrapped).__name__
    result = {"digests": [digest(whole.rounds), digest(resumed.rounds)], "wrapped": wrapped, "seen": whole.seen}
    result["sent"] = whole.exchange.payload_bytes
    torch.save(result, folder / f"{rank}.pt")
    try:
        trainer(folder / "other", network=model(seed=rank)).train()
    except RuntimeError as error:
        (folder / f"{rank}.error").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads now and then abort a process that ends on its own
