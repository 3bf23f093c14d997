"""What all tests, and the processes they start, have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


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
