"""Runs under attack: what they say of it, how they are gone on with, and what is refused before they begin."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hiso_pl.cli import program as cli
from hiso_pl.federation import SignFlip

BASE = str(Path(__file__).parent / "base.yaml")
ATTACK = "--model.method.attack"
Here = Callable[[list[str], Path], tuple[int, str, Path]]


@pytest.mark.slow
def test_a_run_says_that_it_was_attacked_and_replays_without_the_attack(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    attacked = ["fit", "--config", BASE, ATTACK, "SignFlip", f"{ATTACK}.start", "2"]
    half = [*attacked, "--trainer.max_steps", "6", "--ledger.enabled", "true"]
    status, out, root = here(half, tmp_path / "run")
    assert status == 0, out
    whose = SignFlip().hostile(7, 8).tolist()
    said = "This run is attacked: SignFlip(fraction=0.25, clients=None, start=2), 2 of 8 clients: {}, {}."
    assert out.count(said.format(*whose)) == 1
    first = json.loads((root / "summary.json").read_text())["attack"]
    assert first == {
        "name": "SignFlip",
        "options": {"fraction": 0.25, "clients": None, "start": 2},
        "hostile": 2,
        "hostile_clients": whose,
        "hostile_slots": first["hostile_slots"],
    }
    curve = points(root)
    assert [step for step, _ in curve] == list(range(1, 7))
    assert [value for _, value in curve][:2] == [0.0, 0.0]
    assert sum(value for _, value in curve) == first["hostile_slots"] > 0

    # another attack, or none, is not gone on with
    last = ["--ckpt_path", "last", "--trainer.max_steps", "12"]
    for change, told in (
        ([f"{ATTACK}.start", "3"], r"attack\.init_args\.start was 2 and is 3"),
        ([ATTACK, "Scaling"], r"attack\.class_path was 'hiso_pl.*SignFlip' and is 'hiso_pl.*Scaling'"),
        ([ATTACK, "null"], r"attack\.class_path was 'hiso_pl.*SignFlip' and is absent"),
    ):
        status, out, _ = here([*attacked, *last, *change], root)
        assert status != 0
        assert re.search(told, out), out
    status, out, _ = here([*attacked, *last], root)
    assert status == 0, out
    status, out, whole = here(attacked, tmp_path / "whole")
    assert status == 0, out
    ended = [json.loads((folder / "summary.json").read_text()) for folder in (root, whole)]
    assert ended[0]["digest"] == ended[1]["digest"]
    assert ended[0]["attack"] == ended[1]["attack"]
    assert ended[0]["attack"]["hostile_slots"] > first["hostile_slots"]
    assert points(root) == points(whole)

    capsys.readouterr()
    assert cli.main(["replay", str(root / "rounds.ledger"), "--verify"]) == 0
    assert f"digest {ended[0]['digest']}" in capsys.readouterr().out
    assert cli.main(["report", str(root)]) == 0
    assert "- Attacked in simulation, SignFlip by 2 clients: hiso" in capsys.readouterr().out


def test_an_attack_of_nobody_is_said_to_be_none(here: Here, tmp_path: Path) -> None:
    nobody = ["fit", "--config", BASE, "--trainer.max_steps", "2", ATTACK, "SignFlip", f"{ATTACK}.fraction", "0.05"]
    status, out, root = here(nobody, tmp_path / "run")
    assert status == 0, out
    assert "SignFlip(fraction=0.05, clients=None, start=0) makes none of 8 clients hostile" in out
    assert json.loads((root / "summary.json").read_text())["attack"]["hostile"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([ATTACK, "SignFlip", f"{ATTACK}.clients", "[9]"], "attack.clients=[9] must be below clients=8"),
        ([ATTACK, "ALIE", "--model.method.directions", "client"], "directions='client' must be 'shared'"),
        ([ATTACK, "SignFlip", f"{ATTACK}.fraction", "2"], "attack.fraction=2.0 must be in [0, 1]"),
        ([ATTACK, "Nothing"], "Nothing"),
    ],
)
def test_an_attack_that_cannot_be_is_refused_in_a_line_before_work_begins(
    here: Here, tmp_path: Path, options: list[str], said: str
) -> None:
    status, out, root = here(["fit", "--config", BASE, *options], tmp_path / "run")
    assert status != 0
    [line] = [line for line in out.splitlines() if "hiso-pl: error" in line]
    assert said in line
    assert not root.exists()


def points(root: Path) -> list[tuple[int, float]]:
    """The curve of hostile slots."""
    found = EventAccumulator(str(root), size_guidance={"scalars": 0})
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars("scalar/hostile")]
