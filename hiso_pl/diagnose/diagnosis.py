"""The diagnosis of a problem: what is measured, and what theory makes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hiso_pl.diagnose import gauss_newton, gradients, numbers, quality
from hiso_pl.diagnose.curvature import Diagonal, Hessian
from hiso_pl.diagnose.curvature import diagonal as diagonal_of
from hiso_pl.diagnose.estimate import HessianEstimate
from hiso_pl.diagnose.meanings import MEANINGS
from hiso_pl.diagnose.method_moments import Draws, Metric, measure
from hiso_pl.diagnose.problem import Problem

if TYPE_CHECKING:
    import pandas

EXACT = 2048
"""Up to so many elements the Hessian is computed whole, unless told otherwise."""
MOST_EXACT = 1 << 14
"""Beyond so many elements it is not to be had whole: 2 GiB."""
EXACT_DRAWS = 2048
"""Directions of the method that are drawn where the Hessian is known whole."""
CORRELATED = 1 << 20
"""Elements that correlations are of, at most."""


@dataclass(frozen=True)
class Diagnosis:
    """What a diagnosis found.

    Numbers that do not apply are left out; :data:`.meanings.MEANINGS` says what each is.

    Attributes:
        whole: Of the whole model, by name.
        tensors: A row a tensor: ``tensor, block, elements, gradient_sq, sampling_sq, heterogeneity_sq, noise_sq,
            gauss_newton_trace, gauss_newton_error, hessian_trace, hessian_error``, and of H ``h_mean, true_mean, ratio,
            correlation`` (Spearman's, over the tensor's elements); NaN where there is none.
        eigenvalues: Of A, ascending: all if exact, else some of both ends.
        quality: Of H beside the true diagonal, by name.
        elements: A sample of elements: ``h, true_diagonal, tensor``; None without H.
        exact: Whether the true diagonal is exact, or by Hutchinson's estimate.
    """

    whole: Mapping[str, float]
    tensors: pandas.DataFrame
    eigenvalues: tuple[float, ...]
    quality: Mapping[str, float]
    elements: pandas.DataFrame | None
    exact: bool

    def blocks(self) -> pandas.DataFrame:
        """The table by block: sums, and what follows of them."""
        added = [c for c in self.tensors if str(c).endswith(("_sq", "_trace")) or c == "elements"]
        weighted = self.tensors.assign(h_mean=self.tensors["h_mean"] * self.tensors["elements"])
        table = weighted.groupby("block", sort=False)[[*added, "h_mean"]].sum(min_count=1).reset_index()
        table["h_mean"] /= table["elements"]
        table["true_mean"] = table["hessian_trace"] / table["elements"]
        return table.assign(ratio=table["h_mean"] / table["true_mean"])


def block_of(name: str) -> str:
    """The layer that a tensor's name tells: up to its first number, or without its last word."""
    numbered = re.match(r"(?:.*?\.)?\d+(?=\.|$)", name)
    return numbered[0] if numbered else name.rpartition(".")[0] or name


def diagnose(
    problem: Problem,
    *,
    probes: int = 16,
    eigenvalues: int = 10,
    exact: bool | None = None,
    seed: int = 0,
    sample: int = 20_000,
) -> Diagnosis:
    """Measures a problem. The tensors stay as they are.

    Args:
        problem: The problem.
        probes: Random vectors of an estimate, 4 at least; a standard error falls with their root.
        eigenvalues: How many, from both ends, where not all are had; 0 for none.
        exact: Whether to compute the Hessian whole; by its size if None.
        seed: Of the random vectors.
        sample: Elements in the sample, at most.

    Raises:
        ValueError: If an option cannot be.
        RunError: If a loss or gradient is not finite.
    """
    if probes < 4:
        raise ValueError(f"probes={probes} must be at least 4")
    if eigenvalues < 0 or eigenvalues == 1:
        raise ValueError(f"eigenvalues={eigenvalues} must be 0, or at least 2: some of each end")
    if exact is None:
        exact = problem.elements <= EXACT
    if exact and problem.elements > MOST_EXACT:
        raise ValueError(f"exact=True for {problem.elements} elements, must be at most {MOST_EXACT}: estimate instead")
    generator = torch.Generator().manual_seed(seed)
    flat = [(problem.elements,)]
    none = HessianEstimate([None], flat, device=problem.device)
    h = problem.estimate or none
    gradients.gradient(problem, problem.clients[0].minibatches[0], "client 0, minibatch 0")  # before what takes long
    hessian = Hessian(problem, exact)
    diagonal = diagonal_of(problem, hessian, h, probes, generator)
    true = HessianEstimate([quality.as_estimate(diagonal.values)], flat)
    metrics = {n: Metric(e, hessian, diagonal, problem) for n, e in (("none", none), ("h", h), ("true", true))}
    split, measured = measure(problem, metrics)
    draws = Draws.of(problem, metrics["h"], EXACT_DRAWS if exact else probes, generator)
    gauss = gauss_newton.traces(problem, exact, probes, generator)
    values = hessian.eigenvalues(eigenvalues) if eigenvalues else np.empty(0)

    tensors = _tensors(problem, split, diagonal, gauss, h)
    whole = numbers.of_gradient(problem, split, measured["none"])
    whole |= numbers.of_curvature(diagonal, gauss, values, exact)
    if problem.estimate is not None:
        whole |= numbers.in_h(measured["h"], diagonal, hessian, h, eigenvalues)
    whole |= numbers.of_method(problem, whole, measured["h"], diagonal, draws)
    whole |= numbers.cosines(problem, split, h, whole["gradient_sq"], measured["h"], draws)
    means = (tensors["h_mean"].to_numpy(), tensors["true_mean"].to_numpy())
    found = numbers.of_quality(problem, means, diagonal, h, measured, CORRELATED)
    return Diagnosis(
        whole=_ordered(whole),
        tensors=tensors,
        eigenvalues=tuple(values.tolist()),
        quality=_ordered(found),
        elements=None if problem.estimate is None else _elements(problem, diagonal, h, sample),
        exact=exact,
    )


def _ordered(found: Mapping[str, float]) -> dict[str, float]:
    """Numbers in the order of their meanings; what is none is left out."""
    return {name: float(found[name]) for name in MEANINGS if math.isfinite(found.get(name, math.nan))}


def _tensors(
    problem: Problem, split: gradients.Split, diagonal: Diagonal, gauss: gauss_newton.Traces | None, h: HessianEstimate
) -> pandas.DataFrame:
    import pandas

    count, names = len(problem.tensors), list(problem.tensors)
    sizes = np.array([tensor.numel() for tensor in problem.parameters])
    per_element = np.where(sizes > 0, sizes, math.nan)
    nothing = np.full(count, math.nan)
    table = pandas.DataFrame(
        {
            "tensor": names,
            "block": [block_of(name) for name in names],
            "elements": sizes,
            "gradient_sq": split.signal[:count],
            "sampling_sq": split.sampling[:count],
            "heterogeneity_sq": split.heterogeneity[:count],
            "noise_sq": split.sampling[:count] + split.heterogeneity[:count],
            "gauss_newton_trace": nothing if gauss is None else gauss.traces,
            "gauss_newton_error": nothing if gauss is None else gauss.errors,
            "hessian_trace": diagonal.traces,
            "hessian_error": diagonal.trace_errors,
            "h_mean": nothing,
            "true_mean": diagonal.traces / per_element,
            "ratio": nothing,
            "correlation": nothing,
        }
    )
    if problem.estimate is not None:
        table["h_mean"] = problem.by_tensor(h.diagonal).cpu().numpy() / per_element
        table["ratio"] = table["h_mean"] / table["true_mean"]
        sizes_list = sizes.tolist()
        parts = zip(h.diagonal.split(sizes_list), diagonal.values.double().split(sizes_list), strict=True)
        table["correlation"] = [_rank_correlation(ours, theirs) for ours, theirs in parts]
    return table


def _rank_correlation(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    at = slice(None, None, max(1, -(-len(ours) // CORRELATED)))
    return quality.correlations(ours[at].cpu().numpy(), theirs[at].cpu().numpy())["spearman"]


def _elements(problem: Problem, diagonal: Diagonal, h: HessianEstimate, most: int) -> pandas.DataFrame:
    import pandas

    at, names = numbers.sample_of(problem, most), list(problem.tensors)
    ends = torch.tensor([tensor.numel() for tensor in problem.parameters]).cumsum(0)
    owner = torch.searchsorted(ends, at.cpu(), right=True)
    return pandas.DataFrame(
        {
            "h": h.diagonal[at].cpu().numpy(),
            "true_diagonal": diagonal.values[at].double().cpu().numpy(),
            "tensor": [names[i] for i in owner.tolist()],
        }
    )
