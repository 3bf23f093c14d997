"""The partition as a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# TensorBoard shows a picture some 300 pixels wide, so its letters must be large against its bars
ROW, BAR, LEFT, MARGIN, LEGEND = 18, 220, 62, 6, 76
MAX_CLIENTS = 200
MAX_CLASSES = 40
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#332288", "#dd7788", "#117733")


def partition_picture(counts: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Draws a bar for each client, as long as it has examples, made of a part for each label.

    Beside the bars stand the names of the labels or, where all examples have the same one, the clients' sizes. Of
    examples counted by client and label, shape ``[M, C]``, the first 200 clients are drawn, and of the names the first
    40, where there are any. Pixels are of shape ``[height, width, 3]``.
    """
    clients = min(len(counts), MAX_CLIENTS)
    named = min(len(classes), MAX_CLASSES) if counts.shape[1] > 1 else 0
    rows = max(clients, named + (len(classes) > named > 0))
    height = rows * ROW + 2 * MARGIN
    image = Image.new("RGB", (LEFT + BAR + LEGEND, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    longest = max(1, int(counts.sum(axis=1).max(initial=1)))
    for client in range(clients):
        top = MARGIN + client * ROW
        draw.text((2, top), f"client {client}", fill="black", font=font)
        edges = LEFT + np.concatenate([[0], np.cumsum(counts[client])]) * BAR // longest
        for label in np.flatnonzero(np.diff(edges)).tolist():
            draw.rectangle((edges[label], top + 1, edges[label + 1] - 1, top + ROW - 3), fill=_colour(label))
        if not named:
            draw.text((LEFT + BAR + 12, top), f"{counts[client].sum():,}", fill="black", font=font)
    for label in range(named):
        top, left = MARGIN + label * ROW, LEFT + BAR + 12
        draw.rectangle((left, top + 3, left + 10, top + 13), fill=_colour(label))
        draw.text((left + 16, top), classes[label].strip()[:10], fill="black", font=font)
    if named and len(classes) > named:
        draw.text((LEFT + BAR + 12, MARGIN + named * ROW), f"{len(classes) - named} more", fill="black", font=font)
    return np.asarray(image)


def _colour(label: int) -> str:
    """A colour of the palette, and beyond it one of a sequence that stays clear of its last few by the golden ratio."""
    if label < len(PALETTE):
        return PALETTE[label]
    parts = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, 0.5 + 0.15 * (label % 3), 0.85 - 0.2 * (label % 2))
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)
