"""Validations are the same whether a run goes through or is stopped and resumed."""

import json
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hiso_pl.callbacks import CompleteValidation, DeferredSignals, TensorBoardPanels
from hiso_pl.zeroth_order.digest import digest


def fit(stand_in, root, rounds, *, faults=None, ckpt=None, callbacks=(), **options):
    history, memory = stand_in.History(), stand_in.Memory()
    trainer = stand_in.make_trainer(root, rounds, history, *callbacks, logger=memory, **options)
    module = stand_in.Module(faults)
    error = None
    try:
        trainer.fit(module, datamodule=stand_in.Data(), ckpt_path=ckpt)
    except OSError as problem:
        error = problem
    assert (error is not None) == ("raise" in (faults or {}).values())
    return trainer, history.seen, memory.points, digest(trainer.optimizers[0])


def every(n):
    return ModelCheckpoint(every_n_train_steps=n, save_top_k=-1, filename="{step}", auto_insert_metric_name=True)


@pytest.fixture(scope="module")
def straight(stand_in, tmp_path_factory):
    root = tmp_path_factory.mktemp("straight")
    _, seen, points, final = fit(stand_in, root, 7)
    assert [round for round, _ in seen] == [0, 3, 6, 7]
    assert {step for name, step in points if name == "val/loss"} == {2, 5, 6}
    return seen, points, final, json.loads((root / "summary.json").read_text())


@pytest.mark.parametrize("at", [3, 4, 6])
def test_after_a_crash_the_checkpoint_of_a_validation_round_is_made_whole(stand_in, straight, tmp_path, at):
    checkpoint = every(at)
    checkpoint.dirpath = str(tmp_path / "checkpoints")
    # the next round does not happen: as with a kill, nothing is written after the checkpoint of round `at`
    _, _, first, _ = fit(stand_in, tmp_path, 7, faults={at: "raise"}, callbacks=[checkpoint], enable_checkpointing=True)
    path = stand_in.newest(tmp_path)
    assert torch.load(path, weights_only=True)["global_step"] == at
    _, seen, second, final = fit(stand_in, tmp_path, 7, ckpt=path)
    assert (seen, final) == (straight[0], straight[2])
    assert {**first, **second} == straight[1]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"] == straight[3]["metrics"]
    assert summary["digest"] == straight[3]["digest"]
    assert summary["comm"] == straight[3]["comm"]


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("kind", ["term", "int"])
def test_an_interrupt_ends_after_its_round_and_resumes_as_if_it_had_not_been(stand_in, straight, tmp_path, at, kind):
    before = signal.getsignal(signal.SIGTERM)
    trainer, interrupted, first, _ = fit(stand_in, tmp_path, 7, faults={at - 1: kind})
    assert trainer.global_step == at
    assert trainer.max_steps == 7
    assert signal.getsignal(signal.SIGTERM) == before
    assert at not in [round for round, _ in interrupted]
    assert json.loads((tmp_path / "summary.json").read_text())["interrupted"] is True
    path = stand_in.newest(tmp_path)
    assert path.name == "last.ckpt"
    trainer, seen, second, final = fit(stand_in, tmp_path, 7, ckpt=path)
    assert trainer.global_step == 7
    assert (seen, final) == (straight[0], straight[2])
    assert {**first, **second} == straight[1]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"] == straight[3]["metrics"]
    assert summary["interrupted"] is False


@pytest.mark.parametrize("at", [3, 4, 6])
def test_a_run_stops_where_a_study_asks_it_to_with_its_validation(stand_in, straight, tmp_path, at, monkeypatch):
    """Asked again it makes up for nothing and does no round; gone on with it ends as if it had never stopped."""
    monkeypatch.setenv("HISO_PL_STOP_AFTER", str(at))
    _, stopped, first, _ = fit(stand_in, tmp_path, 7)
    assert [round for round, _ in stopped] == [0, *([3] if at >= 3 else []), *([6] if at >= 6 else [])]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rounds"], summary["interrupted"]) == (at, True)
    trainer, again, _, _ = fit(stand_in, tmp_path, 7, ckpt=stand_in.newest(tmp_path))
    assert (trainer.global_step, again) == (at, stopped)
    monkeypatch.delenv("HISO_PL_STOP_AFTER")
    _, seen, second, final = fit(stand_in, tmp_path, 7, ckpt=stand_in.newest(tmp_path))
    assert (seen, final) == (straight[0], straight[2])
    assert {**first, **second} == straight[1]


def test_three_interrupts_in_one_run(stand_in, straight, tmp_path):
    points, path = {}, None
    for at in (2, 3, 5):
        _, _, some, _ = fit(stand_in, tmp_path, 7, faults={at - 1: "term"}, ckpt=path)
        points, path = {**points, **some}, stand_in.newest(tmp_path)
    _, seen, some, final = fit(stand_in, tmp_path, 7, ckpt=path)
    assert (seen, final, {**points, **some}) == (straight[0], straight[2], straight[1])


def test_a_wish_in_the_last_round_changes_nothing(stand_in, straight, tmp_path):
    _, seen, points, final = fit(stand_in, tmp_path, 7, faults={6: "term"})
    assert (seen, points, final) == straight[:3]
    assert json.loads((tmp_path / "summary.json").read_text())["interrupted"] is False


def test_a_run_killed_between_its_last_checkpoint_and_its_end_is_finished_by_a_resume(stand_in, straight, tmp_path):
    checkpoint = every(7)
    checkpoint.dirpath = str(tmp_path / "checkpoints")

    class Killed(CompleteValidation):
        def on_train_end(self, trainer, pl_module):
            raise OSError("killed")

    killed = Killed()
    killed.position = 5
    history = stand_in.History()
    trainer = stand_in.make_trainer(tmp_path, 7, history, checkpoint, killed, enable_checkpointing=True)
    with pytest.raises(OSError, match="killed"):
        trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    assert not (tmp_path / "summary.json").exists()
    trainer, seen, _, final = fit(stand_in, tmp_path, 7, ckpt=stand_in.newest(tmp_path))
    assert (seen, final) == (straight[0], straight[2])
    assert json.loads((tmp_path / "summary.json").read_text())["metrics"] == straight[3]["metrics"]
    # and a finished run, resumed, is gone through without a round, and without another validation
    trainer, seen, points, final = fit(stand_in, tmp_path, 7, ckpt=tmp_path / "checkpoints" / "last.ckpt")
    assert (seen, points, final) == (straight[0], {}, straight[2])


def test_a_finished_run_can_go_on_to_more_rounds(stand_in, tmp_path):
    _, seen, _, _ = fit(stand_in, tmp_path / "a", 7)
    _, more, points, final = fit(stand_in, tmp_path / "a", 9, ckpt=tmp_path / "a" / "checkpoints" / "last.ckpt")
    _, whole, expected, whole_final = fit(stand_in, tmp_path / "b", 9)
    assert final == whole_final
    assert more == [*seen, whole[-1]]  # the end of the first part stays in its history
    assert points == {key: value for key, value in expected.items() if key[1] > 6}


def test_a_checkpoint_written_in_a_validation_is_not_validated_again(stand_in, straight, tmp_path):
    folder = str(tmp_path / "checkpoints")
    best = ModelCheckpoint(folder, monitor="val/loss", mode="max", save_top_k=-1, filename="{step}")
    fit(stand_in, tmp_path, 7, faults={4: "raise"}, callbacks=[best], enable_checkpointing=True)
    path = stand_in.newest(tmp_path)
    assert torch.load(path, weights_only=True)["global_step"] == 3
    _, seen, points, final = fit(stand_in, tmp_path, 7, ckpt=path)
    assert (seen, final) == (straight[0], straight[2])
    assert points == {key: value for key, value in straight[1].items() if key[1] > 2}


def test_a_best_checkpoint_of_a_made_up_validation_keeps_the_loggers_step(stand_in, straight, tmp_path):
    fit(stand_in, tmp_path, 7, faults={2: "term"})
    best = ModelCheckpoint(str(tmp_path / "best"), monitor="val/loss", mode="max", save_top_k=-1, filename="{step}")
    fit(
        stand_in, tmp_path, 7, faults={4: "raise"}, ckpt=stand_in.newest(tmp_path), callbacks=[best],
        enable_checkpointing=True,
    )  # fmt: skip
    _, seen, points, final = fit(stand_in, tmp_path, 7, ckpt=tmp_path / "best" / "step=3.ckpt")
    assert (seen, final) == (straight[0], straight[2])
    assert points == {key: value for key, value in straight[1].items() if key[1] > 2}


def test_validation_alone_keeps_pythons_own_handlers(stand_in, tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    trainer = stand_in.make_trainer(tmp_path, 2)
    module = stand_in.Module()
    handlers = {}
    module.validation_step = lambda batch, batch_idx: handlers.update(
        {number: signal.getsignal(number) for number in before}
    )
    trainer.validate(module, datamodule=stand_in.Data(), verbose=False)
    assert handlers == before
    assert not any(Path(tmp_path).iterdir())


def test_signals_are_given_back_after_an_exception(stand_in, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    trainer, *_ = fit(stand_in, tmp_path, 3, faults={1: "raise"})
    assert signal.getsignal(signal.SIGINT) == before
    assert not next(c for c in trainer.callbacks if isinstance(c, DeferredSignals)).interrupted
    assert not list(tmp_path.glob("checkpoints/*.ckpt"))
    assert not (tmp_path / "summary.json").exists()


def test_forwards_are_counted_on_over_a_resume(stand_in, tmp_path):
    """Two clients with P + 1 = 3 forwards each."""
    found = {}
    for faults, at in (({2: "term"}, None), (None, tmp_path / "checkpoints" / "last.ckpt")):
        memory = stand_in.Memory()
        trainer = stand_in.make_trainer(tmp_path, 5, TensorBoardPanels(), logger=memory)
        trainer.fit(stand_in.Module(faults), datamodule=stand_in.Data(), ckpt_path=at)
        found |= {step: value for (name, step), value in memory.points.items() if name == "cost/forwards"}
    assert found == {done: done * 2 * 3 for done in range(1, 6)}
