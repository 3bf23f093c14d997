"""A run that is diagnosed as it goes is the same run, to the bit."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hiso_pl.callbacks import DiagnosisPanels
from hiso_pl.cli import program

BASE = str(Path(__file__).parents[1] / "end_to_end" / "base.yaml")
LOOK = {"every_n_rounds": 6, "clients": 2, "probes": 4}
LOOKING = {"class_path": "hiso_pl.callbacks.DiagnosisPanels", "init_args": LOOK}
pytestmark = pytest.mark.usefixtures("process_settings")


def fit(root: Path, *options: str) -> tuple[int, dict]:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(root), "name": "", "version": ""}}
    plain = ["--trainer.logger", json.dumps(logger), "--trainer.limit_val_batches", "0"]
    plain += ["--trainer.num_sanity_val_steps", "0", "--trainer.default_root_dir", str(root)]
    status = program.main(["fit", "--config", BASE, *plain, *options])
    summary = root / "summary.json"
    return status, json.loads(summary.read_text()) if summary.is_file() else {}


def points(root: Path, name: str) -> dict[int, float]:
    with next(root.rglob("metrics.csv")).open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def test_it_moves_no_bit_and_survives_a_resume(tmp_path):
    _, plain = fit(tmp_path / "plain")
    looking = ["--trainer.callbacks+", json.dumps(LOOKING)]
    status, found = fit(tmp_path / "looked", *looking)
    assert status == 0
    assert found["digest"] == plain["digest"]
    looked = points(tmp_path / "looked", "diagnose/hessian_trace")
    assert sorted(looked) == [0, 6, 12]
    assert fit(tmp_path / "half", *looking, "--trainer.max_steps", "6")[0] == 0
    status, found = fit(tmp_path / "half", *looking, "--ckpt_path", "last")
    assert status == 0
    assert found["digest"] == plain["digest"]
    assert points(tmp_path / "half", "diagnose/hessian_trace") == looked


@pytest.mark.slow
def test_ranks_wait_for_the_one_that_looks(tmp_path):
    """On two ranks, in one launch; a run of a client a rank is refused in one line on both."""
    import subprocess
    import sys

    looking = ["--trainer.callbacks+", json.dumps(LOOKING), "--trainer.logger", "CSVLogger"]
    args = [
        "fit",
        "--config",
        BASE,
        *looking,
        "--trainer.limit_val_batches",
        "0",
        "--trainer.num_sanity_val_steps",
        "0",
    ]
    args += ["--trainer.logger.save_dir", str(tmp_path), "--trainer.default_root_dir"]
    launch = [sys.executable, "-m", "hiso_pl", "launch", "--nproc", "2", *args]
    done = subprocess.run([*launch, str(tmp_path / "two")], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    _, plain = fit(tmp_path / "plain")
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["digest"] == plain["digest"]
    fixed = [*launch, str(tmp_path / "fixed"), "--data.clients", "2", "--data.cohort", "2"]
    done = subprocess.run(fixed, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode != 0
    assert done.stderr.count("which hosting=fixed keeps from it") == 1


OPTIONS = [("every_n_rounds", 0, 1), ("batches", 1, 2), ("probes", 2, 4)]


@pytest.mark.parametrize(("name", "value", "least"), OPTIONS)
def test_its_options_are_checked(name, value, least):
    with pytest.raises(ValueError, match="eigenvalues=1 must be 0, or at least 2"):
        DiagnosisPanels(eigenvalues=1)
    with pytest.raises(ValueError, match=f"{name}={value} must be at least {least}"):
        DiagnosisPanels(**{name: value})


def test_memory_that_does_not_suffice_is_said_at_the_start(tmp_path, monkeypatch, capsys):
    from hiso_pl.diagnose import looking

    monkeypatch.setattr(looking, "free_bytes", lambda device: 1 << 10)
    status, _ = fit(tmp_path / "run", "--trainer.callbacks+", json.dumps(LOOKING))
    assert status == 1
    assert "of cpu memory are free: diagnose a smaller model" in capsys.readouterr().err
