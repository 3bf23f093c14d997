import sys
from types import SimpleNamespace

import pytest

from hiso_pl.callbacks import RoundProgressBar


@pytest.fixture
def fit(stand_in, tmp_path):
    def run(rounds, bar, **more):
        trainer = stand_in.make_trainer(tmp_path, rounds, bar, enable_progress_bar=True)
        trainer.fit(stand_in.Module(), datamodule=stand_in.Data(), **more)
        return trainer

    return run


def test_without_a_terminal_there_are_lines(fit, capsys, tmp_path):
    fit(7, RoundProgressBar())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[3].startswith("round 4/7  loss ")
    assert "val/accuracy 0." in lines[3]
    assert lines[-1].endswith("KB 0.11")
    fit(100, RoundProgressBar(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split("/")[0].split()[1]) for line in lines] == list(range(10, 101, 5))


def test_with_a_terminal_there_is_a_bar_in_rounds(fit, capsys, monkeypatch, tmp_path):
    fit(3, RoundProgressBar())
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    bar = RoundProgressBar()
    fit(7, bar, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    shown = capsys.readouterr().out
    assert "Rounds" in shown
    assert "7/7" in shown
    assert "4/7" in shown
    assert "1/7" not in shown
    assert "loss=" in shown
    assert "KB=" in shown
    assert "val/accuracy=" in shown
    assert "val/loss" not in shown


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
    assert list(RoundProgressBar().get_metrics(None, run)) == [*shown, "KB"]


def test_it_can_be_hidden(fit, capsys):
    fit(3, RoundProgressBar(refresh_rate=0))
    assert capsys.readouterr().out == ""
