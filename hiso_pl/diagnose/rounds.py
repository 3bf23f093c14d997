"""A run's network at rounds of it: as a checkpoint has it, or as the records of the ledger lead there.

Files are read as by replay and validation: a ledger and a checkpoint are data, and where weights are is said by the
configuration alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.replay import catch_up, check_start, replay
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint_file import load
from hiso_pl.run.folder import LEDGER, checkpoints, held_by_run
from hiso_pl.zeroth_order import RoundRecord

if TYPE_CHECKING:
    from hiso_pl.module import FederatedModule

log = logging.getLogger(__name__)


class KeptRounds:
    """Which rounds of a run its folder leads to: those of its checkpoints, and with a ledger every one.

    Args:
        root: The run's folder.

    Attributes:
        root: The same.
        reader: The ledger, where there is one.
        rounds: Rounds that it holds.
        saved: The checkpoints that can be read by their rounds, ascending.

    Raises:
        ValueError: If the folder holds no run, or its ledger is damaged.
    """

    def __init__(self, root: Path) -> None:
        if held_by_run(root) is None:
            raise ValueError(f"{root} holds no run: give a run's folder, or a configuration")
        self.root = root
        self.reader = LedgerReader(root / LEDGER) if (root / LEDGER).is_file() else None
        self.rounds = 0
        if self.reader is not None:
            survey = self.reader.survey()
            self.rounds = survey.rounds
            if survey.torn_at is not None:
                log.warning("%s is torn after byte %d; what is whole is used.", self.reader.path, survey.torn_at)
        found = ((_round_of(path), path) for path in checkpoints(root))
        self.saved = dict(sorted((round, path) for round, path in found if round is not None))

    @property
    def last(self) -> int:
        """The last round that the folder leads to."""
        return max(self.rounds, *self.saved) if self.saved else self.rounds

    def check(self, asked: Sequence[int]) -> None:
        """Refuses rounds that nothing leads to.

        Raises:
            ValueError: If there is one; it names those that there are.
        """
        for round in asked:
            if round == 0 or round in self.saved or (self.reader is not None and round <= self.rounds):
                continue
            if self.reader is not None:
                what = f"must be at most {self.last}, the last round of {self.root}"
                if round <= self.last:
                    what = f"lies beyond the {self.rounds} rounds of {self.reader.path}, and no checkpoint is of it"
            else:
                known = ", ".join(map(str, (0, *self.saved)))
                what = f"must be one of {known}: {self.root} keeps no ledger, so it leads to those rounds alone"
            raise ValueError(f"at={round} {what}")


def _round_of(path: Path) -> int | None:
    """The round of a checkpoint; None, and a warning, of one that cannot be read."""
    try:
        return int(load(path)["global_step"])
    except ValueError as error:
        log.warning("%s cannot be read and is passed over: %s", path, error)
        return None


class RunAtRounds:
    """Puts a run's network where it was before a round, for rounds that ascend.

    Args:
        kept: What the run's folder leads to; None for a configuration, whose first round is the only one.
        module: The run's module, with the weights that it begins with.

    Attributes:
        optimizer: x, H and the round there; of a method that is not scalar-only only x is restored.
    """

    def __init__(self, kept: KeptRounds | None, module: FederatedModule) -> None:
        self._kept, self._module = kept, module
        self._reader = None if kept is None else kept.reader
        # records of a method that is changed on the way are applied from the start on
        self._changes = self._reader is not None and bool(self._reader.survey().headers)
        self._initial = [p.detach().clone() for _, p in module.trainable()] if self._changes else []
        self.optimizer: Any = module.new_optimizer()
        self._round = 0

    def go_to(self, round: int) -> None:
        """Puts x, H and what else the optimizer holds where they were when ``round`` came next.

        Raises:
            ValueError: If checkpoint or ledger are damaged, or of another model or method.
        """
        if self._kept is None or round == self._round:
            return
        for base, path in reversed(self._kept.saved.items()):
            if not self._round < base <= round or (base < round and (self._changes or self._reader is None)):
                continue
            try:
                content = checkpoint.read(path)
            except ValueError as error:
                log.warning("%s is passed over: %s", path, error)
                continue
            self._load(content)
            break
        if self._round != round:
            self._replay(round)

    def learning_rate(self) -> float:
        """The learning rate of the round that comes next: the record's, or what a scheduler had left there."""
        record = self.next_record()
        if record is not None:
            return record.lr
        return float(self.optimizer.param_groups[0]["lr"])

    def next_record(self) -> RoundRecord | None:
        """What the round that comes next decided, where the ledger knows it."""
        if self._reader is None or self._round >= self._reader.rounds:
            return None
        return next(record for record in self._reader if record.round == self._round)

    def _load(self, content: checkpoint.Checked) -> None:
        checkpoint.compare(content, self._module.facts(), resuming=False)
        self._set([content["state_dict"][f"network.{name}"] for name, _ in self._module.trainable()])
        self._round = int(content["global_step"])
        if not self._module.method.scalar_only:
            return
        if not content.get("optimizer_states"):
            raise ValueError(f"the checkpoint of round {self._round} holds weights alone, without H: give another")
        self.optimizer = self._module.new_optimizer()
        self.optimizer.load_state_dict(content["optimizer_states"][0])

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for (_, parameter), value in zip(self._module.trainable(), values, strict=True):
            parameter.copy_(value)

    def _replay(self, round: int) -> None:
        if self._reader is None:
            raise ValueError(f"at={round}: its checkpoint cannot be read, and there is no ledger that leads there")
        if self._changes:
            self._set(self._initial)
            self.optimizer = self._module.new_optimizer()
            check_start(self.optimizer, self._reader.header)
            tensors = dict(zip(self.optimizer.names, self.optimizer.parameters, strict=True))
            device = self.optimizer.parameters[0].device
            replayed = replay(self._reader.header, self._reader.entries(), tensors, round, device)
            self.optimizer.load_state_dict(replayed.state_dict())  # its x is the network's already
        else:
            catch_up(self.optimizer, self._reader, round)
        self._round = round
