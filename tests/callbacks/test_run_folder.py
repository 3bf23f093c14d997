import contextlib
import fcntl
import os

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from hiso_pl.callbacks import RoundLedger, RunFolder
from hiso_pl.data.digits import DigitsData
from hiso_pl.models import DigitsCNN
from hiso_pl.module import FederatedModule
from hiso_pl.run.checkpoint import newest
from hiso_pl.run.folder import held_by_run, write_atomically
from hiso_pl.run.lock import LOCK


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


def at(content, round):
    """The same of another round."""
    [state] = content["optimizer_states"]
    groups = [{**group, "round": round} for group in state["param_groups"]]
    return {**content, "global_step": round, "optimizer_states": [{**state, "param_groups": groups}]}


def test_the_newest_checkpoint_is_that_of_the_latest_round(tmp_path, optimizer_of, checkpoint_of):
    content = checkpoint_of(optimizer_of([("w", torch.ones(3))]))
    folder = tmp_path / "checkpoints"
    assert newest(tmp_path) is None
    folder.mkdir()
    for date, (name, step) in enumerate({"step=9.ckpt": 9, "step=10.ckpt": 10, "last.ckpt": 10, "a.ckpt": 2}.items()):
        torch.save(at(content, step), folder / name)
        os.utime(folder / name, (date, date))
    (folder / "z.ckpt").write_bytes(b"cut short")
    (folder / "z.ckpt.part").write_bytes(b"cut short")
    torch.save([1], folder / "list.ckpt")
    torch.save({**content, "global_step": 99, "code": object.__new__(Evil)}, folder / "code.ckpt")
    assert newest(tmp_path)[0] == folder / "last.ckpt"
    damaged = {**at(content, 11), "state_dict": {"network.w": torch.tensor([1.0, 1.0, 1.0000001])}}
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


@pytest.fixture
def taken(tmp_path):
    """The folder as it is while another process has it."""
    with (tmp_path / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield tmp_path


def test_a_trainer_without_the_program_keeps_to_one_writer_too(stand_in, taken):
    trainer = stand_in.make_trainer(taken, 2)
    with pytest.raises(ValueError, match="is in use by another process"):
        trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    assert [path.name for path in taken.iterdir()] == [LOCK]


def ledger_alone(root):
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=2, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root, callbacks=[RoundLedger()],
    )  # fmt: skip
    trainer.fit(FederatedModule(DigitsCNN(channels=2)), datamodule=DigitsData(clients=4, cohort=2, batch_size=4))


@pytest.mark.usefixtures("process_settings")
def test_so_does_a_ledger_alone(taken):
    with pytest.raises(ValueError, match="is in use by another process"):
        ledger_alone(taken)
    assert [path.name for path in taken.iterdir()] == [LOCK]
    ledger_alone(taken / "other")
    assert not (taken / "other" / LOCK).exists()


@pytest.mark.parametrize("fault", [None, "raise"])
def test_a_trainer_holds_its_folder_for_a_fit_and_no_longer(stand_in, tmp_path, fault):
    seen = []

    class Looking(Callback):
        def on_train_batch_end(self, trainer, *_):
            with (tmp_path / LOCK).open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append(trainer.global_step)

    trainer = stand_in.make_trainer(tmp_path, 2, Looking())
    with contextlib.nullcontext() if fault is None else pytest.raises(OSError, match="out of paper"):
        trainer.fit(stand_in.Module({1: fault}), datamodule=stand_in.Data())
    assert seen == ([1, 2] if fault is None else [1])
    assert not (tmp_path / LOCK).exists()
