"""A file is whole or not there, and a failure names it and leaves nothing beside it."""

import errno
import os

import pytest
from safetensors import SafetensorError

from hiso_pl.cli.edge import _thread_failed
from hiso_pl.run.whole_file import whole_file


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("old", "new"):
        with whole_file(path) as part:
            part.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left on device: '.*/file'"),
        (SafetensorError("Error while serializing: I/O error"), r"/file cannot be written: Error while serializing"),
        (OSError("disk full"), "^disk full$"),
    ],
)
def test_a_failure_names_the_file_and_leaves_the_old_one_alone(tmp_path, failure, message):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with whole_file(path) as part:
            part.write_text("half")
            raise failure

    with pytest.raises(OSError, match=message):
        write()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_is_written_does_not_go_where_a_link_leads(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("years")
    (tmp_path / "file.part").symlink_to(precious)
    with whole_file(tmp_path / "file") as part:
        part.write_text("new")
    assert (precious.read_text(), (tmp_path / "file").read_text()) == ("years", "new")
    assert not (tmp_path / "file").is_symlink()


def test_what_cannot_be_opened_is_told_by_its_own_name(tmp_path):
    path = tmp_path / "file"
    (tmp_path / "file.part").mkdir()
    with pytest.raises(IsADirectoryError, match=r"/file'$"), whole_file(path) as part:
        part.write_text("text")


def test_a_system_that_cannot_keep_it_is_asked_before_it_is_moved(tmp_path, monkeypatch):
    path = tmp_path / "file"

    def fsync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"Input/output error: '.*/file'"), whole_file(path) as part:
        part.write_text("text")
    assert not list(tmp_path.iterdir())


def test_a_failed_thread_of_the_curves_is_left_to_be_told_by_the_run(capsys, caplog):
    import threading

    def failure(error):
        return threading.ExceptHookArgs((type(error), error, None, None))

    error = OSError(errno.ENOSPC, "No space left on device")
    _thread_failed(failure(error), [])
    assert capsys.readouterr().err == ""
    assert str(error).endswith("'events.out.tfevents'")
    _thread_failed(failure(ZeroDivisionError("a fault of ours")), [])
    assert "ZeroDivisionError: a fault of ours" in caplog.text
