"""What all tests, and the processes they start, have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


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
