"""What all tests, and the processes they start, have in common."""

from __future__ import annotations

import copy
import gc
import json
import math
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hiso_pl.federation.traffic import Traffic
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint import Counters, RunFacts, facts_as_data
from hiso_pl.run.checkpoint_state import state_digest
from hiso_pl.zeroth_order import ZerothOrderOptimizer

REPIN = "HISO_PL_REPIN"


def pytest_configure(config: pytest.Config) -> None:
    """Has xdist, where it can, keep to the order below; by itself it puts files of few tests last, however long."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left with a long one while the others have none."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays, and is never looked through for garbage, which took long."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class Pins:
    """What must not move: a table committed beside its test, ``test_pins.json`` beside ``test_pins.py``.

    With ``HISO_PL_REPIN=1`` in the environment what is found is written there. A test that finds something else than is
    pinned fails that time all the same, so no table changes unseen.
    """

    repin = os.environ.get(REPIN) == "1"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def hold(self, key: str, found: object) -> None:
        """Fails if something else is pinned under the key."""
        pinned = self.table.get(key)
        if self.repin and found != pinned:
            self.table[key] = found
            self.path.write_text(json.dumps(self.table, indent=1, sort_keys=True) + "\n")
        assert found == pinned, f"{self.path.name}: {key!r} is pinned to {pinned}; if it is to move, see {REPIN}"


@pytest.fixture
def pins(request: pytest.FixtureRequest) -> Pins:
    """The table beside the test."""
    return Pins(request.path.with_suffix(".json"))


@pytest.fixture(scope="session")
def fixed() -> Callable[..., torch.Tensor]:
    """Makes a tensor of numbers in [-1, 1) that fp32 has exactly, spread by integers: no generator's, so they stay."""

    def fixed(shape: tuple[int, ...], salt: int) -> torch.Tensor:
        words = (np.arange(math.prod(shape), dtype=np.uint64) * 2654435761 + 40503 * salt + 12345) % (1 << 32)
        return torch.from_numpy(((words >> 8) / 2.0**23 - 1.0).astype(np.float32).reshape(shape))

    return fixed


@pytest.fixture(scope="session")
def optimizer_of() -> Callable[..., ZerothOrderOptimizer]:
    """Builds an optimizer of pairs of names and tensors, with its options by keyword: the one place that knows how."""

    def optimizer_of(tensors: Any, **options: Any) -> ZerothOrderOptimizer:
        pairs = [(name, torch.nn.Parameter(tensor.detach(), requires_grad=False)) for name, tensor in tensors]
        return ZerothOrderOptimizer(pairs, **options)

    return optimizer_of


@pytest.fixture(scope="session")
def checkpoint_of() -> Callable[..., dict[str, Any]]:
    """Builds what a checkpoint of an optimizer's state holds, with whatever is given by name changed."""

    def checkpoint_of(optimizer: ZerothOrderOptimizer, **changes: Any) -> dict[str, Any]:
        tensors = dict(zip(optimizer.names, optimizer.parameters, strict=True))
        content: dict[str, Any] = {
            "global_step": optimizer.round,
            "state_dict": {f"network.{name}": p.detach().clone() for name, p in tensors.items()},
            "optimizer_states": [copy.deepcopy(optimizer.state_dict())],
            "lr_schedulers": [],
            "callbacks": {},
            **changes,
        }
        shapes = {name: list(p.shape) for name, p in tensors.items()}
        facts = RunFacts({}, shapes, "0" * 64)
        found = state_digest(content, list(shapes))
        return {**content, checkpoint.KEY: facts_as_data(facts, Counters(Traffic().state_dict()), found)}

    return checkpoint_of


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens are kept in a folder of the session's own, not among the user's."""
    before = os.environ.get("HISO_PL_CACHE")
    os.environ["HISO_PL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["HISO_PL_CACHE"]
    else:
        os.environ["HISO_PL_CACHE"] = before


@pytest.fixture(scope="module")
def process_settings() -> Iterator[None]:
    """Puts back what the program sets in the process it runs in, for modules of tests that run it in their own."""
    threads, state, offline = torch.get_num_threads(), torch.get_rng_state(), os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    if offline is None:
        del os.environ["HF_HUB_OFFLINE"]
    else:
        os.environ["HF_HUB_OFFLINE"] = offline
