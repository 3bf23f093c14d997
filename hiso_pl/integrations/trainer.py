"""Rounds in the place of gradient steps, in transformers' Trainer."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from hiso_pl.errors import RunError
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.integrations.arguments import check_arguments, check_method, learning_rate_of
from hiso_pl.integrations.rounds import Rounds, Shuffled
from hiso_pl.ranks import comparing
from hiso_pl.run.checkpoint import frozen_fingerprint
from hiso_pl.zeroth_order import Method
from hiso_pl.zeroth_order.digest import digest

log = logging.getLogger(__name__)


class ZerothOrderTrainer(transformers.Trainer):
    """A Trainer whose step is a round: forward passes alone, and a few scalars between processes.

    It takes what Trainer takes: any dataset, collator, callback, metric and checkpoint of that world. Each process of
    ``torchrun`` or ``accelerate launch`` is a client, with the share of the data that Trainer deals to it; one
    all-reduce of a few scalars takes the place of that of gradients, and no process sends its model. A run that is
    resumed by ``train(resume_from_checkpoint=...)`` comes to the digest that it would have had without the stop.

    The learning rate is ``args.learning_rate``, and follows ``args.lr_scheduler_type`` (Trainer's own default is linear
    to zero); schedules of ``method`` are as long as the run where they leave it open. What cannot act on rounds
    (gradient accumulation, mixed precision, DeepSpeed, FSDP, clipping of gradients and more) is refused by its name.

    A client's loss is the mean over its own batch, and the round's the mean over clients, whatever numbers of tokens
    they hold (``average_tokens_across_devices`` does not act).

    Limits: all processes are in every round, as Trainer knows no cohorts; a round takes one batch, so one local step;
    the number of processes must stay what it was on resume; a process that dies takes the others with it by the process
    group's time-out (``ddp_timeout``).

    Args:
        args: Trainer's own arguments.
        method: What a round computes; HiSo with ``args.learning_rate`` if None.
        kwargs: Trainer's own.

    Attributes:
        rounds: The optimizer of the run: its ``report`` and ``record`` tell of the last round.
        exchange: What carries scalars between processes; its ``payload_bytes`` are what this one has sent.

    Raises:
        ValueError: If an argument asks for what a round cannot do; it says what to set.
    """

    rounds: Rounds
    exchange: AllReduceExchange

    def __init__(self, *args: Any, method: Method | None = None, **kwargs: Any) -> None:
        self.method = method
        check_method(Method() if method is None else method)
        super().__init__(*args, **kwargs)
        for name in ("optimizer", "lr_scheduler", "optimizer_cls_and_kwargs"):
            if getattr(self, name, None) is not None:
                raise ValueError(f"{name} must be left out: method= and lr_scheduler_type say how a run goes")

    def create_accelerator_and_postprocess(self) -> None:
        """Makes the accelerator, which leaves the model as it is: nothing is to send its gradients or its weights."""
        super().create_accelerator_and_postprocess()
        check_arguments(self.args, self.accelerator)
        learning_rate_of(self.args, self.method)
        prepare = self.accelerator.prepare_model
        self.accelerator.prepare_model = functools.partial(prepare, evaluation_mode=True)  # type: ignore[method-assign]

    # The start

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Makes the optimizer of a training, always anew: its rounds are Trainer's ``global_step``.

        Raises:
            ValueError: If nothing is trainable.
            RunError: If the processes start from different models.
        """
        network = self.model if model is None else model
        assert network is not None
        trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        if not trainable:
            raise ValueError(f"model={type(network).__name__} has no trainable parameter")
        method = replace(self.method or Method(), lr=learning_rate_of(self.args, self.method))
        method.check_network(network)
        if method.attack is not None:
            method.attack.hostile(self.args.seed, self.args.world_size)  # refuses clients that there are not
        self.exchange = AllReduceExchange(device=self._collective_device())
        self.rounds = Rounds(trainable, method, seed=self.args.seed, exchange=self.exchange, network=network)
        self.rounds.clients = self.args.world_size
        if self.args.world_size > 1:
            given = {"method": str(method.as_data()), "seed": str(self.args.seed)}
            held = {"weights": digest(self.rounds), "frozen weights": frozen_fingerprint(network)}
            problems, _ = comparing.facts({**given, **held})
            if problems:
                raise RunError(
                    f"the processes do not start from the same {'; nor the same '.join(problems)}: "
                    "call transformers.set_seed before the model is made"
                )
        self.optimizer = self.rounds
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Makes Trainer's schedule of the learning rate; the method's own get their length."""
        self.rounds.method = self.rounds.method.over(num_training_steps)
        self.rounds.method.check_rounds(self.args.world_size, range(num_training_steps))
        return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restores both, where Trainer goes on without them if a checkpoint has none.

        Raises:
            ValueError: If one is missing or of another method.
        """
        for name, target in (("optimizer.pt", self.optimizer), ("scheduler.pt", self.lr_scheduler)):
            if checkpoint is not None and target is not None:
                path = Path(checkpoint) / name
                if not path.is_file():
                    raise ValueError(f"{path} does not exist: it is written where save_only_model is not set")
                target.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def _collective_device(self) -> torch.device:
        """Where a tensor must be to be handed to the process group."""
        alone = not (dist.is_available() and dist.is_initialized())
        return torch.device("cpu") if alone or "gloo" in dist.get_backend() else self.args.device

    # A round

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        return Shuffled(len(sampler), self) if isinstance(sampler, RandomSampler) else sampler

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batch of a step; none where a run is resumed that is done, of which Trainer would make one step more."""
        if 0 < self.state.max_steps <= self.state.global_step:
            log.warning("Nothing to resume: %d of %d rounds are done.", self.state.global_step, self.state.max_steps)
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Runs a round on this process's batch.

        Returns:
            The mean loss of all processes' batches at the start of the round.
        """
        model.eval()  # the very same function for all probes
        inputs = self._prepare_inputs(inputs)

        def loss() -> Any:
            with self.compute_loss_context_manager():  # a copy, as labels may be taken out of it
                return self.compute_loss(model, dict(inputs))  # the mean over the batch, as a client's loss is

        mean = self.rounds.run(loss)
        if self.rounds.record is not None and self.rounds.record.empty:
            log.warning("Round %d moved nothing: no process had a loss that is finite.", self.rounds.round)
        return mean.to(self.args.device)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs without what a round has not: a gradient's norm, and losses that stay with the clients."""
        absent = {"grad_norm", *(("loss", "train_loss") if self._withheld() else ())}
        super().log({name: value for name, value in logs.items() if name not in absent}, *args, **kwargs)

    def _withheld(self) -> bool:
        return self.method is not None and self.method.withholds_losses

    # Processes in step

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; at the end the processes' states are compared.

        Raises:
            RunError: If they differ, or no round has moved anything.
        """
        output = super().train(*args, **kwargs)
        self._compare()
        if self.rounds.param_groups[0]["applied"] == 0 < self.rounds.round:
            raise RunError(f"none of {self.rounds.round} rounds moved anything: no loss was finite")
        return output

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._compare()
        super()._save_checkpoint(*args, **kwargs)

    def _compare(self) -> None:
        """Compares the states of all processes by their digests."""
        if self.args.world_size == 1:
            return
        odd, first, _ = comparing.states(self.rounds, self._collective_device(), whole=True)
        if odd:
            raise RunError(
                f"processes {odd} of {self.args.world_size} are out of step after round {self.rounds.round}: "
                f"the first tensor that differs is {first!r}; nothing has been saved of this round"
            )
