"""What the ranks measure of a split, brought together: metrics, and what is predicted of each example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from hiso_pl.data.examples import ExampleSet
from hiso_pl.models.task_model import Evaluation, TaskModel
from hiso_pl.ranks.roll_call import meeting
from hiso_pl.stages.group import StageGroup
from hiso_pl.zeroth_order.carried import Uncut
from hiso_pl.zeroth_order.interfaces import MethodBase, RoundOptimizer
from hiso_pl.zeroth_order.precision import CastView


class SplitTable:
    """A row for each example of a split: whether it was seen, its loss, and the columns of the split's measure.

    Each example is written by one rank and is zero on the others, so the sum over ranks is exact, and the metrics are
    equal to the bit whatever the number of ranks.

    Args:
        examples: The split.
    """

    def __init__(self, examples: ExampleSet) -> None:
        self.measure = examples.measure
        self.rows = torch.zeros(len(examples), 2 + len(self.measure.columns), dtype=torch.float64)

    def add(self, index: Tensor, evaluation: Evaluation) -> None:
        """Writes the rows of a batch.

        Args:
            index: Positions of its examples in the split, shape ``[B]``.
            evaluation: What the network said of them.
        """
        index, evaluation = index.cpu(), on_cpu(evaluation)
        self.rows[index, 0] = 1.0
        self.rows[index, 1] = evaluation.loss.double()
        self.rows[index, 2:] = torch.from_numpy(np.asarray(self.measure.rows(index.numpy(), evaluation), np.float64))

    def gather(self, device: torch.device) -> None:
        """Adds up the tables of all ranks.

        Args:
            device: Where a tensor must be to be handed to the process group.
        """
        if dist.is_available() and dist.is_initialized():
            rows = self.rows.to(device)
            with meeting("to the metrics after round {done}"):
                dist.all_reduce(rows)
            self.rows = rows.cpu()

    def metrics(self, split: str) -> dict[str, float]:
        r"""The metrics of the examples that were seen, in the order of the split; NaN where one is not finite.

        .. math:: \mathrm{loss} = \frac{1}{N} \sum_{i=1}^{N} \ell_i \quad \text{summed exactly and rounded once}

        Args:
            split: What the names begin with: ``split/loss``, and ``split/NAME`` for each metric of the measure.

        Raises:
            ValueError: If no example was seen.
        """
        seen: NDArray[np.float64] = self.rows[self.rows[:, 0] > 0].numpy()
        if len(seen) == 0:
            raise ValueError(f"no example of the {split} split was evaluated: see trainer.limit_{split}_batches")
        losses = seen[:, 1].tolist()
        loss = math.fsum(losses) / len(losses) if all(map(math.isfinite, losses)) else math.nan
        found = {"loss": loss, **self.measure.combine(seen[:, 2:])}
        return {f"{split}/{name}": value if math.isfinite(value) else math.nan for name, value in found.items()}


class Measuring:
    """Evaluates a network over a split, batch by batch, as it computes for a round's base loss.

    Args:
        network: The network with its task.
        trainable: Names and parameters that are trained.
        method: What forward passes compute in, and whether memory for a copy is there.
        group: The ranks that hold the network together; None where it is whole.
    """

    def __init__(
        self,
        network: TaskModel,
        trainable: Sequence[tuple[str, nn.Parameter]],
        method: MethodBase,
        group: StageGroup | None = None,
    ) -> None:
        self._group = group
        self._uncut: Uncut | None = None
        self._network = network
        self._parameters = [p for _, p in trainable]
        self._method = method
        self._examples: ExampleSet | None = None
        self._table: SplitTable | None = None
        self._view: CastView | None = None

    def begin(self, examples: ExampleSet, uncut: Uncut | None = None) -> None:
        """Begins with a split, and forgets the weights of an earlier measurement.

        Args:
            examples: The split.
            uncut: What evaluates a network that lives in host memory; None where it is evaluated as it is.
        """
        self._uncut = uncut
        self._examples, self._table, self._view = examples, SplitTable(examples), None

    def add(self, batch: dict[str, Tensor], optimizer: RoundOptimizer | None = None) -> None:
        """Evaluates one batch.

        Args:
            batch: The batch.
            optimizer: The optimizer, where there is one: it knows how to bring the network to x.
        """
        assert self._table is not None
        if optimizer is not None:
            optimizer.complete()
        evaluation = self._evaluated(batch, optimizer)
        if evaluation is not None:
            self._table.add(batch["index"], evaluation)

    def metrics(self, split: str, device: torch.device) -> dict[str, float]:
        """Metrics of the split just measured, the same on every rank.

        Args:
            split: What the names begin with.
            device: Where a tensor must be to be handed to the process group.
        """
        table, self._table, self._view = self._table, None, None  # the memory is wanted for rounds
        assert table is not None
        table.gather(device)
        return table.metrics(split)

    def predictions(self, batch: dict[str, Tensor]) -> list[dict[str, Any]]:
        """What is predicted of a batch, a line an example."""
        assert self._examples is not None
        evaluation = self._evaluated(batch, None)
        return [] if evaluation is None else prediction_lines(self._examples, batch["index"], evaluation)

    def _evaluated(self, batch: dict[str, Tensor], optimizer: RoundOptimizer | None) -> Evaluation | None:
        """What the network says of a batch; None where the stage on another rank knows."""
        evaluate = partial(self._network.evaluate, batch)
        if self._uncut is not None:
            return self._uncut.of(evaluate, self._network)
        if self._group is None and optimizer is not None and self._method.lean:
            return optimizer.at_base(evaluate)
        if self._view is None:
            self._view = CastView(self._parameters, self._method.dtype)
        with self._view.active(), torch.inference_mode():
            return evaluate() if self._group is None else self._group.measured(evaluate)


def prediction_lines(examples: ExampleSet, index: Tensor, evaluation: Evaluation) -> list[dict[str, Any]]:
    """What is predicted of a batch, a line an example: its index, its input where that is text, and its measure's say.

    Args:
        examples: The split.
        index: Positions of the examples in the split, shape ``[B]``.
        evaluation: What the network said of them.
    """
    said = examples.measure.lines(index.cpu().numpy(), on_cpu(evaluation))
    lines = []
    for i, fields in zip(index.tolist(), said, strict=True):
        text = examples.text(i)
        lines.append({"index": i, **({} if text is None else {"input": text}), **fields})
    return lines


def on_cpu(evaluation: Evaluation) -> Evaluation:
    """The same with its tensors in the CPU's memory."""
    return Evaluation(*(tensor.cpu() for tensor in evaluation))
