"""One writer of a folder, as long as its process lives."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hiso_pl.run import lock
from hiso_pl.run.folder import held_by_run
from hiso_pl.run.lock import LOCK, InUseError, held, hold, none_left, release

HOLDER = """
import os, sys, time
from hiso_pl.run import lock
lock.hold(sys.argv[1])
if sys.argv[2] != "fork" or os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    with none_left():
        yield


def holder(folder: Path, how: str = "", **environment: str) -> subprocess.Popen[str]:
    """Another process that holds a folder by now; with "fork" it has a child that says its number."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    said = int(process.stdout.readline())
    assert (said == process.pid) is (how != "fork")
    process.child = said  # type: ignore[attr-defined]
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    child = process.child  # type: ignore[attr-defined]
    if child != process.pid:
        os.kill(child, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()


def test_a_second_process_is_refused_and_told_of_the_first_and_changes_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path / "run", "some words")
    before = (tmp_path / "run" / LOCK).read_bytes()
    try:
        with pytest.raises(InUseError) as caught:
            hold(tmp_path / "run")
    finally:
        end(process)
    said = str(caught.value)
    assert f"{tmp_path / 'run'} is in use by process {process.pid} on {os.uname().nodename} since 20" in said
    assert "some words" in said
    assert f"kill {process.pid}" in said
    assert "\n" not in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    assert (tmp_path / "run" / LOCK).read_bytes() == before


def test_it_dies_with_its_process_and_what_is_left_is_no_run(tmp_path: Path) -> None:
    end(holder(tmp_path))
    assert (tmp_path / LOCK).exists()
    assert held_by_run(tmp_path) is None
    assert hold(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_child_that_outlives_a_killed_process_does_not_hold_on(tmp_path: Path) -> None:
    """As workers of a data loader: they are forked, and inherit every open file."""
    process = holder(tmp_path, "fork")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        assert hold(tmp_path)
    finally:
        end(process)


def test_a_child_that_ends_does_not_let_go_for_its_parent(tmp_path: Path) -> None:
    hold(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release(tmp_path)
        os._exit(0)
    os.waitpid(child, 0)
    asked = [sys.executable, "-c", "import sys; from hiso_pl.run import lock; lock.hold(sys.argv[1])", str(tmp_path)]
    second = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert f"in use by process {os.getpid()}" in second.stderr


def test_the_same_process_may_ask_again_and_lets_go_once(tmp_path: Path) -> None:
    assert hold(tmp_path / "run")
    assert not hold(tmp_path / "x" / ".." / "run")
    with held(tmp_path / "run"):
        pass
    with pytest.raises(InUseError):
        _in_another(tmp_path / "run")
    release(tmp_path / "run")
    release(tmp_path / "run")
    _in_another(tmp_path / "run")


def _in_another(folder: Path) -> None:
    """Asks as another process would: by another open file."""
    mine, lock._held = lock._held, {}
    try:
        hold(folder)
        release(folder)
    finally:
        lock._held = mine


def test_nothing_is_left_of_a_folder_that_nothing_was_written_into(tmp_path: Path) -> None:
    with held(tmp_path / "runs" / "a"):
        (tmp_path / "runs" / "b").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "b"]
    with held(tmp_path / "runs" / "b"):
        pass
    assert (tmp_path / "runs" / "b").is_dir()  # it was there before


def test_one_who_is_at_the_old_file_as_it_is_removed_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, its holder lets go and removes it, and a third takes the next."""
    real: Any = fcntl.flock
    third: list[int] = []

    def flock(fd: int, how: int) -> None:
        if not third:
            third.append(0)
            (tmp_path / LOCK).unlink()
            third[0] = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
            real(third[0], fcntl.LOCK_EX)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InUseError, match="another process"):
        hold(tmp_path)
    os.close(third[0])
    hold(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert hold(tmp_path / "run")
    assert not hold(tmp_path / "run")
    assert caplog.text.count("cannot be locked") == 1
    release(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "fifo", "folder"])
def test_what_lies_in_its_place_is_not_written_to(tmp_path: Path, kind: str) -> None:
    """A folder from elsewhere may bring its own."""
    (tmp_path / "run").mkdir()
    mine, path = tmp_path / "mine", tmp_path / "run" / LOCK
    mine.write_text("mine")
    made = {
        "link": path.symlink_to,
        "link to nothing": lambda _: path.symlink_to(tmp_path / "nothing"),
        "hard link": path.hardlink_to,
        "fifo": lambda _: os.mkfifo(path),
        "folder": lambda _: path.mkdir(),
    }
    made[kind](mine)
    with pytest.raises((ValueError, OSError), match=LOCK):
        hold(tmp_path / "run")
    assert mine.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()
    assert path.lstat()


@pytest.mark.parametrize(
    "words",
    [b"", b"{", b"[" * 4096, b"\xff" * 50, b'{"pid": 1e400}', b'{"pid": true, "host": 3}', b'{"pid": "\x1b[2J"}'],
)
def test_what_another_says_of_itself_is_not_believed_or_repeated(tmp_path: Path, words: bytes) -> None:
    with (tmp_path / LOCK).open("wb") as file:
        file.write(words)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InUseError, match="by another process, which holds") as caught:
            hold(tmp_path)
    assert str(caught.value).isprintable()


def test_an_earlier_attempt_of_the_same_launch_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "a", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    process = holder(tmp_path, **torchrun)
    for key, value in torchrun.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(lock, "PATIENCE_S", 0.2)
    try:
        with pytest.raises(InUseError, match=f"process {process.pid}"):
            hold(tmp_path)
        assert "is waited for" in caplog.text
        monkeypatch.setattr(lock, "PATIENCE_S", 60.0)
        began = time.monotonic()
        killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({process.pid}, 9)"])
        assert hold(tmp_path)
        killer.wait()
        assert time.monotonic() - began < 30
    finally:
        end(process)
