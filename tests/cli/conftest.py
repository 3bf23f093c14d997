"""The program's own words, heard in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hiso_pl.cli import program

BASE = str(Path(__file__).parents[1] / "end_to_end" / "base.yaml")
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Said:
    """Calls the program: its status, what it wrote, and its errors."""

    def say(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = program.main([*args])
        told = capsys.readouterr()
        return status, told.out, told.err

    return say


@pytest.fixture
def mistake(say: Said) -> Callable[..., str]:
    """What is said of the options of a fit that cannot be understood; nothing is built for it."""

    def mistake(*args: str) -> str:
        status, _, errors = say("fit", "--config", BASE, *args, "--print_config")
        [line] = [line for line in errors.splitlines() if line.startswith("hiso-pl: error: ")]
        assert status == 2, line
        return line.removeprefix("hiso-pl: error: ")

    return mistake
