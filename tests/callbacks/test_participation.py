"""Clients that are left out: told once, counted, and too many of them end the run."""

import json
import logging

import pytest

from hiso_pl.callbacks import Participation
from hiso_pl.callbacks.participation import ParticipationError


def test_clients_that_are_left_out_are_told_once_and_counted(stand_in, tmp_path, caplog):
    module = stand_in.Module(faults={1: "nan", 2: "nan", 4: "nans", 5: "nans"})
    with caplog.at_level(logging.WARNING, logger="hiso_pl"):
        stand_in.make_trainer(tmp_path, 7).fit(module, datamodule=stand_in.Data())
    assert [record.message for record in caplog.records] == [
        "Round 2 leaves out 1 of its 2 clients (0): not all of their losses are finite. Further ones are only counted, "
        "as scalar/dropped in TensorBoard and dropped_slots in summary.json.",
        "Round 5 moves nothing, as no client is left.",
    ]
    assert json.loads((tmp_path / "summary.json").read_text())["dropped_slots"] == 6

    caplog.clear()
    last = tmp_path / "checkpoints" / "last.ckpt"
    trainer = stand_in.make_trainer(tmp_path, 9)
    trainer.fit(stand_in.Module(faults={7: "nan"}), datamodule=stand_in.Data(), ckpt_path=last)
    assert json.loads((tmp_path / "summary.json").read_text())["dropped_slots"] == 7
    assert not [record for record in caplog.records if "leaves out" in record.message]


@pytest.mark.parametrize(
    ("faults", "options", "said"),
    [
        ({2: "nans", 3: "nans", 4: "nans"}, {"max_empty_rounds": 3}, "3 rounds in a row, up to round 5, had no client"),
        ({r: "nans" for r in range(7)}, {}, "14 of 14 slots were left out up to round 7"),
        ({r: "nan" for r in range(7)}, {"max_dropped": 0.4}, "7 of 14 slots were left out up to round 7"),
        ({r: "nan" for r in range(7)}, {"max_dropped": 0.4, "max_empty_rounds": 4}, "4 of 8 slots"),
    ],
)
def test_too_many_that_are_left_out_end_the_run(stand_in, tmp_path, faults, options, said):
    trainer = stand_in.make_trainer(tmp_path, 7, participation=Participation(**options))
    with pytest.raises(ParticipationError, match=said):
        trainer.fit(stand_in.Module(faults=faults), datamodule=stand_in.Data())
    summary = json.loads((tmp_path / "summary.json").read_text())  # what it came to can be looked at
    assert summary["rounds"] == trainer.global_step
    if trainer.global_step == 7:  # it ended
        assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
        assert (summary["interrupted"], "stopped" in summary) == (False, False)
    else:
        assert summary["interrupted"]
        assert said in summary["stopped"]


def test_clients_that_do_not_answer_are_no_loss(stand_in, tmp_path, caplog):
    faults = {r: "half" for r in range(7)} | {3: "away", 4: "away"}
    with caplog.at_level(logging.WARNING, logger="hiso_pl"):
        stand_in.make_trainer(tmp_path, 7, participation=Participation(max_empty_rounds=3, max_dropped=0.0)).fit(
            stand_in.Module(faults=faults), datamodule=stand_in.Data()
        )
    assert [r.message for r in caplog.records] == ["Round 4 moves nothing, as too few clients answer."]
    assert json.loads((tmp_path / "summary.json").read_text())["dropped_slots"] == 0


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (
            dict.fromkeys((2, 3, 4), "away"),
            "3 rounds in a row, up to round 5, moved nothing .* clients do not answer: ",
        ),
        (dict.fromkeys((0, 1), "away"), "none of the 2 rounds moved anything, as too few clients answered: see"),
    ],
)
def test_rounds_that_nobody_answers_in_end_the_run(stand_in, tmp_path, faults, said):
    trainer = stand_in.make_trainer(tmp_path, max(faults) + 1, participation=Participation(max_empty_rounds=3))
    with pytest.raises(ParticipationError, match=said):
        trainer.fit(stand_in.Module(faults=faults), datamodule=stand_in.Data())


def test_rounds_that_are_empty_now_and_then_are_not_too_many(stand_in, tmp_path):
    trainer = stand_in.make_trainer(tmp_path, 7, participation=Participation(max_empty_rounds=2))
    trainer.fit(stand_in.Module(faults={1: "nans", 3: "nans", 5: "nans"}), datamodule=stand_in.Data())
    assert trainer.global_step == 7


def test_what_was_counted_goes_on_over_a_resume(stand_in, tmp_path):
    faults = {r: "nans" for r in range(4, 8)}
    stand_in.make_trainer(tmp_path, 6).fit(stand_in.Module(faults=faults), datamodule=stand_in.Data())
    trainer = stand_in.make_trainer(tmp_path, 9, participation=Participation(max_empty_rounds=4))
    with pytest.raises(ParticipationError, match="4 rounds in a row, up to round 8"):
        trainer.fit(
            stand_in.Module(faults=faults), datamodule=stand_in.Data(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt"
        )


@pytest.mark.parametrize("options", [{"max_empty_rounds": 0}, {"max_dropped": 1.5}, {"max_dropped": -0.1}])
def test_limits_that_cannot_be(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        Participation(**options)
