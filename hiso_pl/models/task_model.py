"""What a client's work needs of a network: one loss per example, without gradients or hidden state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Evaluation(NamedTuple):
    """What one forward pass says about a batch.

    Attributes:
        loss: Loss of each example, fp32, shape ``[B]``.
        prediction: Predicted class of each example, int64, shape ``[B]``; of a network that generates, the tokens it
            generated, filled up with -1, shape ``[B, G]``.
        scores: Logits over the classes, fp32, shape ``[B, C]``; ``[B, 0]`` of a network that generates.
    """

    loss: Tensor
    prediction: Tensor
    scores: Tensor


class TaskModel(nn.Module, ABC):
    """A network together with the task it is scored on.

    It stays in evaluation mode: every probe of a local step must see the same function, so dropout never acts
    and no buffer moves, whoever calls ``train()``.

    Attributes:
        tokenizer_source: Where a text data module finds the tokenizer when it names none.
        tokenizer_revision: The revision of it, for a model on the hub.
        tokenizer_trusted: Whether Python code that comes with it may run.
        max_positions: Longest sequence the network takes, where it has a limit.
        vocabulary_size: Number of token ids the network takes, where it takes tokens.
        num_features: Number of features that it takes, where it takes points.
        num_labels: Number of classes that it scores, where that is its own and not a batch's.
        labels: What a pretrained head calls these classes, in the order of its scores, where it does.
    """

    tokenizer_source: str | None = None
    tokenizer_revision: str | None = None
    tokenizer_trusted: bool = False
    max_positions: int | None = None
    vocabulary_size: int | None = None
    num_features: int | None = None
    num_labels: int | None = None
    labels: tuple[str, ...] | None = None

    @abstractmethod
    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits over the classes, fp32, shape ``[B, C]``."""

    def pretrained_names(self) -> frozenset[str]:
        """Names, as in ``named_parameters``, of the parameters that begin as the named weights have them."""
        return frozenset()

    def weights_identity(self) -> dict[str, str]:
        """What the named weights are called: ``name``, and ``revision`` where one is known; empty if none are named."""
        return {}

    def evaluate(self, batch: dict[str, Tensor]) -> Evaluation:
        """Losses, predictions and scores from one forward pass.

        Args:
            batch: A batch of the data module; ``batch["label"]`` is int64 of shape ``[B]``.
        """
        scores = self.scores(batch)
        loss = F.cross_entropy(scores, batch["label"], reduction="none")
        return Evaluation(loss, scores.argmax(dim=-1), scores)

    def example_losses(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each example, fp32, shape ``[B]``."""
        return self.evaluate(batch).loss

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The mean loss of the batch, an fp32 scalar: the f that is probed."""
        return self.example_losses(batch).mean()

    def loss_logits(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        r"""The logits of whose cross entropies :meth:`loss` is made, :math:`\sum_n w_n \mathrm{CE}_n`.

        Returns:
            fp32, shape ``[n, C]``, and w of each row, shape ``[n]``; None where all are 1 / n.
        """
        return self.scores(batch), None

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The same as :meth:`scores`, shape ``[B, C]``."""
        return self.scores(batch)

    def train(self, mode: bool = True) -> TaskModel:
        """Leaves the network in evaluation mode, whatever ``mode`` says."""
        super().train(False)
        return self


def at_positions(values: Tensor, positions: Tensor) -> Tensor:
    """Takes one position of each sequence, or several.

    Args:
        values: Shape ``[B, T, D]``.
        positions: int64, shape ``[B]`` or ``[B, L]``.

    Returns:
        Shape ``[B, D]`` or ``[B, L, D]``.
    """
    rows = torch.arange(values.shape[0], device=values.device)
    return values[rows.view(-1, *[1] * (positions.dim() - 1)), positions]
