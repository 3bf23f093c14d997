"""Whatever ends the program, it says so in one line and with a status that is not 0; of bugs the traceback is kept."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
import threading

import pytest
from lightning.pytorch import Callback

from hiso_pl.cli import program as cli
from hiso_pl.ranks import process
from hiso_pl.run.folder import held_by_run

from .conftest import environment as variables
from .conftest import of_class

pytestmark = pytest.mark.usefixtures("process_settings")

SHORT = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2")


class Failing(Callback):
    """Fails in a hook, as a bug or a plug-in may.

    Args:
        kind: What it fails by.
        hook: Where.
    """

    def __init__(self, kind: str, hook: str = "on_train_batch_start") -> None:
        self.kind = kind
        setattr(self, hook, self.fail)

    def fail(self, *_: object) -> None:
        if self.kind == "RecursionError":
            self.fail()
        error = {
            "IndexError": IndexError("list index out of range"),
            "OverflowError": OverflowError("(34, 'Numerical result out of range')"),
            "ZeroDivisionError": ZeroDivisionError("division by zero"),
            "AttributeError": AttributeError("no such thing\nand more of it"),
            "KeyError": KeyError("weight"),
            "AssertionError": AssertionError(),
            "SystemExit(text)": SystemExit("out of paper"),
            "SystemExit(0)": SystemExit(0),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "MemoryError": MemoryError("no room"),
            "SystemExit(3)": SystemExit(3),
            "GeneratorExit": GeneratorExit(),
            "StopIteration": StopIteration(),
        }[self.kind]
        raise error


KEPT = r" \(its traceback is in .*/run/traceback\.txt\)"
LINES = {
    "IndexError": "IndexError: list index out of range" + KEPT,
    "OverflowError": r"OverflowError: \(34, 'Numerical result out of range'\)" + KEPT,
    "ZeroDivisionError": "ZeroDivisionError: division by zero" + KEPT,
    "AttributeError": "AttributeError: no such thing and more of it" + KEPT,
    "KeyError": "KeyError: 'weight'" + KEPT,
    "AssertionError": "AssertionError" + KEPT,
    "RecursionError": "RecursionError: maximum recursion depth exceeded.*" + KEPT,
    "SystemExit(text)": "SystemExit: out of paper" + KEPT,
    "SystemExit(0)": r"SystemExit: something ended the program by sys\.exit\(0\)" + KEPT,
    "SystemExit(3)": r"SystemExit: something ended the program by sys\.exit\(3\)" + KEPT,
    "GeneratorExit": "GeneratorExit" + KEPT,
    "StopIteration": "RuntimeError: StopIteration was let out by a hook.*" + KEPT,
    # these say all that there is to say
    "KeyboardInterrupt": "interrupted",
    "MemoryError": "no room",
}


@pytest.fixture
def said(base, capsys):
    """The status of a run, and what it wrote to stderr."""

    def said(root, *args: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        status = cli.main([*base, *SHORT, "--trainer.default_root_dir", str(root), *args])
        return status, capsys.readouterr().err.splitlines()

    return said


def failing(kind: str, **more: str) -> tuple[str, str]:
    return "--trainer.callbacks+", of_class(f"{Failing.__module__}.Failing", kind=kind, **more)


@pytest.mark.parametrize("kind", LINES)
def test_every_class_of_error_is_one_line(said, tmp_path, kind):
    root = tmp_path / "run"
    status, lines = said(root, *failing(kind))
    assert status == (130 if kind == "KeyboardInterrupt" else 1)
    assert not [line for line in lines if line.startswith("Traceback")]
    [line] = [line for line in lines if "hiso-pl" in line]
    assert re.fullmatch("hiso-pl: error: " + LINES[kind], line), line
    path = root / "traceback.txt"
    assert path.exists() == LINES[kind].endswith(KEPT)
    if path.exists():
        text = path.read_text()
        assert text.splitlines()[0].endswith(f"--trainer.callbacks+ '{failing(kind)[1]}'")
        assert "Traceback (most recent call last)" in text
        assert ", in fail\n" in text


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "hook",
    ["on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_validation_batch_end"],
)
def test_a_stop_iteration_is_no_end_of_the_data(said, tmp_path, hook):
    status, lines = said(tmp_path / "run", *failing("StopIteration", hook=hook))
    assert status == 1
    [line] = [line for line in lines if line.startswith("hiso-pl: error")]
    assert "StopIteration was let out by a hook, a step or an example" in line


def test_a_traceback_is_shown_where_it_is_asked_for(said, tmp_path):
    for asked in (["--traceback", "true"], ["--traceback=True"]):
        status, lines = said(tmp_path / "run", *failing("IndexError"), *asked, "--ckpt_path", "auto")
        assert status == 1
        assert "Traceback (most recent call last):" in lines
        assert lines[-1] == "hiso-pl: error: IndexError: list index out of range"
    config = tmp_path / "more.yaml"
    config.write_text("traceback: true\n")
    _, lines = said(tmp_path / "other", *failing("MemoryError"), "--config", str(config))
    assert lines[-2:] == ["MemoryError: no room", "hiso-pl: error: no room"]


def test_how_to_go_on_follows_the_line_where_rounds_are_kept(said, tmp_path):
    root = tmp_path / "a run"
    status, lines = said(root, *failing("IndexError", hook="on_validation_end"), "--trainer.num_sanity_val_steps", "0")
    assert status == 1
    assert lines[-2].startswith("hiso-pl: error: IndexError")
    told = re.fullmatch(r"hiso-pl: go on with: .*(?:hiso-pl|hiso_pl) (fit .*)", lines[-1])
    args = shlex.split(told[1])
    assert args == ["fit", "--config", str(root / "config.yaml"), "--ckpt_path", "last"]
    assert cli.main([*args, "--trainer.callbacks", "null"]) == 0
    assert said(root)[1][-1].endswith("resume it with --ckpt_path last")  # and no rounds of this process


def test_no_folder_is_made_for_a_traceback(said, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "configure", lambda *_: 1 // 0)
    status, lines = said(tmp_path / "run")
    assert status == 1
    said_last = "hiso-pl: error: ZeroDivisionError: integer division or modulo by zero (--traceback true shows where)"
    assert lines[-1] == said_last
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_traceback_holds_no_run(said, tmp_path):
    root = tmp_path / "run"
    status, _ = said(root, *failing("IndexError", hook="on_fit_start"))
    assert status == 1
    assert (root / "traceback.txt").exists()
    assert held_by_run(root) is None
    assert said(root)[0] == 0


def test_an_interrupt_before_a_run_is_one_line(capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_call", interrupt)
    assert cli.main(["fit"]) == 130
    assert capsys.readouterr().err == "hiso-pl: error: interrupted\n"


@pytest.mark.parametrize("args", [["--help"], ["fit", "--help"], ["--version"], ["bench", "--help"]])
def test_an_answer_is_no_error(args, capsys):
    assert cli.main(args) == 0
    told = capsys.readouterr()
    assert told.out
    assert "error" not in told.err


def test_a_thread_that_fails_is_one_line(capsys, caplog, monkeypatch):
    def fail() -> None:
        raise IndexError("list index out of range")

    def run(_: object) -> None:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    monkeypatch.setattr(cli, "_call", run)
    with caplog.at_level(logging.ERROR):
        assert cli.main(["fit"]) == 0
    assert [record.message for record in caplog.records] == ["A thread failed: IndexError: list index out of range"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_has_gone_is_one_line(said, tmp_path):
    root = tmp_path / "run"
    assert said(root)[0] == 0
    command = [sys.executable, "-m", "hiso_pl", "ledger", str(root / "rounds.ledger")]
    with subprocess.Popen(command, env=variables(), stdout=-1, stderr=-1, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "hiso-pl: error: [Errno 32] Broken pipe\n"
    assert process.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("output", ["|", "2>&1 |", ">&- 2>&-"])
def test_a_run_outlasts_the_reader_of_its_output(base, tmp_path, output):
    args = [*base, *SHORT, "--trainer.enable_progress_bar", "true", "--trainer.default_root_dir", str(tmp_path / "run")]
    reader = "head -c 1" if output.endswith("|") else ""
    line = f"set -o pipefail; {shlex.join([sys.executable, '-m', 'hiso_pl', *args])} {output} {reader}"
    done = subprocess.run(["bash", "-c", line], env=variables(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    if output == "|":
        assert done.stderr.splitlines() == [
            "WARNING: Nobody reads what is printed any more; the run goes on, and its folder tells of it."
        ]
