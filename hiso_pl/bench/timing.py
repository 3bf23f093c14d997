"""Clocks: contestants timed in turns, on all ranks together, and what is said of the times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class Contestant(NamedTuple):
    """Something to be timed.

    Attributes:
        run: What is timed.
        around: Makes the context that ``run`` is timed in; entering and leaving it is not timed.
    """

    run: Callable[[], object]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


class Summary(NamedTuple):
    """What is said of repeated measurements: median, quartiles, and all values in the order measured."""

    median: float
    q1: float
    q3: float
    all: list[float]


def summarize(values: Sequence[float]) -> Summary:
    """Median and quartiles; of a single value, that value."""
    if len(values) == 1:
        return Summary(values[0], values[0], values[0], list(values))
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, q1, q3, list(values))


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def slowest(seconds: Sequence[float]) -> list[float]:
    """The slowest rank's time of each measurement; the same on every rank."""
    times = torch.tensor(seconds, dtype=torch.float64)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return times.tolist()


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds from an idle device to an idle device."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def device_seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds on the device's own clock, where it has one: what a short pass takes without its launch."""
    if device.type != "cuda":
        return seconds_of(run, device)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    first.record()
    run()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000.0


Clock = Callable[[Callable[[], object], torch.device], float]


def interleave(
    contestants: Mapping[str, Contestant],
    device: torch.device,
    repetitions: int,
    warmup: int,
    clock: Clock = seconds_of,
) -> dict[str, list[float]]:
    """Times contestants in turns, so that what disturbs the machine disturbs them alike.

    Each repetition runs every contestant once, the next one in the reverse order; those before ``repetitions`` are
    ``warmup`` and are not timed. All ranks start each together, and the slowest one's time counts. Seconds of each
    repetition are returned by name.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for repetition in range(-warmup, repetitions):
        for name in names if repetition % 2 == 0 else reversed(names):
            run, around = contestants[name]
            with around():
                synchronize(device)
                if dist.is_available() and dist.is_initialized():
                    dist.barrier()
                seconds = clock(run, device)
            if repetition >= 0:
                times[name].append(seconds)
    return {name: slowest(seconds) for name, seconds in times.items()}


def alone(run: Callable[[], object], device: torch.device, repetitions: int, clock: Clock = seconds_of) -> Summary:
    """What is said of the times of one thing, after one run that is not timed."""
    return summarize(interleave({"": Contestant(run)}, device, repetitions, 1, clock)[""])
