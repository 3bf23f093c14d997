"""The versions that are installed, those that are stated, and the environment that is made from them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STATED = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]
PLACES = [
    {"python_version": f"3.{minor}", "platform_system": system, "platform_machine": machine}
    for minor in range(10, 14)
    for system, machine in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
]

# a Python in whose environment nothing is installed: it keeps what pip was told, and the constraints
PIP = """#!/bin/bash
if [[ "$*" == "-m pip install "* ]]; then
    echo "$*" >>"$CALLS"
    while [[ "$1" != -c ]]; do shift; done
    cp "$2" "$CALLS.pins"
fi
"""


def binding(lines, place):
    """Constraints that bind in a place, by canonical name."""
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found = [pin for pin in found if pin.marker is None or pin.marker.evaluate(place)]
    assert len({canonicalize_name(pin.name) for pin in found}) == len(found)
    return {canonicalize_name(pin.name): pin for pin in found}


def check_direct(pins, place):
    """Every direct dependency has a version, which its stated range allows; returns the versions."""
    versions = {}
    for stated in STATED:
        if stated.marker is None or stated.marker.evaluate(place):
            (pin,) = pins[canonicalize_name(stated.name)].specifier
            assert pin.operator == "=="
            assert stated.specifier.contains(pin.version), (str(stated), str(pin))
            versions[stated.name] = pin.version
    return versions


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "-".join(place.values()))
def test_constraints_are_exact_versions_that_the_stated_ranges_allow(place):
    pins = binding((ROOT / "launch/constraints.txt").read_text().splitlines(), place)
    check_direct(pins, place)
    for pin in pins.values():
        assert re.fullmatch(r"==[0-9.]+", str(pin.specifier)), "no range, and no local version that the index lacks"
        assert not pin.extras


@pytest.fixture
def environment(tmp_path):
    """Sources launch/environment.sh with a Python that installs nothing."""
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    calls = tmp_path / "calls"

    def source(constraints=None):
        calls.write_text("")
        variables = {**os.environ, "HISO_PL_VENV": str(tmp_path / "venv"), "CALLS": str(calls)}
        variables.pop("HISO_PL_CONSTRAINTS", None)
        if constraints is not None:
            variables["HISO_PL_CONSTRAINTS"] = str(constraints)
        done = subprocess.run(
            ["bash", "-euc", 'source "$0"', str(ROOT / "launch/environment.sh")],
            env=variables,
            capture_output=True,
            text=True,
        )
        pins = Path(f"{calls}.pins")
        return done, calls.read_text().splitlines(), pins.read_text() if pins.exists() else None

    return source


def test_the_environment_is_made_anew_for_other_constraints_and_only_then(environment, tmp_path):
    pinned = (ROOT / "launch/constraints.txt").read_text()
    done, (call,), pins = environment()
    assert done.returncode == 0, done.stderr
    assert call.endswith(f"-e {ROOT}[test]")
    assert pins == pinned
    assert environment()[1] == []
    assert environment(ROOT / "launch/constraints.txt")[1] == []  # the same versions

    _, (call,), pins = environment("none")
    assert "--upgrade-strategy eager" in call
    assert pins == ""
    assert environment("none")[1] == []

    own = tmp_path / "own.txt"
    for text in ("numpy==2.1.0\n", "numpy==2.1.1\n"):
        own.write_text(text)
        _, calls, pins = environment(own)
        assert len(calls) == 1
        assert pins == text
    assert environment()[2] == pinned


def test_the_oldest_versions_are_the_lower_ends_that_are_stated(environment):
    lines = environment("oldest")[2].splitlines()
    for place in PLACES:
        for name, version in check_direct(binding(lines, place), place).items():
            (stated,) = (s for s in STATED if s.name == name)
            assert f">={version}" in str(stated.specifier).split(",")


def test_constraints_that_are_not_there_are_refused(environment, tmp_path):
    done, calls, _ = environment(tmp_path / "nowhere.txt")
    assert done.returncode != 0
    assert calls == []
    assert f"HISO_PL_CONSTRAINTS={tmp_path}/nowhere.txt must be a file that can be read, none or oldest" in done.stderr


def test_versions_are_newest_or_oldest():
    done = subprocess.run(["bash", str(ROOT / "launch/versions.sh"), "latest"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "hiso_pl: 'latest' must be newest or oldest\n")
