import os

import pytest
import torch

from hiso_pl.callbacks import RunFolder
from hiso_pl.run.checkpoint import newest
from hiso_pl.run.folder import held_by_run, write_atomically


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "checkpoints/step=3.ckpt"])
def test_a_folder_with_a_run_is_refused_and_left_as_it_is(stand_in, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("of another run")
    trainer = stand_in.make_trainer(tmp_path, 2)
    with pytest.raises(ValueError, match=r"already holds a run \(.*\): give another folder, or resume") as error:
        trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    assert str(tmp_path) in str(error.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "of another run"


def test_other_files_and_empty_folders_are_no_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "events.out.tfevents.1").touch()
    assert held_by_run(tmp_path) is None
    assert held_by_run(tmp_path / "absent") is None


def test_the_configuration_is_written_and_a_changed_one_kept(stand_in, tmp_path):
    trainer = stand_in.make_trainer(tmp_path, 2)
    trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"
    last = tmp_path / "checkpoints" / "last.ckpt"
    trainer = stand_in.make_trainer(tmp_path, 3)
    next(c for c in trainer.callbacks if isinstance(c, RunFolder)).config_text = "seed: 1\nrounds: 3\n"
    trainer.fit(stand_in.Module(), datamodule=stand_in.Data(), ckpt_path=last)
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\nrounds: 3\n"
    assert (tmp_path / "config.until-round-2.yaml").read_text() == "seed: 1\n"
    trainer = stand_in.make_trainer(tmp_path, 4)
    next(c for c in trainer.callbacks if isinstance(c, RunFolder)).config_text = "seed: 1\nrounds: 3\n"
    trainer.fit(stand_in.Module(), datamodule=stand_in.Data(), ckpt_path=last)
    assert sorted(p.name for p in tmp_path.glob("config*")) == ["config.until-round-2.yaml", "config.yaml"]


def test_the_newest_checkpoint_is_that_of_the_latest_round(tmp_path, optimizer_of, checkpoint_of):
    content = checkpoint_of(optimizer_of([("w", torch.ones(3))]))
    folder = tmp_path / "checkpoints"
    assert newest(tmp_path) is None
    folder.mkdir()
    for date, (name, step) in enumerate({"step=9.ckpt": 9, "step=10.ckpt": 10, "last.ckpt": 10, "a.ckpt": 2}.items()):
        torch.save({**content, "global_step": step}, folder / name)
        os.utime(folder / name, (date, date))
    (folder / "z.ckpt").write_bytes(b"cut short")
    (folder / "z.ckpt.part").write_bytes(b"cut short")
    torch.save([1], folder / "list.ckpt")
    torch.save({**content, "global_step": 99, "code": object.__new__(Evil)}, folder / "code.ckpt")
    assert newest(tmp_path)[0] == folder / "last.ckpt"
    damaged = {**content, "global_step": 11, "state_dict": {"network.w": torch.tensor([1.0, 1.0, 1.0000001])}}
    torch.save(damaged, folder / "step=11.ckpt")
    assert newest(tmp_path)[0] == folder / "last.ckpt"
    os.utime(folder / "step=10.ckpt", (9, 9))
    assert newest(str(tmp_path))[0] == folder / "step=10.ckpt"


class Evil:
    """A class that loading a checkpoint must not make an object of."""


def test_a_write_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "summary.json"
    write_atomically(path, "old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
