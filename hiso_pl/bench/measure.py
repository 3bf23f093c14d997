"""The measurement: memory, then rounds and forwards in turns, then what a round consists of, then the sweep."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist

from hiso_pl.bench.kernels import displace_all, displacements, measure_kernels
from hiso_pl.bench.machine import machine_facts
from hiso_pl.bench.memory import measure_memory, resident
from hiso_pl.bench.settings import Settings
from hiso_pl.bench.timing import Contestant, Summary, alone, interleave, summarize
from hiso_pl.bench.usual import Kept
from hiso_pl.bench.workload import Workload, build_batches, build_workload
from hiso_pl.ranks import environment
from hiso_pl.run import versions
from hiso_pl.stages.group import StageGroup
from hiso_pl.zeroth_order.points import is_absent

log = logging.getLogger(__name__)

TARGET = 1.2
"""The ratio of a round and its forwards that the sweep looks for."""
EXCHANGES = 20


def measure(settings: Settings, device: torch.device, setup: dict[str, Any]) -> dict[str, Any]:
    """Measures all that the settings ask for on this rank's device; a collective if there are several ranks.

    What :func:`hiso_pl.ranks.process.configure` set, ``setup``, is noted.

    Returns:
        Plain values, as they are written to JSON. Seconds are those of the slowest rank; the parts of a round
        and its memory are this rank's own.

    Raises:
        ValueError: If the settings fit neither model nor launch.
    """
    work = build_workload(settings, device)
    others = {  # before anything is measured: a length that cannot be is said at once
        tokens: replace(work, batches=build_batches(settings, work.network, work.slots, tokens), reports=[])
        for tokens in sorted(set(settings.sweep_tokens) - {settings.tokens})
    }
    memory = kernels = None
    if settings.memory_measure:
        log.info("Measuring peak memory.")
        memory = measure_memory(work)
    log.info("Measuring rounds and forwards in turns, %d times after %d.", settings.repetitions, settings.warmup)
    times = _in_turns(work, bool(settings.usual))
    forwards, round = summarize(times["forwards"]), summarize(times["round"])
    split = _split(work, round)
    stages = None if work.group is None else _stages(work, work.group, memory)
    if settings.kernel_elements:
        log.info("Measuring the kernels on %d elements.", settings.kernel_elements)
        kernels = measure_kernels(settings, device)
    points = [_point(settings, settings.tokens, times)]
    for tokens, other in others.items():
        log.info("Measuring at %d tokens.", tokens)
        points.append(_point(settings, tokens, _in_turns(other, usual=False)))
    points.sort(key=lambda point: point["tokens_per_batch"])
    done = settings.clients * settings.forwards_per_slot
    tau_p = settings.method.local_steps * settings.method.num_directions
    bits = settings.method.bits(settings.clients, settings.method.num_directions)
    network = work.network
    return {
        "settings": {
            **vars(settings),
            "peft": settings.peft and asdict(settings.peft),
            "stages": settings.stages and asdict(settings.stages),
            "method": settings.method.as_data(),
            "memory": settings.method.memory,
        },
        "versions": versions.package_versions(),
        "machine": machine_facts(device) | setup | {"ranks": environment.world_size()},
        "model": {
            "name": settings.model,
            "parameters": sum(p.numel() for p in network.parameters()),
            "trainable": sum(p.numel() for p in work.optimizer.parameters),
            "tensors": len(work.optimizer.parameters),
            "vocabulary": network.vocabulary_size,
            "reduced_logits": not network.full_logits,
        },
        "forwards": {"per_slot": settings.forwards_per_slot, "per_round": done},
        "seconds": {name: summarize(values)._asdict() for name, values in times.items()},
        "ratio": _ratio(times, "round", "forwards"),
        "usual_ratio": _ratio(times, "usual", "round") if settings.usual else None,
        "split": split,
        "kernels": kernels,
        "memory": memory,
        "stages": stages,
        "throughput": {
            "forwards_per_second": done / round.median,
            "tokens_per_second": done * settings.batch_size * settings.tokens / round.median,
            "plain_forwards_per_second": done / forwards.median,
        },
        "bytes": {  # of one round: a client's scalars there and back, and what a rank hands to the process group
            "client_up": bits.up // 8,
            "client_paper": (bits.up + bits.down) // 8,
            "payload": 4 * (settings.clients * (tau_p + 1) + 1) if environment.world_size() > 1 else 0,
        },
        "sweep": {
            "target": TARGET,
            "points": points,
            "crossing": crossing([(p["tokens_per_batch"], p["ratio"]) for p in points], TARGET),
        },
    }


def _in_turns(work: Workload, usual: bool) -> dict[str, list[float]]:
    contestants = {"forwards": Contestant(work.forwards, work.at_base), "round": Contestant(work.round)}
    if usual:
        way = work.usual_way()
        kept = Kept([p.data for p in work.optimizer.parameters] + work.optimizer.stored_hessians)
        contestants["usual"] = Contestant(lambda: way.round(work.batches), kept.restored)
    return interleave(contestants, work.device, work.settings.repetitions, work.settings.warmup)


def _ratio(times: dict[str, list[float]], above: str, below: str) -> dict[str, Any]:
    """The ratio of the medians, and the quartiles of the ratios within a repetition."""
    value = summarize(times[above]).median / summarize(times[below]).median
    within = summarize([a / b for a, b in zip(times[above], times[below], strict=True)])
    return {"of_medians": value, **within._asdict()}


def _point(settings: Settings, tokens: int, times: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "tokens_per_batch": tokens * settings.batch_size,
        "forwards_s": summarize(times["forwards"]).median,
        "round_s": summarize(times["round"]).median,
        "ratio": _ratio(times, "round", "forwards")["of_medians"],
    }


def _split(work: Workload, round: Summary) -> dict[str, Any]:
    """Where a round's time goes, by the reports of the rounds themselves.

    On a GPU, whose work a host's clock does not see, displacements and update are measured apart: one displacement by
    the kernels on all tensors whole, times their number, and the update by ``apply``. Everywhere the exchange is
    measured alone as well, with all ranks ready: in the rounds it includes waiting for others.
    """
    reports = work.reports[-work.settings.repetitions :]
    written, one = displacements(work.settings, len(work.slots.own)), displace_all(work)
    keys = ("probe_s", "displace_s", "exchange_s", "update_s")
    split: dict[str, Any] = {key: summarize([getattr(report, key) for report in reports]).median for key in keys}
    apart = ["displace_s", "update_s"] if work.device.type == "cuda" else []
    if apart:
        split |= {"displace_s": written * one.median, "update_s": _update_seconds(work)}
    return split | {
        "forwards_s": max(0.0, split["probe_s"] - split["displace_s"]),
        "rest_s": max(0.0, round.median - split["probe_s"] - split["exchange_s"] - split["update_s"]),
        "measured_apart": apart,
        "displacements": written,
        "one_displacement_alone_s": one._asdict(),
        "exchange_alone_s": _exchange_alone(work)._asdict(),
    }


def _stages(work: Workload, group: StageGroup, memory: dict[str, int | float] | None) -> list[dict[str, Any]]:
    """What each rank has to do with a round, in order: its group and stage, bytes it holds and hands on, its peak."""
    before = group.bytes
    work.round()
    mine = {
        "group": environment.rank() // group.count,
        "stage": group.stage,
        "parameters_bytes": resident(p for p in work.network.parameters() if not is_absent(p)),
        "sent_bytes": group.bytes - before,
        "peak_bytes": memory and memory["round"],
    }
    everyone: list[dict[str, Any]] = [{}] * environment.world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def _exchange_alone(work: Workload) -> Summary:
    settings, slots = work.settings, work.slots
    rows = torch.zeros(len(slots.own), settings.method.local_steps * settings.method.num_directions + 1)
    return alone(lambda: work.optimizer.exchange(rows, slots), work.device, EXCHANGES)


def _update_seconds(work: Workload) -> float:
    optimizer, record = work.optimizer, work.optimizer.record
    assert record is not None
    repetitions = work.settings.repetitions
    return alone(lambda: optimizer.apply(replace(record, round=optimizer.round)), work.device, repetitions).median


def crossing(points: list[tuple[int, float]], target: float) -> float | None:
    r"""Where a falling ratio crosses a target for good.

    A round costs its forwards, which grow with the tokens n of a batch, and something that does not, so between two
    points the ratio is taken as

    .. math:: ratio(n) = a + b / n

    Of points (tokens of a batch, ratio), ascending in tokens. It is the tokens of a batch from which on the ratio stays
    at the target or below; None if it never was above it, or still is at the last point.
    """
    above = [i for i, (_, ratio) in enumerate(points) if ratio > target]
    if not above or above[-1] == len(points) - 1:
        return None
    (n0, r0), (n1, r1) = points[above[-1] : above[-1] + 2]
    return 1.0 / (1.0 / n0 + (target - r0) / (r1 - r0) * (1.0 / n1 - 1.0 / n0))
