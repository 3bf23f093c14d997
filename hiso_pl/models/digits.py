"""Small networks for 8 by 8 digits: the quickstart, and tests that want a real task in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiso_pl.models.task_model import TaskModel

SIDE = 8
CLASSES = 10


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")


class DigitsCNN(TaskModel):
    """Two convolutions and a linear head; 1,898 parameters at the default width.

    It has no dropout and no normalisation, so that a batch's loss depends on the parameters and the batch alone.

    Args:
        channels: Channels of the first convolution; the second has twice as many.
    """

    num_labels = CLASSES

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        _at_least("channels", channels, 1)
        self.first = nn.Conv2d(1, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1)
        self.head = nn.Linear(2 * channels * (SIDE // 4) ** 2, CLASSES)
        self.eval()

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits from ``batch["pixels"]`` of shape ``[B, 1, 8, 8]``, fp32, shape ``[B, 10]``."""
        x = F.max_pool2d(F.relu(self.first(batch["pixels"].to(self.head.weight.dtype))), 2)  # [B, c, 4, 4]
        x = F.max_pool2d(F.relu(self.second(x)), 2)  # [B, 2c, 2, 2]
        return self.head(x.flatten(1)).float()


class DigitsViT(TaskModel):
    """A small vision transformer; 4,986 parameters at the default size.

    Pre-norm blocks over patches with learned positions, mean pooling, no dropout.

    Args:
        width: Size of a token; a multiple of ``heads``.
        depth: Number of blocks.
        heads: Attention heads of a block.
        patch: Side of a patch in pixels: 1, 2, 4 or 8.
    """

    num_labels = CLASSES

    def __init__(self, width: int = 16, depth: int = 2, heads: int = 2, patch: int = 2) -> None:
        super().__init__()
        for name, value in (("width", width), ("depth", depth), ("heads", heads)):
            _at_least(name, value, 1)
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        if patch not in (1, 2, 4, 8):
            raise ValueError(f"patch={patch} must be 1, 2, 4 or 8: it has to divide {SIDE}")
        self.patch = patch
        self.embedding = nn.Linear(patch * patch, width)
        self.positions = nn.Parameter(torch.randn((SIDE // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)
        self.eval()

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits from ``batch["pixels"]`` of shape ``[B, 1, 8, 8]``, fp32, shape ``[B, 10]``."""
        patches = F.unfold(batch["pixels"].to(self.head.weight.dtype), self.patch, stride=self.patch).transpose(
            1, 2
        )  # [B, T, patch^2]
        x = self.embedding(patches) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1)).float()


class _Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and around a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out, shape ``[B, T, width]``."""
        b, t, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(b, t, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, width / heads]
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, width)
        x = x + self.projection(attended)
        return x + self.perceptron(self.perceptron_norm(x))
