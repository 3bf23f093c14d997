"""A diagnosis of a run's own parts: its network, its data and its optimizer, before a round."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hiso_pl.data.module import FederatedDataModule
from hiso_pl.diagnose.diagnosis import Diagnosis, diagnose
from hiso_pl.diagnose.minibatches import clients_of
from hiso_pl.diagnose.problem import Problem
from hiso_pl.errors import RunError
from hiso_pl.federation.aggregation import WeightedMean
from hiso_pl.zeroth_order import Identity, Method
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.out_of_memory import is_out_of_memory
from hiso_pl.zeroth_order.watching import uncompiled

if TYPE_CHECKING:
    from hiso_pl.module import FederatedModule

VECTORS = 16
"""Vectors of the trainable elements that a diagnosis holds at a time, gradients included."""
MATRICES = 4
"""Matrices of all elements by all where the Hessian is computed whole."""
LOUD = 0.3
"""From what part of a number its standard error is pointed out."""


@dataclass(frozen=True)
class Asked:
    """How closely to look.

    Attributes:
        clients: Clients; all if None.
        batches: Minibatches of each.
        probes: Random vectors of an estimate.
        eigenvalues: How many eigenvalues, from both ends.
        exact: Whether to compute the Hessian whole; by its size if None.
    """

    clients: int | None = None
    batches: int = 4
    probes: int = 16
    eigenvalues: int = 4
    exact: bool | None = None


def look(
    module: FederatedModule,
    data: FederatedDataModule,
    optimizer: Any,
    round: int,
    asked: Asked,
    direction: Sequence[Tensor] | None = None,
) -> tuple[Diagnosis, list[str]]:
    """Diagnoses a run at a point. Nothing of it is changed.

    Args:
        module: The run's module.
        data: Its data, which have been set up.
        optimizer: Its optimizer.
        round: The round that comes next.
        asked: How closely to look.
        direction: D of a round there, if it is known.

    Returns:
        The numbers, and what a reader must be told of them.

    Raises:
        ValueError: If an option cannot be.
        RunError: If a loss, a gradient or a weight is not finite, or memory does not suffice.
    """
    for name, parameter in module.trainable():
        if not torch.isfinite(parameter).all():
            raise RunError(f"tensor {name!r} holds values that are not finite: there is no diagnosis")
    elements = sum(p.numel() for _, p in module.trainable())
    check_memory(elements, bool(asked.exact), next(module.parameters()).device)
    weighted = isinstance(getattr(module.method, "aggregation", None), WeightedMean)
    clients = clients_of(module.network, data, round, asked.clients, asked.batches, weighted)
    problem = Problem.of(
        optimizer, clients, cohort=data.cohort, population=len(data.ownership.sizes), direction=direction
    )
    with plain_operators(), in_float32(module.network):
        try:
            found = diagnose(problem, probes=asked.probes, eigenvalues=asked.eigenvalues, exact=asked.exact)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"memory does not suffice to diagnose {elements:,} elements by minibatches of {data.batch_size} "
                "examples: take fewer by data.batch_size, or a model of which less is trained"
            ) from error
    return found, [*notes_of_run(module.method, asked, len(data.ownership.sizes)), *notes_of_numbers(found)]


@contextmanager
def plain_operators() -> Iterator[None]:
    """Compiled networks run as they are written, which can be differentiated twice, and operators may be any."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # that a gradient is the same to the bit is nobody's promise
    try:
        with uncompiled():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def in_float32(network: nn.Module) -> Iterator[None]:
    """Parameters that are stored in 16 bits, as forward passes of probes compute in them, in fp32 for a while."""
    stored = [(p, p.data) for p in network.parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    try:
        for p, data in stored:
            p.data = data.float()
        yield
    finally:
        for p, data in stored:
            p.data = data


def check_memory(elements: int, exact: bool, device: torch.device) -> None:
    """Refuses what cannot fit, before anything is begun; activations are not counted.

    Raises:
        RunError: If it cannot.
    """
    needed = VECTORS * elements * 4 + (MATRICES * elements**2 * 8 if exact else 0)
    free = free_bytes(device)
    if free is not None and needed > free:
        how = "exact=true" if exact else "a diagnosis"
        raise RunError(
            f"{how} of {elements:,} elements takes {needed / 2**30:,.1f} GiB at least, and {free / 2**30:,.1f} GiB of "
            f"{device.type} memory are free: " + ("set exact to false" if exact else "diagnose a smaller model")
        )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free where the tensors are; None if that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        names = os.sysconf_names
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else None


def notes_of_run(method: MethodBase, asked: Asked, clients: int) -> list[str]:
    """What the numbers leave out of a run's method, a sentence each."""
    notes = []
    if asked.clients is not None and asked.clients < clients:
        notes.append(f"{asked.clients} of {clients} clients stand for all of them")
    if not isinstance(method, Method):
        return [*notes, f"{type(method).__name__} is no scalar-only method: there is no H, and no round of directions"]
    if isinstance(method.preconditioner, Identity):
        notes.append("the method stores no H")
    if not method.update_rule.plain_rate:
        rule = type(method.update_rule).__name__
        notes.append(f"{rule} does not step along D by lr: the greedy rate is that of a plain step")
    if method.transform is not None:
        notes.append(f"what {type(method.transform).__name__} does to the scalars is not in the numbers")
    if method.dtype != torch.float32:
        notes.append(f"computed in float32, where the run's forward passes are in {method.compute_dtype}")
    return notes


def notes_of_numbers(found: Diagnosis) -> list[str]:
    """Which numbers are not to be relied upon, and why."""
    numbers, notes = {**found.whole, **found.quality}, []
    more = {"gradient_sq": "batches", "hessian_trace": "probes", "gauss_newton_trace": "probes", "greedy_lr": "batches"}
    for name, option in more.items():
        value, error = numbers.get(name), numbers.get(f"{name}_error", 0.0)
        if value is not None and error > LOUD * abs(value):
            notes.append(f"{name} is {value:.3g} with a standard error of {error:.2g}: take more {option}")
    if numbers.get("gradient_sq", 1.0) <= 0:
        notes.append("the whole gradient is lost in the minibatches' noise: take more batches")
    if not found.exact:
        notes.append("the Hessian's diagonal and traces are estimated (Hutchinson), as the model is too large for all")
        kept = numbers.get("reliability", 1.0)
        if kept < 1.0 - LOUD:
            notes.append(
                f"{1.0 - kept:.0%} of the diagonal's variance over elements is its estimate's own error, so that "
                "correlations over elements come out too small: take more probes, or look at those over tensors"
            )
    if numbers.get("lambda_min", 0.0) < -LOUD * numbers.get("lambda_max", 0.0):
        notes.append("there is much negative curvature, so that tr A and the greedy rate say little of what is safe")
    return notes
