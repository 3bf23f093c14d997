"""A small network for points: what a federation of very many clients is tried with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hiso_pl.models.task_model import TaskModel


class Perceptron(TaskModel):
    """A perceptron of one hidden layer; 1,386 parameters at the default size.

    Args:
        features: Number of features that it takes.
        hidden: Width of the hidden layer; 0 for none, a linear classifier.
        classes: Number of classes that it tells apart.
    """

    def __init__(self, features: int = 32, hidden: int = 32, classes: int = 10) -> None:
        super().__init__()
        for name, value, least in (("features", features, 1), ("hidden", hidden, 0), ("classes", classes, 2)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        self.num_features, self.num_labels = features, classes
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.head = nn.Linear(hidden or features, classes)
        self.eval()

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits from ``batch["features"]`` of shape ``[B, F]``, fp32, shape ``[B, C]``."""
        x = batch["features"].to(self.head.weight.dtype)
        return self.head(x if self.hidden is None else F.relu(self.hidden(x))).float()
