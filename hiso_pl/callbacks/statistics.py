"""What the curves say of a round's scalars and of the Hessian."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.callbacks.boards import Bins
from hiso_pl.zeroth_order.digest import StateTensor
from hiso_pl.zeroth_order.held import Held, of_all

SAMPLE = 1 << 20
QUANTILES = {"p01": 0.01, "median": 0.5, "p99": 0.99}
LAYERS = 12
BINS = 30


def scalar_statistics(scalars: NDArray[np.float32]) -> dict[str, float]:
    """How large the aggregated scalars of a round are, shape ``[tau, P]``."""
    values = scalars.astype(np.float64)
    return {
        "scalar/mean_abs": float(np.abs(values).mean()),
        "scalar/std": float(values.std()),
        "scalar/max_abs": float(np.abs(values).max()),
    }


def slot_statistics(
    sent: NDArray[np.float32], scalars: NDArray[np.float32], dropped: Collection[int] = ()
) -> dict[str, float]:
    r"""How far the clients agree on a round's directions, and what there is to gain by directions of their own.

    With :math:`\bar g` the mean and :math:`s` the standard deviation over the m slots present (m - 1 in its divisor):

    .. math::
        \text{snr} = \sqrt{\frac{\operatorname{mean}_{k,p} \bar g_{k,p}^2}{\operatorname{mean}_{k,p} s_{k,p}^2}}
        \qquad
        \text{headroom} = m \frac{\operatorname{mean}_{k,p} \hat g_{k,p}^2}{\operatorname{mean}_{i,k,p} g_{i,k,p}^2}

    Clients that see the same have an infinite snr and a headroom of m, and clients without anything in common a snr
    about :math:`1 / \sqrt m` and a headroom about 1. Of one round both are noisy: look at them smoothed.

    Args:
        sent: Scalars of every slot, shape ``[m, tau, P]``.
        scalars: Aggregated scalars, shape ``[tau, P]``; of another shape slots have directions of their own.
        dropped: Slots dropped.

    Returns:
        ``scalar/snr`` and ``scalar/headroom``; only those that are finite numbers.
    """
    if sent.shape[1:] != scalars.shape:
        return {}
    g = np.delete(sent, list(dropped), axis=0).astype(np.float64) if dropped else sent.astype(np.float64)
    slots, square = len(g), float((g * g).mean()) if len(g) else 0.0
    found: dict[str, float] = {}
    if slots > 1 and (noise := float(g.var(axis=0, ddof=1).mean())) > 0:
        found["scalar/snr"] = math.sqrt(float((g.mean(axis=0) ** 2).mean()) / noise)
    if square > 0:
        found["scalar/headroom"] = slots * float((scalars.astype(np.float64) ** 2).mean()) / square
    return {name: value for name, value in found.items() if math.isfinite(value)}


class HessianLook:
    """A look at H where it is stored: smallest and largest element exactly, the rest from a sample.

    The sample is evenly spaced over all elements, the same at every look: quantiles by ``torch.quantile`` are not to be
    had of a model's H, which it refuses as too large.

    Args:
        tensors: The state's tensors that are here; those of another kind are left out.
        held: Where processes hold the state together, what asks the others; all of them look at the same time.
        names: Then the names of all tensors, in order.
    """

    def __init__(self, tensors: Sequence[StateTensor], held: Held | None = None, names: Sequence[str] = ()) -> None:
        found = {
            (t.name, t.kind): t.value.detach().reshape(-1) for t in tensors if t.kind == "hessian" and t.value.numel()
        }
        sizes = {key: values.numel() for key, values in found.items()}
        if held is not None:
            sizes = of_all(held, names, sizes)
        stride, starts = max(1, -(-sum(sizes.values()) // SAMPLE)), itertools.accumulate(sizes.values(), initial=0)
        # evenly spaced over tensors that lie end to end
        looks = {
            key: _Look(float(found[key].min()), float(found[key].max()), _bytes(found[key][-start % stride :: stride]))
            for key, start in zip(sizes, starts, strict=False)
            if key in found
        }
        if held is not None:
            looks = of_all(held, names, looks)
        self._names = [name for name, _ in looks]
        self._ends = [(look.low, look.high) for look in looks.values()]
        self._samples = [np.frombuffer(look.sample, dtype=np.float64) for look in looks.values()]

    def quantiles(self) -> dict[str, float]:
        """The elements from the smallest to the largest, by a few numbers."""
        if not self._names:
            return {}
        sample = np.sort(np.concatenate(self._samples))
        points = {
            "hessian/min": min(low for low, _ in self._ends),
            "hessian/max": max(high for _, high in self._ends),
        }
        return points | {f"hessian/{name}": float(sample[int(q * (len(sample) - 1))]) for name, q in QUANTILES.items()}

    def by_layer(self) -> dict[str, Bins]:
        """Histograms of log10 H, one for each layer, or for each group of layers where there are many."""
        found = {}
        for layer, members in layers(self._names).items():
            values = np.concatenate([self._samples[i] for i in members])
            if len(values) > 1:
                logs = np.log10(np.maximum(values, np.finfo(np.float64).tiny))
                counts, edges = np.histogram(logs, bins=BINS)
                found[f"hessian_log10/{layer}"] = Bins(edges, counts)
        return found


class _Look(NamedTuple):
    """A look at one tensor: its ends, and a sample in float64."""

    low: float
    high: float
    sample: bytes


def _bytes(sample: Tensor) -> bytes:
    return sample.to(torch.float64).cpu().numpy().tobytes()


def layers(names: Sequence[str], most: int = LAYERS) -> dict[str, list[int]]:
    """Groups parameters by the layer that their names tell, in their order.

    A layer is a name up to its first number, or without its last word. What all have in common is left out, and of more
    than ``most`` layers those that follow each other are put together.

    Returns:
        For each layer the positions of its parameters.
    """
    paths: dict[tuple[str, ...], list[int]] = {}
    for position, name in enumerate(names):
        words = name.split(".")
        cut = next((i + 1 for i, word in enumerate(words) if word.isdigit()), max(1, len(words) - 1))
        paths.setdefault(tuple(words[:cut]), []).append(position)
    common = 0
    while len({path[: common + 1] for path in paths}) == 1 and not any(
        len(path) <= common + 1 or path[common + 1].isdigit() for path in paths
    ):
        common += 1
    whole = [(".".join(path[common:]), members) for path, members in paths.items()]
    size = -(-len(whole) // most)
    found: dict[str, list[int]] = {}
    for start in range(0, len(whole), size or 1):
        some = whole[start : start + size]
        label = some[0][0] if len(some) == 1 else f"{some[0][0]} to {some[-1][0]}"
        found[label] = [position for _, members in some for position in members]
    return found
