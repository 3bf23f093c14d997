"""Clocks, memory and what is made of the numbers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from hiso_pl.bench.kernels import displacements, measure_kernels
from hiso_pl.bench.measure import crossing
from hiso_pl.bench.memory import largest_block, peak_growth, resident
from hiso_pl.bench.settings import Settings
from hiso_pl.bench.timing import Contestant, interleave, seconds_of, summarize
from hiso_pl.bench.workload import build_workload
from hiso_pl.zeroth_order import Method, Scalar

CPU = torch.device("cpu")
MB = 1 << 20


def test_crossing_is_where_a_hyperbola_crosses() -> None:
    points = [(n, 1.05 + 60 / n) for n in (100, 200, 800, 1600)]
    assert crossing(points, 1.2) == pytest.approx(400)


def test_crossing_counts_from_the_last_time_above() -> None:
    found = crossing([(100, 1.5), (200, 1.1), (300, 1.3), (600, 1.1)], 1.2)
    assert found == pytest.approx(400)


@pytest.mark.parametrize("points", [[(100, 1.1)], [(100, 1.1), (200, 1.2)], [(100, 1.5), (200, 1.3)], [(100, 1.3)]])
def test_no_crossing(points: list[tuple[int, float]]) -> None:
    assert crossing(points, 1.2) is None


def test_contestants_take_turns_in_alternating_order() -> None:
    seen: list[str] = []

    @contextmanager
    def around() -> Any:
        seen.append("(")
        yield
        seen.append(")")

    contestants = {"a": Contestant(lambda: seen.append("a"), around), "b": Contestant(lambda: seen.append("b"))}
    times = interleave(contestants, CPU, repetitions=3, warmup=1)
    assert "".join(seen) == "b(a)" + "(a)b" + "b(a)" + "(a)b"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_summaries() -> None:
    assert summarize([3.0])[:3] == (3.0, 3.0, 3.0)
    assert summarize([4.0, 1.0, 2.0, 3.0, 5.0])[:3] == (3.0, 2.0, 4.0)
    assert seconds_of(lambda: sum(range(100_000)), CPU) > 0


def test_peak_is_the_allocators() -> None:
    kept = []

    def work() -> None:
        first = torch.zeros(MB)  # 4 MB
        second = torch.zeros(2 * MB)  # 8 MB
        del first
        kept.append(torch.zeros(MB // 2))  # 2 MB beside 8
        del second

    assert peak_growth(work, CPU) == pytest.approx(12 * MB, rel=1e-3)
    assert peak_growth(kept.clear, CPU) == 0


def test_resident_counts_shared_storage_once() -> None:
    weight = torch.zeros(100)
    assert resident([weight, weight.view(10, 10), weight[:5], torch.zeros(3)]) == 412


def test_largest_block_leaves_embeddings_out() -> None:
    network = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 30))
    assert largest_block(network, torch.bfloat16) == 2 * 240


def test_kernels_are_set_against_the_copy_of_the_same_run() -> None:
    found = measure_kernels(Settings(Method(preconditioner=Scalar()), kernel_elements=4096), CPU, copied=1 << 16)
    assert found["copy_bytes_per_second"] > 0
    assert (found["displace"]["floor_bytes_per_element"], found["update"]["floor_bytes_per_element"]) == (8, 8)
    for name in ("displace", "update"):
        one = found[name]
        assert one["times_floor"] == pytest.approx(found["copy_bytes_per_second"] / one["bytes_per_second"])
        assert one["bytes_per_second"] == pytest.approx(8 * 4096 / one["seconds"]["median"])


@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize(("steps", "directions"), [(1, "shared"), (2, "shared"), (2, "client")])
def test_displacements_are_those_of_a_round(
    difference: Any, memory: Any, steps: int, directions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Method(num_directions=3, local_steps=steps, directions=directions, difference=difference, memory=memory)
    settings = Settings(method, model="opt-tiny", batch_size=2, tokens=8, clients=2)
    work = build_workload(settings, CPU)
    work.round()
    # one of the tensors that every forward pass reads whole, once
    watched = next(t for t, name in enumerate(work.optimizer.names) if name.endswith("layers.0.fc1.weight"))
    kernels, written = type(work.optimizer._kernels()), []
    one, several = kernels.displace, kernels.displace_all

    def displace(self: Any, out: Any, base: Any, hessian: Any, site: Any, *more: Any, **options: Any) -> None:
        written.extend([site] if site.tensor == watched else [])
        one(self, out, base, hessian, site, *more, **options)

    def displace_all(self: Any, outs: Any, bases: Any, hessians: Any, sites: Any, *more: Any) -> None:
        written.extend(site for site in sites if site.tensor == watched)
        several(self, outs, bases, hessians, sites, *more)

    monkeypatch.setattr(kernels, "displace", displace)
    monkeypatch.setattr(kernels, "displace_all", displace_all)
    work.round()
    assert len(written) == displacements(settings, 2)
