"""The README's commands, in their order, in a clean shell: in a copy of the clone, with an environment of its own.

Blocks of ``bash`` are run, those of ``sh`` need a hub, GPUs or more machines, and what they name is resolved. So that
it takes minutes, runs are cut to a few rounds, ranks to two and a diagnosis to few probes; with
``HISO_PL_README=whole`` nothing is changed.
The second command is the suite itself, and is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WHOLE = os.environ.get("HISO_PL_README") == "whole"
FEW = " --trainer.max_steps 8 --trainer.val_check_interval 4"
ENTRY = "import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
STAMP = "source <(sed '$d' launch/environment.sh); root=$PWD; _hiso_pl_stamp > .venv/hiso_pl-installed.toml"
SERVED = 60
MAKES = {
    "export": "exported/config.json",
    "predict": "runs/mine/predictions.jsonl",
    "study": "runs/study/study.md",
    "report": "runs/report/report.html",
}
"""What is there after a command."""


def blocks(language: str) -> list[str]:
    """The README's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands(language: str) -> list[str]:
    """The commands of all blocks, each as printed."""
    joined = "".join(blocks(language)).replace("\\\n", "")
    lines = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def shortened(command: str) -> str:
    """A command with fewer rounds and ranks."""
    if WHOLE:
        return command
    command = re.sub(r"--nproc \d", "--nproc 2", command)
    if "quickstart.sh" in command:
        return f"NPROC=2 {command}{FEW}"
    if "small_language --output" in command:
        return f"{command} --steps 5"
    if "hiso-pl diagnose" in command:
        return f"{command} --exact false --probes 4"
    if "--trainer.max_steps" in command:
        return re.sub(r"--trainer.max_steps \d+", FEW.strip(), command)
    return command + FEW if " fit --config" in command and "--ckpt_path" not in command else command


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the clone, with a ``.venv`` that takes its packages from the environment of the tests."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    shown = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, shown.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    venv.create(folder / ".venv", symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / ".venv")}))
    site.joinpath("packages.pth").write_text(f"{folder}\n{sysconfig.get_path('purelib')}\n")
    for name, module, function in (
        ("hiso-pl", "hiso_pl.__main__", "main"),
        ("tensorboard", "tensorboard.main", "run_main"),
    ):
        script = folder / ".venv" / "bin" / name
        script.write_text(f"#!{folder / '.venv' / 'bin' / 'python'}\n" + ENTRY.format(module=module, function=function))
        script.chmod(0o755)
    subprocess.run(["bash", "-c", STAMP], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def shell(clone: Path) -> Iterator[subprocess.Popen[str]]:
    """A clean shell in the clone."""
    plain = {name: os.environ[name] for name in ("HOME", "PATH", "LANG", "TMPDIR") if name in os.environ}
    quiet = {"HF_HUB_OFFLINE": "1", "HISO_PL_CACHE": str(clone.parent / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=clone,
        env=plain | quiet,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


def run(shell: subprocess.Popen[str], command: str) -> str:
    """What a command of the shell prints, which must end well."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{command}\necho status=$?\n")
    shell.stdin.flush()
    said: list[str] = []
    for line in shell.stdout:
        if line.startswith("status="):
            assert line == "status=0\n", f"{command}\n{''.join(said)[-3000:]}"
            break
        said.append(line)
    return "".join(said)


def serve(shell: subprocess.Popen[str], command: str) -> None:
    """Starts a server of the shell's, asks it for its page and ends it."""
    printed = run(shell, f"{command} --port 0 > served.log 2>&1 & echo $!; sleep 0")
    log, waited = Path(f"/proc/{shell.pid}/cwd/served.log").resolve(), time.monotonic() + SERVED
    try:
        while not (at := re.search(r"http://\S+", log.read_text() if log.exists() else "")):
            assert time.monotonic() < waited, log.read_text()
            time.sleep(0.5)
        assert "TensorBoard" in urllib.request.urlopen(at[0], timeout=SERVED).read().decode()
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(printed.split()[-1]), 15)


@pytest.mark.slow
@pytest.mark.timeout(3600 if WHOLE else 600)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("command", [command for command in commands("bash") if command != "bash launch/test.sh"])
def test_a_command_runs_as_printed_behind_those_before_it(
    clone: Path, shell: subprocess.Popen[str], command: str
) -> None:
    if command.startswith("tensorboard"):
        serve(shell, command)
        return
    said = run(shell, shortened(command))
    assert "verified" in said or not command.endswith("--verify")
    for name, made in MAKES.items():
        assert f"hiso-pl {name} " not in command or (clone / made).is_file()


def test_what_needs_a_hub_or_more_machines_names_what_there_is() -> None:
    from hiso_pl import presets

    lines = commands("sh")
    assert lines
    for line in lines:
        for name in re.findall(r"--config (\S+)", line):
            assert presets.find(name).path is None or presets.find(name).text
        for script in re.findall(r"launch/\S+", line):
            assert (ROOT / script).is_file()


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    assert len(README.splitlines()) <= 280
    assert commands("bash")[:2] == ["bash launch/quickstart.sh", "bash launch/test.sh"]


def test_python_in_it_runs() -> None:
    import torch

    torch.manual_seed(1)
    inputs, targets = torch.randn(8, 4), torch.arange(8) % 2
    for block in blocks("python"):
        known = {"model": torch.nn.Linear(4, 2), "criterion": torch.nn.functional.cross_entropy}
        exec(block, {**known, "inputs": inputs, "targets": targets})
