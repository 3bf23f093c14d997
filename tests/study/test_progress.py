from __future__ import annotations

import io
import json
import logging
import re
import sys
from pathlib import Path

import pytest

from hiso_pl.study.folders import MARK
from hiso_pl.study.grid import Ask, Setting
from hiso_pl.study.progress import Progress, said_once


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Foreseen:
    """Of a strategy only what there will be."""

    foreseen, reached = 4, 1


def asks(root: Path, *, until: int | None = None) -> list[Ask]:
    configuration = {"trainer.max_steps": "100"}
    found = [Setting("HiSo", "", 0.1, seed) for seed in (1, 2, 3)]
    return [Ask(setting, root / setting.folder, (), configuration, until) for setting in found]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("hiso_pl.study.progress.time.monotonic", lambda: now[0])
    return now


def test_lines_say_what_begins_and_ends_and_how_long_the_rest_takes(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = asks(tmp_path)
    with caplog.at_level(logging.INFO), Progress(tmp_path, 1, True) as progress:
        progress.plan(Foreseen(), [first, second, third])  # type: ignore[arg-type]
        progress.begun(first, False)
        clock[0] += 20.0
        first.folder.mkdir(parents=True)
        (first.folder / "summary.json").write_text(json.dumps({"rounds": 100}))
        progress.ended(first, True)
        second.folder.mkdir(parents=True)
        (second.folder / "summary.json").write_text(json.dumps({"rounds": 50}))
        progress.begun(second, True)
        progress.plan(Foreseen(), [second, third])  # type: ignore[arg-type]
        clock[0] += 9.0
        progress.ended(second, False)
    assert [record.getMessage() for record in caplog.records] == [
        "4 runs, 1 of them there already",
        f"{first.folder}: begins",
        f"{first.folder}: complete, 2 of 4, 0:00:40 left",
        f"{second.folder}: goes on to round 100",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO), Progress(tmp_path, 1, False) as progress:
        progress.begun(first, False)
    assert not caplog.records


def test_a_terminal_has_a_bar_with_the_runs_under_way_below_the_lines(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        first, second, _ = asks(tmp_path, until=50)
        with Progress(tmp_path, 2, True) as progress:
            progress.plan(Foreseen(), [first, second])  # type: ignore[arg-type]
            progress.begun(first, False)
            progress.begun(second, False)
            clock[0] += 10.0
            progress.ended(first, True)
            second.folder.mkdir(parents=True)
            (second.folder / "fit.log").write_text(
                f"round 49/100\n{MARK}x\nround 20/100  loss 1\nround 25/100  loss 1\n"
            )
            progress.show([second])
            logging.getLogger("hiso_pl").warning("a line")
            assert progress._bar is not None
            progress._bar.refresh()
        assert handler.stream is terminal
    finally:
        logging.getLogger().removeHandler(handler)
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"runs .* 2/4 0:00:08 left", said)
    assert re.search(r"HiSo/lr-0.1/seed-2 .* 25/50 rounds", said)
    assert re.search(r"[\r\n]a line *\n", said)  # whole, on a line of its own


def test_a_line_that_many_configurations_bring_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    said = logging.getLogger("hiso_pl.cli.overrides")
    terminal = io.StringIO()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with said_once():
            for option in ("alpha=0.5", "alpha=0.5", "minimum=16"):
                said.warning("IID takes the place of Dirichlet; left out: %s", option)
        said.warning("IID takes the place of Dirichlet; left out: %s", "alpha=0.5")
    finally:
        logging.getLogger().removeHandler(handler)
    assert [line.rpartition(" ")[2] for line in terminal.getvalue().splitlines()] == [
        *("alpha=0.5", "minimum=16", "alpha=0.5")
    ]
