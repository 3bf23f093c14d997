"""The wheel that the source archive makes, installed into an environment of its own and run from an empty folder.

The environment has the packages of the one that runs the tests by a ``.pth`` file, so nothing is downloaded; a clone
that is installed there editably is not among them, as that is a ``.pth`` file's own doing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

import hiso_pl
from hiso_pl import presets

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
BUILD = """\
import os, sys, tarfile
from hatchling import build
folder = sys.argv[1]
source = os.path.join(folder, build.build_sdist(folder))
tarfile.open(source).extractall(folder, filter="data")
os.chdir(source.removesuffix(".tar.gz"))
print(build.build_wheel(folder))
"""
WHERE = """\
import hiso_pl
from hiso_pl import presets
print(hiso_pl.__file__)
print(*(presets.find(name, room="method").path for name in ("hiso", "mezo")), sep="\\n")
"""
OWN = """\
from hiso_pl.zeroth_order.update_rule import Sgd


class MyRule(Sgd):
    pass
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a command of the environment in an empty folder, and returns what it prints."""
    folder = tmp_path_factory.mktemp("installed")
    built = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "-q"]
    wheel = folder / built.stdout.split()[-1]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    site.joinpath("packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path_factory.mktemp("empty")
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / command[0]), *command[1:]],
            env={**plain, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HISO_PL_CACHE": str(folder / "cache")},
            cwd=empty,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run.folder = empty  # type: ignore[attr-defined]
    return run


def test_it_is_the_wheel_that_runs_and_it_knows_its_version_and_presets(installed: Callable[..., str]) -> None:
    where, *methods = installed("python", "-c", WHERE).splitlines()
    assert not Path(where).is_relative_to(ROOT)
    assert [Path(method).relative_to(Path(where).parent).as_posix() for method in methods] == [
        "configs/method/hiso.yaml",
        "configs/method/mezo.yaml",
    ]
    assert installed("hiso-pl", "--version").split() == ["hiso-pl", hiso_pl.__version__]
    listed = installed("hiso-pl", "configs")
    assert [line.split()[0] for line in listed.splitlines() if line and line[0] != "#"] == presets.names()
    assert installed("hiso-pl", "configs", "show", "paper/opt-1.3b_sst2_hiso") == presets.text(
        "paper/opt-1.3b_sst2_hiso"
    )


def test_the_quickstart_runs_by_its_name_with_a_part_from_the_current_folder(installed: Callable[..., str]) -> None:
    folder = installed.folder  # type: ignore[attr-defined]
    (folder / "mine.py").write_text(OWN)
    fit = ["fit", "--config", "quickstart", "--trainer.max_steps", "3", "--trainer.default_root_dir", "run"]
    installed("python", "-m", "hiso_pl", *fit, "--model.method.update_rule", "mine.MyRule")
    assert json.loads((folder / "run" / "summary.json").read_text())["rounds"] == 3
    assert "mine.MyRule" in (folder / "run" / "config.yaml").read_text()
