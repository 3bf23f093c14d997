"""``hiso-pl diagnose``: rounds of a run as they were, tables and pictures of them, and one line of what cannot be."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from hiso_pl.cli import program
from hiso_pl.cli.diagnosing import Built
from hiso_pl.cli.running import cli_of
from hiso_pl.diagnose.minibatches import check_clients
from hiso_pl.diagnose.rounds import KeptRounds, RunAtRounds
from hiso_pl.zeroth_order.digest import digest

BASE = str(Path(__file__).parents[1] / "end_to_end" / "base.yaml")
QUICK = [
    "--clients",
    "3",
    "--batches",
    "2",
    "--probes",
    "4",
    "--eigenvalues",
    "2",
    "--exact",
    "false",
    "--threads",
    "1",
]
METHOD = "--model.method.init_args"
pytestmark = pytest.mark.usefixtures("process_settings")


def fit(root: Path, *options: str) -> Path:
    saves = ["--trainer.default_root_dir", str(root), "--checkpoint.every_n_train_steps", "5"]
    loggers = ["--trainer.logger", "false", "--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
    assert program.main(["fit", "--config", BASE, *saves, *loggers, "--checkpoint.save_top_k", "-1", *options]) == 0
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def first_order(tmp_path_factory):
    options = ["--model.method", "FedAvg", f"{METHOD}.lr", "0.1", f"{METHOD}.local_steps", "2"]
    return fit(tmp_path_factory.mktemp("run") / "first", *options)


@pytest.fixture
def mine(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "mine"))


def said(capsys, *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = program.main(["diagnose", *args])
    return status, *capsys.readouterr()


def built(root: Path):
    cli = cli_of(Built, ["fit", "--config", str(root / "config.yaml")])
    return cli.model


def test_a_round_is_the_same_by_checkpoint_and_by_ledger(run, mine):
    digests = {}
    for root, gone in ((run, ()), (mine, (mine / "checkpoints").glob("*.ckpt"))):
        for path in gone:
            path.unlink()
        kept = KeptRounds(root)
        at = RunAtRounds(kept, built(root))
        for round in (0, 3, 5, 11, 12):
            at.go_to(round)
            assert at.optimizer.round == round
            digests.setdefault(round, []).append(digest(at.optimizer))
            assert at.next_record() is None if round == 12 else at.next_record().round == round
    assert all(a == b for a, b in digests.values())
    assert len({a for a, _ in digests.values()}) == 5
    assert digests[12][0] == json.loads((run / "summary.json").read_text())["digest"]
    assert KeptRounds(run).last == KeptRounds(mine).last == 12
    assert list(KeptRounds(run).saved) == [5, 10, 12]


def test_tables_and_pictures_are_the_same_twice_and_the_run_is_left_alone(run, tmp_path, capsys):
    def files(folder):
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}

    before, out = files(run), tmp_path / "out"
    status, told, error = said(capsys, str(run), "--at", "12", "5", *QUICK, "--output", str(out))
    assert status == 0, error
    assert files(run) == before
    kinds = [f"{name}.{kind}" for name in ("round-5", "round-12", "rounds") for kind in ("png", "pdf")]
    assert set(files(out)) == {"diagnosis.json", "diagnosis.md", "numbers.csv", "tensors.csv", *kinds}
    found = json.loads((out / "diagnosis.json").read_text())
    assert [one["round"] for one in found["rounds"]] == [5, 12]
    numbers = found["rounds"][0]["numbers"]
    assert numbers["loss"] > 0
    assert 0 < numbers["headroom"] <= 4, "below 1 where clients that differ are sampled without replacement"
    assert -1 <= numbers["cosine"] <= 1, "D of round 5 is in the ledger"
    assert "cosine" not in found["rounds"][1]["numbers"], "of round 12 there is none"
    assert {"loss", "lr", *numbers} <= set(found["meanings"])
    for name in ("loss", "hessian_trace", "headroom"):
        assert f"\n{name} " in told
        assert f"| {name} |" in (out / "diagnosis.md").read_text()
    rows = list(csv.DictReader((out / "tensors.csv").open()))
    assert next(row["tensor"] for row in rows if row["round"] == "5") == "first.weight"
    assert "note: 3 of 8 clients stand for all of them" in told
    assert "round 5" in told

    again = files(out)
    assert said(capsys, str(run), "--at", "5", "12", *QUICK, "--output", str(out))[0] == 0
    assert files(out) == again


def test_a_configuration_is_looked_at_as_it_begins(capsys):
    status, told, _ = said(capsys, BASE, *QUICK, "--", f"{METHOD}.preconditioner", "Identity", "--data.batch_size", "4")
    assert status == 0
    assert "note: the method stores no H" in told
    assert "round 0" in told


def test_a_first_order_run_has_no_h(first_order, tmp_path, capsys):
    out = ["--eigenvalues", "0", "--output", str(tmp_path / "out")]
    status, told, error = said(capsys, str(first_order), "--at", "0", "10", *QUICK, *out)
    assert status == 0, error
    assert "FedAvg is no scalar-only method: there is no H" in told
    assert "lambda_max" not in told
    assert (tmp_path / "out" / "rounds.png").is_file()
    status, _, error = said(capsys, str(first_order), "--at", "7")
    assert status == 1
    assert f"at=7 must be one of 0, 5, 10, 12: {first_order} keeps no ledger" in error


def test_all_of_very_many_clients_are_not_looked_at():
    check_clients(None, 10_000)
    check_clients(32, 1_000_000)
    with pytest.raises(
        ValueError, match=r"^clients must say how many of 1000000 are looked at; all are only up to 10000$"
    ):
        check_clients(None, 1_000_000)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["{run}", "--at", "13"], "at=13 must be at most 12, the last round of {run}"),
        (["{run}", "--at=-1"], "at=-1 must not be negative: it counts rounds"),
        (["{run}", "--clients", "9"], "clients=9 must be at most 8, the clients of the data"),
        (["{run}", "--batches", "1"], "batches=1 must be at least 2"),
        (["{run}", "--eigenvalues", "1"], "eigenvalues=1 must be 0, or at least 2: some of each end"),
        (["{run}", "--output", "{run}"], "output={run} holds something else than a diagnosis: give another folder"),
        (["{run}", "--", "--trainer.devices", "2"], "--trainer.devices does not act in a diagnosis"),
        (["{run}", "--", "--data.cohrt", "2"], "data.cohrt is no option of DigitsData: did you mean cohort?"),
        (["{run}", "--", "--model.network.channels", "4"], "the checkpoint is of another model: tensor 'first.weight'"),
        ([BASE, "--at", "3"], "at=3 needs a run's folder: {base} is a configuration"),
        ([BASE, "--config", BASE], "config={base} is for a run's folder, and {base} is none"),
        (["nowhere"], "nowhere is neither a run's folder, nor a configuration's file or name"),
        (["{empty}"], "{empty} holds no run: give a run's folder, or a configuration"),
        (["{run}", "--device", "cuda"], "device=cuda must be cpu: there is no GPU"),
        (["{run}", "--exact", "true", "--", "--model.network.channels", "200"], "another model"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, capsys, args, line):
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    names = {"run": run, "empty": tmp_path, "base": BASE}
    status, told, error = said(capsys, *(arg.format(**names) for arg in args))
    assert status != 0
    assert line.format(**names) in error
    assert [text for text in error.splitlines() if text.startswith("hiso-pl: error")] == error.splitlines()[-1:]
    assert told == ""


def test_damage_is_found_before_anything_is_said(mine, capsys):
    ledger = mine / "rounds.ledger"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 + 1 :])
    status, told, error = said(capsys, str(mine), "--at", "4")
    assert (status, told) == (1, "")
    assert "rounds.ledger" in error
    ledger.unlink()
    damaged = next((mine / "checkpoints").glob("*step*5.ckpt"), mine / "checkpoints" / "5.ckpt")
    damaged.write_bytes(damaged.read_bytes()[:-50])
    status, _, error = said(capsys, str(mine), "--at", "5")
    assert status == 1
    assert "at=5 must be one of 0, 10, 12" in error


def test_code_in_a_folder_runs_only_where_it_is_named(mine, capsys):
    path = mine / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["init_args"]["partition"] = {"class_path": "mine.Deal"}
    path.write_text(yaml.safe_dump(config))
    status, _, error = said(capsys, str(mine), *QUICK)
    assert status == 2
    assert f"{path} says data.init_args.partition.class_path=mine.Deal, which is code" in error
    status, _, error = said(capsys, str(mine), "--config", str(path), *QUICK)
    assert "is code" not in error
    assert "mine" in error, "now it was looked for"
    status, told, _ = said(capsys, str(mine), "--config", BASE, *QUICK)
    assert status == 0
    assert "round 12" in told


def test_weights_that_are_no_numbers_are_named(monkeypatch, capsys):
    from hiso_pl.models import DigitsCNN

    plain = DigitsCNN.__init__

    def broken(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        with torch.no_grad():
            self.head.bias[0] = torch.nan

    monkeypatch.setattr(DigitsCNN, "__init__", broken)
    status, told, error = said(capsys, BASE, *QUICK)
    assert (status, told) == (1, "")
    assert "tensor 'head.bias' holds values that are not finite" in error


def test_what_does_not_fit_is_refused_before_it_is_begun(monkeypatch, capsys):
    from hiso_pl.diagnose import looking

    monkeypatch.setattr(looking, "free_bytes", lambda device: 1 << 10)
    status, _, error = said(capsys, BASE, *QUICK)
    assert status == 1
    assert "of cpu memory are free: diagnose a smaller model" in error
