import sys
from types import SimpleNamespace

import pytest

from hiso_pl.callbacks import PrivacyBudget, RoundProgressBar
from hiso_pl.callbacks.progress import told


@pytest.fixture
def fit(stand_in, tmp_path):
    def run(rounds, bar, **more):
        trainer = stand_in.make_trainer(tmp_path, rounds, bar, enable_progress_bar=True)
        trainer.fit(stand_in.Module(), datamodule=stand_in.Data(), **more)
        return trainer

    return run


def said(out, what):
    """The round of each line that says something, and what it says of it."""
    return {int(line.split("/")[0].split()[1]): line.split(what)[1].split()[0] for line in out if what in line}


def test_without_a_terminal_there_are_lines(fit, capsys, tmp_path):
    fit(7, RoundProgressBar())
    lines = capsys.readouterr().out.splitlines()
    assert list(said(lines, "KB ")) == list(range(1, 8))
    assert lines[1].startswith("round 1/7  loss ")
    assert [line for line in lines if " loss " in line][-1].endswith("KB 0.11")
    fit(100, RoundProgressBar(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    lines = capsys.readouterr().out.splitlines()
    assert list(said(lines, "KB ")) == list(range(10, 101, 5))


def test_a_validation_is_said_when_it_is_done_the_first_and_the_last_too(fit, stand_in, capsys, monkeypatch, tmp_path):
    for terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda here=terminal: here, raising=False)
        history, root = stand_in.History(), tmp_path / str(terminal)
        trainer = stand_in.make_trainer(root, 7, RoundProgressBar(), history, enable_progress_bar=True)
        trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
        out = capsys.readouterr().out
        lines = out.replace("\r", "\n").splitlines()
        heard = said([line for line in lines if line.startswith("round ")], "val/loss ")
        assert heard == {round: f"{value:.4f}" for round, value in history.seen}
        assert list(heard) == [0, 3, 6, 7]
        accuracy = f"{1 / (1 + history.seen[-1][1]):.4f}"
        assert f"val/accuracy {accuracy}" in out
        if terminal:  # the bar is not one behind, at the end neither
            assert f"val/accuracy={accuracy}" in [line for line in lines if "Rounds" in line][-1]


def test_with_a_terminal_there_is_a_bar_in_rounds(fit, capsys, monkeypatch, tmp_path):
    fit(3, RoundProgressBar())
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    bar = RoundProgressBar()
    fit(7, bar, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    shown = capsys.readouterr().out
    assert "Rounds" in shown
    assert "7/7" in shown
    assert "3/7" in shown  # where it goes on
    assert "1/7" not in shown
    assert "rounds/s" in shown
    assert "loss=" in shown
    assert "KB=" in shown
    assert "val/accuracy=" in shown
    assert "val/loss=" not in shown


def test_a_number_is_short_however_large():
    assert [told(value) for value in (0.12345, -3.0, 1.7006e34, float("nan"))] == [
        "0.1235",
        "-3.0000",
        "1.701e+34",
        "nan",
    ]


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({}, []),
        ({"val/loss": 2.0}, []),
        ({"val/loss": 2.0, "val/rouge1": 0.5, "val/rouge2": 0.25}, ["val/rouge1"]),
        ({"val/em": float("nan"), "val/loss": 2.0}, ["val/em"]),
    ],
)
def test_one_metric_of_a_validation_is_shown(metrics, shown):
    run = SimpleNamespace(last_round=None, last_validation=metrics, traffic=SimpleNamespace(paper_kb=1.0))
    trainer = SimpleNamespace(callbacks=[])
    assert list(RoundProgressBar().get_metrics(trainer, run)) == [*shown, "KB"]
    trainer.callbacks.append(budget := PrivacyBudget())
    budget.epsilon = 1.25
    assert RoundProgressBar().get_metrics(trainer, run)["epsilon"] == "1.2500"


def test_it_can_be_hidden(fit, capsys):
    fit(3, RoundProgressBar(refresh_rate=0))
    assert capsys.readouterr().out == ""
