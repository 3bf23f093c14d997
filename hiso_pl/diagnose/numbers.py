"""The numbers of a diagnosis, by the names of :mod:`.meanings`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.diagnose import gauss_newton, gradients, quality
from hiso_pl.diagnose.curvature import Diagonal, Hessian
from hiso_pl.diagnose.estimate import HessianEstimate
from hiso_pl.diagnose.method_moments import Draws, Measured, moments, unevenness
from hiso_pl.diagnose.moments import cosine, headroom
from hiso_pl.diagnose.problem import Problem

Floats = NDArray[np.float64]


def of_gradient(problem: Problem, split: gradients.Split, measured: Measured) -> dict[str, float]:
    """Loss, gradient and noise."""
    square = measured.square
    return {
        "loss": split.loss,
        "gradient_sq": square.signal,
        "gradient_sq_error": gradients.square_error(problem, split.mean),
        "noise_sq": square.noise,
        "sampling_sq": square.sampling,
        "heterogeneity_sq": square.heterogeneity,
        "cohort_noise_sq": square.of_mean(problem.facts, unevenness(problem)),
    }


def of_curvature(
    diagonal: Diagonal, gauss: gauss_newton.Traces | None, values: Floats, exact: bool
) -> dict[str, float]:
    """The Hessian's numbers."""
    found = {"hessian_trace": diagonal.trace, "hessian_trace_error": diagonal.trace_error}
    if gauss is not None:
        found |= {"gauss_newton_trace": gauss.trace, "gauss_newton_trace_error": gauss.error}
    if len(values):
        found |= {"lambda_max": float(values[-1]), "lambda_min": float(values[0])}
        found["effective_rank"] = diagonal.trace / float(values[-1])
        if exact:
            found["negative_share"] = float(-values[values < 0].sum() / np.abs(values).sum())
    return found


def in_h(measured: Measured, diagonal: Diagonal, hessian: Hessian, h: HessianEstimate, count: int) -> dict[str, float]:
    """What there is in the coordinates of H."""
    found = {
        "h_gradient_sq": measured.square.signal,
        "h_noise_sq": measured.square.noise,
        "h_trace": diagonal.h_trace,
        "h_trace_error": diagonal.h_trace_error,
    }
    values = hessian.eigenvalues(2, h) if count else np.empty(0)
    if len(values):
        found |= {"h_lambda_max": float(values[-1]), "h_effective_rank": diagonal.h_trace / float(values[-1])}
    return found


def of_method(
    problem: Problem, whole: dict[str, float], measured: Measured, diagonal: Diagonal, draws: Draws
) -> dict[str, float]:
    """What theory says of the method's next round.

    Args:
        problem: The problem.
        whole: What is known of the gradient.
        measured: Forms in the coordinates of the method's H.
        diagonal: Of the Hessian.
        draws: Of the method's directions.
    """
    facts, found = problem.facts, {}
    theory = moments(problem, measured, diagonal.h_trace, draws)
    if facts.num_directions:
        bias = 0.25 * facts.mu**2 * float((draws.curvature**2).mean()) if len(draws.curvature) else 0.0
        whole_sq = measured.square.signal + measured.square.of_mean(facts, unevenness(problem)) + bias
        found["mu_share"] = bias / whole_sq if whole_sq > 0 else math.nan
        found["headroom"], found["headroom_logged"] = headroom(facts, measured.square, bias, unevenness(problem))
        found |= {"greedy_lr_shared": theory.greedy_lr("shared"), "greedy_lr_own": theory.greedy_lr("client")}
        found["greedy_lr_simple"] = theory.lr_without_noise_terms()
    g, error = whole["gradient_sq"], whole["gradient_sq_error"]
    # G stands above and, with its noise, below
    noisy = whole["cohort_noise_sq"] if facts.directions == "shared" else whole["noise_sq"]
    of_g = error / g * noisy / (g + noisy) if g > 0 else math.nan
    of_trace = diagonal.h_trace_error / diagonal.h_trace if diagonal.h_trace else math.nan
    found["greedy_lr"] = theory.greedy_lr()
    found["greedy_lr_error"] = found["greedy_lr"] * math.hypot(of_g, of_trace)
    found["greedy_gain"] = theory.greedy_gain()
    return found


def cosines(
    problem: Problem, split: gradients.Split, h: HessianEstimate, gradient_sq: float, measured: Measured, draws: Draws
) -> dict[str, float]:
    """The cosine between D and the gradient: of the round's D where there is one, and by theory."""
    found = {}
    if problem.facts.num_directions:
        length = moments(problem, measured, h.inverse_trace(), draws, length=True).round_square()
        found["cosine_expected"] = cosine(gradient_sq, problem.facts.local_steps * measured.square.signal, length)
    if problem.direction is not None:
        d, g = problem.flat(list(problem.direction)).double(), split.mean.double()
        dot = float((d * g).sum())
        found["cosine"] = dot / max(float(d.norm() * g.norm()), 1e-300)
        in_h = h.square(d) * float((g * h.inverse(g)).sum())
        found["cosine_h"] = dot / max(math.sqrt(in_h), 1e-300)
    return found


def of_quality(
    problem: Problem,
    by_tensor: tuple[Floats, Floats],
    diagonal: Diagonal,
    h: HessianEstimate,
    measured: Mapping[str, Measured],
    most: int,
) -> dict[str, float]:
    """How H relates to the true diagonal.

    Args:
        problem: The problem.
        by_tensor: Means of H and of the true diagonal by tensor.
        diagonal: The true diagonal.
        h: H.
        measured: Forms in the coordinates of no H, of H and of the true diagonal.
        most: Elements that correlations are of, spread over all.
    """
    found = quality.shape_traces(diagonal, diagonal.h_trace, h.inverse_trace())
    d, true = problem.elements, HessianEstimate([quality.as_estimate(diagonal.values)], [(problem.elements,)])
    traces = {"none": diagonal.trace, "true": found["trace_true"] * true.inverse_trace() / d}
    if problem.estimate is None:
        del found["trace_h"]
    else:
        traces["h"] = diagonal.h_trace
        at = sample_of(problem, most)
        pairs = {"elements": (h.diagonal[at].cpu().numpy(), diagonal.values[at].double().cpu().numpy())}
        for kind, (ours, theirs) in {**pairs, "tensors": by_tensor}.items():
            found |= {f"{name}_{kind}": r for name, r in quality.correlations(ours, theirs).items()}
        found["ratio"] = float(h.diagonal.mean()) * d / diagonal.trace if diagonal.trace else math.nan
    found["not_positive"] = float((diagonal.values <= 0).double().mean())
    found["reliability"] = quality.reliability(diagonal)
    for name, trace in traces.items():
        found[f"progress_{name}"] = moments(problem, measured[name], trace).greedy_gain()
    return found


def sample_of(problem: Problem, most: int) -> Tensor:
    """Positions of so many elements at most, spread evenly over all."""
    return torch.arange(0, problem.elements, max(1, -(-problem.elements // most)), device=problem.device)
