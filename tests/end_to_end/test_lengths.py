"""Schedules of a run follow its length, by the program and by a script of one's own."""

from __future__ import annotations

import json
import logging
import warnings

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from hiso_pl.cli import program as cli
from hiso_pl.data.digits import DigitsData
from hiso_pl.ledger import LedgerReader
from hiso_pl.models import DigitsCNN
from hiso_pl.module import FederatedModule
from hiso_pl.run.folder import LEDGER
from hiso_pl.run.schedules import CosineToEnd
from hiso_pl.zeroth_order import Linear, Method

from .conftest import of_class

pytestmark = pytest.mark.usefixtures("process_settings")

FOLLOWING = ["--model.lr_scheduler", "CosineToEnd", "--model.method.mu_schedule", "Linear"]
FOLLOWING += ["--model.method.mu_schedule.final", "1e-4"]
KEY = "model.lr_scheduler.init_args.rounds"
MU = "model.method.init_args.mu_schedule.init_args.rounds"
TORCH = "torch.optim.lr_scheduler"


@pytest.fixture
def fit(base, caplog, capsys):
    def fit(root, *args, status=0):
        caplog.clear()
        capsys.readouterr()
        with caplog.at_level(logging.WARNING, logger="hiso_pl"):
            assert cli.main([*base, *args, "--trainer.default_root_dir", str(root)]) == status
        return caplog.text + capsys.readouterr().err

    return fit


def cosine(lr, rounds):
    """The rate of each round by torch's own scheduler."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    rates = []
    for _ in range(rounds):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def test_they_are_as_long_as_the_run_and_its_files_hold_the_number(fit, tmp_path):
    six, explicit = tmp_path / "six", tmp_path / "explicit"
    assert "max_steps" not in fit(six, *FOLLOWING, "--trainer.max_steps", "6")
    records = list(LedgerReader(six / LEDGER))
    assert [record.lr for record in records] == cosine(0.02, 6)
    assert [record.mu for record in records] == pytest.approx([1e-3 - 9e-4 * r / 6 for r in range(6)], rel=1e-6)
    model = yaml.safe_load((six / "config.yaml").read_text())["model"]
    assert model["lr_scheduler"]["init_args"]["rounds"] == 6
    assert model["method"]["init_args"]["mu_schedule"]["init_args"]["rounds"] == 6
    assert LedgerReader(six / LEDGER).header.method["mu_schedule"] == {"Linear": {"final": 1e-4, "rounds": 6}}

    usual = ["--model.lr_scheduler", of_class(f"{TORCH}.CosineAnnealingLR", T_max=6), *FOLLOWING[2:]]
    fit(explicit, *usual, "--model.method.mu_schedule.rounds", "6", "--trainer.max_steps", "6")
    digests = [json.loads((root / "summary.json").read_text())["digest"] for root in (six, explicit)]
    assert digests[0] == digests[1]

    # a run that goes on keeps the numbers it had, unless it is told to change them
    said = fit(six, *FOLLOWING, "--trainer.max_steps", "7", "--ckpt_path", "ledger")
    assert f"{KEY} stays 6, as the run had it, where trainer.max_steps is 7" in said
    resumed = [*FOLLOWING, "--trainer.max_steps", "8", "--ckpt_path", "last"]
    said = fit(six, *resumed)
    assert f"{KEY} stays 6, as the run had it, where trainer.max_steps is 8: --change_on_resume '[{KEY}]'" in said
    assert f"{MU} stays 6" in said
    assert "CosineToEnd: rounds=6 is shorter than the run" in said
    assert [record.lr for record in LedgerReader(six / LEDGER)][:6] == cosine(0.02, 6)
    said = fit(explicit, *resumed, "--change_on_resume", f"[model.lr_scheduler, {MU}]")
    assert "Changed on resume, as asked" in said
    assert "shorter than the run" not in said
    assert [record.lr for record in LedgerReader(explicit / LEDGER)][6:] == pytest.approx(cosine(0.02, 8)[6:])


def test_one_that_contradicts_the_run_is_said_and_one_that_breaks_it_off_refused(fit, tmp_path):
    long = ["--model.lr_scheduler", of_class(f"{TORCH}.CosineAnnealingLR", T_max=4000), "--trainer.max_steps", "2"]
    said = fit(tmp_path / "long", *long)
    assert "CosineAnnealingLR: T_max=4000 is longer than the run, as trainer.max_steps=2 cuts it off" in said
    cycle = of_class(f"{TORCH}.OneCycleLR", max_lr=0.02, total_steps=4, cycle_momentum=False)
    said = fit(tmp_path / "cycle", "--model.lr_scheduler", cycle, "--trainer.max_steps", "6", status=1)
    assert "OneCycleLR: total_steps=4 is shorter than the run, which would break off" in said
    assert not (tmp_path / "cycle" / "config.yaml").exists()


def test_a_script_of_one_s_own_needs_no_numbers_either(tmp_path):
    module = FederatedModule(DigitsCNN(channels=2), Method(lr=0.01, mu_schedule=Linear(1e-4)), CosineToEnd)
    for rounds in (4, 5):
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=rounds,
            enable_model_summary=False,
            limit_val_batches=0,
            default_root_dir=tmp_path,
            **quiet,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, datamodule=DigitsData(clients=4, cohort=2, batch_size=4))
        assert module.optimizer.record.lr == cosine(0.01, rounds)[-1]
        assert module.optimizer.record.mu == pytest.approx(1e-3 - 9e-4 * (rounds - 1) / rounds)
