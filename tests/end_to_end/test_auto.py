"""`--ckpt_path auto`: one command begins a run, goes on with it after any stop, and ends at once when it is done."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess

import pytest

from hiso_pl.cli import program as cli
from hiso_pl.ledger import LedgerReader
from hiso_pl.run.folder import LEDGER

from .conftest import HERE, environment, torchrun

pytestmark = pytest.mark.usefixtures("process_settings")

AUTO = ["--ckpt_path", "auto", "--data.init_args.validation", "40"]


@pytest.fixture
def fit(base, caplog, capsys):
    def fit(root, *args, status=0):
        caplog.clear()
        capsys.readouterr()
        with caplog.at_level(logging.WARNING, logger="hiso_pl"):
            given = [*base, *AUTO, "--checkpoint.every_n_train_steps", "4", *args]
            assert cli.main([*given, "--trainer.default_root_dir", str(root)]) == status
        return caplog.text + capsys.readouterr().err

    return fit


def digest(root):
    return json.loads((root / "summary.json").read_text())["digest"]


def test_it_begins_goes_on_and_ends(fit, tmp_path):
    whole, root = tmp_path / "whole", tmp_path / "run"
    assert "ckpt_path=auto" not in fit(whole)
    fit(root, "--trainer.max_steps", "6")
    assert f"ckpt_path=auto: going on from {root}/checkpoints/last.ckpt" in fit(root)
    assert digest(root) == digest(whole)
    before = (root / LEDGER).read_bytes()
    said = fit(root)
    assert "going on from" in said
    assert f"The run in {root} has all its 12 rounds ({root}/checkpoints/last.ckpt): nothing is left to train." in said
    assert digest(root) == digest(whole)
    assert (root / LEDGER).read_bytes() == before


def test_rounds_that_lie_behind_are_refused(fit, tmp_path):
    assert "nothing is left" not in fit(tmp_path)
    for path, named in (("auto", "checkpoints/last.ckpt"), ("last", "checkpoints/last.ckpt"), ("ledger", LEDGER)):
        said = fit(tmp_path, "--trainer.max_steps", "5", "--ckpt_path", path, status=1)
        assert f"trainer.max_steps=5 lies behind round 12, which {tmp_path}/{named} goes on from: set more than" in said


def test_what_saved_nothing_begins_again_or_goes_on_from_its_ledger(fit, tmp_path):
    whole, root = tmp_path / "whole", tmp_path / "run"
    fit(whole)
    for rounds, said in ((0, "from the start, as nothing was saved"), (3, "from the start"), (7, "from the ledger")):
        # as a kill leaves it
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        shutil.copy(whole / "config.yaml", root)
        if rounds:
            for name in (LEDGER, f"{LEDGER}.safetensors"):
                shutil.copy(whole / name, root)
            before, _ = LedgerReader(whole / LEDGER).around(rounds)
            with (root / LEDGER).open("rb+") as file:
                file.truncate(before.end)
            assert LedgerReader(root / LEDGER).rounds == rounds
        assert said in fit(root)
        assert digest(root) == digest(whole)
        assert (root / LEDGER).read_bytes() == (whole / LEDGER).read_bytes()


def test_another_run_is_refused(fit, tmp_path):
    fit(tmp_path, "--trainer.max_steps", "4")
    assert "data.init_args.batch_size was 8 and is 4" in fit(tmp_path, "--data.init_args.batch_size", "4", status=1)


@pytest.mark.slow
def test_machines_that_would_go_on_from_different_points_are_told_so(fit, base, tmp_path):
    fit(tmp_path / "run0", "--trainer.max_steps", "6")
    root = ["--trainer.default_root_dir", str(tmp_path / "run{rank}")]  # a folder for each rank
    (tmp_path / "jobs.json").write_text(json.dumps([["auto", [*base, *AUTO, *root]]]))
    command = [*torchrun(2), str(HERE / "several_runs.py"), str(tmp_path / "jobs.json"), str(tmp_path / "found")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    found = [json.loads((tmp_path / f"found.{rank}").read_text())["auto"] for rank in (0, 1)]
    assert [status for status, _ in found] == [1, 1], done.stderr[-2000:]
    [error] = [line for _, lines in found for line in lines if "hiso-pl: error" in line]
    assert "the ranks were not started alike: start (round 6 on rank 0, the start on rank 1); trainer.default" in error
    assert "trainer.default_root_dir must be a folder that all machines share" in error
    assert not list((tmp_path / "run1").glob("*"))


def test_it_is_for_a_fit(base, tmp_path, capsys):
    args = ["validate", *base[1:], "--trainer.default_root_dir", str(tmp_path), "--ckpt_path", "auto"]
    assert cli.main(args) != 0
    assert "ckpt_path=auto" in capsys.readouterr().err
