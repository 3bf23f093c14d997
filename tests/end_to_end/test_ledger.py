"""The ledger of real runs: exact on any number of ranks and after any stop, and what a run is rebuilt from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hiso_pl.cli import program as cli
from hiso_pl.cli.replay import run as run_replay
from hiso_pl.ledger import LedgerReader, LedgerWriter
from hiso_pl.ledger.stored import read_stored
from hiso_pl.run.folder import LEDGER

from .conftest import BASE, METHOD, NO_BOARD, TIMEOUT_S, environment, of_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BASE_RUN = ["fit", "--config", BASE, *NO_BOARD]
CHECKED = ["--in_step.every_n_rounds", "3", "--in_step.on_mismatch", "repair", "--checkpoint.every_n_train_steps", "4"]


def flip(**options):
    return ["--trainer.callbacks+", of_class("meddling.Flip", once=True, **options)]


def stopped(number, round):
    """A run that is asked to stop in the middle."""
    return [*BASE_RUN, "--trainer.callbacks+", of_class("meddling.Stop", rank=0, round=round, number=number)]


OWN = [f"{METHOD}.directions", "client", f"{METHOD}.local_steps", "2"]
COSINE = ["--model.lr_scheduler", of_class("torch.optim.lr_scheduler.CosineAnnealingLR", T_max=12)]
PLATEAU = ["--model.lr_scheduler", of_class("torch.optim.lr_scheduler.ReduceLROnPlateau")]
ALONE = [
    ("straight", BASE_RUN),
    ("schedule", [*BASE_RUN, *COSINE]),
    ("steps", [*BASE_RUN, f"{METHOD}.local_steps", "2", f"{METHOD}.update_rule", "hiso_pl.zeroth_order.Momentum"]),
    ("nan", [*BASE_RUN, "--model.network", "meddling.NaNForLabel"]),
    ("int", stopped(2, 7)),
    ("begun", stopped(15, 5)),
    ("begun schedule", [*stopped(15, 5), *COSINE]),
    ("begun plateau", [*stopped(15, 5), *PLATEAU]),
    ("own", [*BASE_RUN, *OWN]),
    ("begun own", [*stopped(15, 5), *OWN]),
    ("off", [*BASE_RUN, "--ledger.enabled", "false"]),
]


@pytest.fixture(scope="module")
def alone(run_jobs):
    return run_jobs(1, ALONE)


@pytest.fixture(scope="module")
def flipped(run_jobs):
    """Three ranks, of which one leaves the step."""
    jobs = [
        ("none", BASE_RUN),
        ("parameter", [*BASE_RUN, *CHECKED, *flip(rank=1, round=7, tensor="second.weight")]),
        ("rank 0", [*BASE_RUN, *CHECKED, *flip(rank=0, round=4, tensor="first.weight", bit=22)]),
        ("H", [*BASE_RUN, *CHECKED, *flip(rank=2, round=6, tensor="head.bias", key="hessian", bit=12)]),
        ("no checkpoint", [*BASE_RUN, *CHECKED[:4], *flip(rank=1, round=5, tensor="second.weight")]),
        ("again and again", [*BASE_RUN, *CHECKED, "--trainer.callbacks+",
                             of_class("meddling.Flip", rank=1, round=7, tensor="second.weight")]),
        ("stop", [*BASE_RUN, *CHECKED, "--in_step.on_mismatch", "stop",
                  *flip(rank=1, round=7, tensor="first.weight")]),
        ("nan", [*BASE_RUN, "--model.network", "meddling.NaNForLabel"]),
        ("steps", ALONE[2][1]),
    ]  # fmt: skip
    return run_jobs(3, jobs)


def ledger(run):
    return (run.root / LEDGER).read_bytes()


def copy(run, tmp_path, checkpoints=True):
    """The folder of a run, for another one to go on in."""
    root = tmp_path / "run"
    shutil.copytree(run.root, root)
    if not checkpoints:
        shutil.rmtree(root / "checkpoints")
    return root


@pytest.fixture
def fit(launch, here):
    """Goes on with a run, and returns what it said."""

    def fit(root, *args, ranks=1, status=0):
        args = [*BASE_RUN, *args]
        found, out, _ = launch(ranks, args, root) if ranks > 1 else here(args, root)
        assert found == status, out[-3000:]
        assert not (root / f"{LEDGER}.ckpt").exists()
        assert not list(root.rglob("*.part"))
        return out

    return fit


def same(root, straight, metrics=True):
    """The run ended as one that was not stopped, its ledger included."""
    summary = json.loads((root / "summary.json").read_text())
    for key in ("digest", "rounds", *(["metrics"] if metrics else [])):
        assert summary[key] == straight.summary[key], key
    for key in ("paper_kb", "protocol_kb"):
        assert summary["comm"][key] == straight.summary["comm"][key]
    assert (root / LEDGER).read_bytes() == ledger(straight)


def test_a_ledger_is_closed_with_the_digest_and_the_same_for_any_number_of_ranks(alone, flipped):
    for name in ("straight", "steps", "nan"):
        reader = LedgerReader(alone[name].root / LEDGER)
        assert reader.survey().closing == (12, alone[name].summary["digest"])
        assert ledger(alone[name]) == ledger(flipped["none" if name == "straight" else name])
    assert any(record.dropped for record in LedgerReader(alone["nan"].root / LEDGER))
    assert not (alone["off"].root / LEDGER).exists()
    assert alone["off"].summary["digest"] == alone["straight"].summary["digest"]
    assert LedgerReader(alone["int"].root / LEDGER).survey().closing is None
    assert LedgerReader(alone["int"].root / LEDGER).rounds == 7


@pytest.mark.parametrize("name", ["parameter", "rank 0", "H", "no checkpoint"])
def test_a_flipped_bit_is_repaired_and_does_not_show(alone, flipped, name):
    run = flipped[name]
    assert run.statuses == [0, 0, 0], run.errors
    same(run.root, alone["straight"], metrics=False)


def test_a_repair_is_said_once_and_leaves_no_trace(alone, fit, tmp_path):
    said = fit(tmp_path / "run", *CHECKED, *flip(rank=1, round=7, tensor="second.weight"), ranks=2)
    [line] = [line for line in said.splitlines() if "Repairing" in line]
    assert "out of step after round 8: the first tensor that differs is 'second.weight'" in line
    assert "all ranks go back to round 6" in line
    assert "hiso-pl: error" not in said
    same(tmp_path / "run", alone["straight"], metrics=False)


def test_a_bit_that_flips_again_and_again_stops_the_run(alone, flipped):
    run = flipped["again and again"]
    assert run.statuses == [1, 1, 1]
    assert "ranks [1] of 3 are out of step after round 8" in run.said


def test_a_stopped_launch_leaves_the_records_of_rounds_in_step(alone, flipped, fit, tmp_path):
    run = flipped["stop"]
    assert run.statuses == [1, 1, 1]
    assert "after round 8: the first tensor that differs is 'first.weight'" in run.said
    assert LedgerReader(run.root / LEDGER).rounds == 6
    root = copy(run, tmp_path)
    fit(root, "--ckpt_path", "last")
    same(root, alone["straight"])


def test_a_resumed_run_continues_its_ledger(alone, fit, tmp_path):
    root = copy(alone["int"], tmp_path)
    with (root / LEDGER).open("ab") as file:
        file.write(ledger(alone["straight"])[-90:-60])  # no whole frame, and no beginning of one either
    assert "its length does not agree" in fit(root, "--ckpt_path", "last", status=1)
    whole = ledger(alone["straight"])
    (root / LEDGER).write_bytes(whole[:-70])  # closing frame and the end of the last record are gone: torn
    said = fit(root, "--ckpt_path", "last", ranks=2)
    assert "was torn" in said
    same(root, alone["straight"])


@pytest.mark.parametrize(("begun", "straight", "options"), [("begun", "straight", []), ("begun own", "own", OWN)])
def test_a_late_rank_begins_with_the_initial_weights_and_the_ledger(alone, fit, tmp_path, begun, straight, options):
    root = copy(alone[begun], tmp_path, checkpoints=False)
    assert "from the initial weights and rounds.ledger" in fit(root, "--ckpt_path", "ledger", *options, ranks=2)
    same(root, alone[straight], metrics=False)


def test_newest_checkpoint_and_later_records(alone, fit, tmp_path):
    """The ledger of the whole run beside the checkpoint of round 5: no round is left to compute."""
    root = copy(alone["begun"], tmp_path)
    (root / LEDGER).write_bytes(ledger(alone["straight"]))
    said = fit(root, "--ckpt_path", "ledger")
    assert "Going on after round 12, from" in said
    assert "last.ckpt and rounds.ledger" in said
    same(root, alone["straight"], metrics=False)
    metrics = json.loads((root / "summary.json").read_text())["metrics"]["val/loss"]
    there = alone["straight"].summary["metrics"]["val/loss"]
    assert (metrics["first"], metrics["last"]) == (there["first"], there["last"])


def test_the_learning_rate_is_where_the_schedule_would_have_it(alone, fit, tmp_path):
    root = copy(alone["begun schedule"], tmp_path, checkpoints=False)
    fit(root, "--ckpt_path", "ledger", *COSINE)
    same(root, alone["schedule"], metrics=False)
    assert len({record.lr for record in LedgerReader(root / LEDGER)}) == 12


def test_a_schedule_that_follows_a_metric_needs_a_checkpoint(alone, fit, tmp_path):
    root = copy(alone["begun plateau"], tmp_path)
    shutil.rmtree(root / "checkpoints")
    said = fit(root, "--ckpt_path", "ledger", *PLATEAU, status=1)
    assert "ReduceLROnPlateau follows a metric, which a ledger does not hold" in said


def test_last_falls_back_to_the_ledger_and_says_so(alone, fit, tmp_path):
    root = copy(alone["begun"], tmp_path)
    last = root / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-200])
    said = fit(root, "--ckpt_path", "last")
    assert "cannot be read and is passed over" in said
    assert "going on from the ledger, as no checkpoint can be read" in said
    same(root, alone["straight"], metrics=False)


def test_the_ledger_of_another_folder_is_copied_and_one_without_is_warned_of(alone, fit, tmp_path):
    last = str(alone["begun"].root / "checkpoints" / "last.ckpt")
    fit(tmp_path / "new", "--ckpt_path", last)
    same(tmp_path / "new", alone["straight"])
    alone_last = tmp_path / "last.ckpt"
    shutil.copyfile(last, alone_last)
    assert "cannot be replayed" in fit(tmp_path / "none", "--ckpt_path", str(alone_last))
    assert not (tmp_path / "none" / LEDGER).exists()


def test_a_ledger_shorter_than_the_checkpoint_is_an_error_that_says_what_to_do(alone, fit, tmp_path):
    root = copy(alone["begun"], tmp_path)
    before, _ = LedgerReader(root / LEDGER).around(3)
    os.truncate(root / LEDGER, before.end)
    config = (root / "config.yaml").read_bytes()
    said = fit(root, "--ckpt_path", "last", ranks=2, status=1)
    [line] = [line for line in said.splitlines() if "hiso-pl: error" in line]
    assert "ends after round 2, so it cannot go on with round 5" in line
    assert "--ledger.enabled false" in line
    assert (root / "config.yaml").read_bytes() == config
    fit(root, "--ckpt_path", "last", "--ledger.enabled", "false")


def test_machines_that_do_not_share_a_folder(alone, tmp_path):
    """Two ranks in two working directories, with one name of the run's folder: rank 0's ledger leads both."""
    copy(alone["begun"], tmp_path / "node0")
    place = 'mkdir -p node$RANK; cd node$RANK; LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 exec "$0" -m hiso_pl "$@"'
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    args = [*BASE_RUN, "--trainer.default_root_dir", "run", "--ckpt_path", "ledger"]
    done = subprocess.run(
        [*command, "bash", "-c", place, sys.executable, *args], cwd=tmp_path, env=environment(), timeout=TIMEOUT_S,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "node1" / "run" / LEDGER).exists()
    same(tmp_path / "node0" / "run", alone["straight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"configuration": {"model": {"class_path": "os.system", "init_args": {"command": "touch evil"}}}}, "differs"),
        ({"weights": {"name": "../../etc", "revision": None}}, None),
    ],
)
def test_what_a_ledger_names_is_neither_built_nor_followed(alone, fit, tmp_path, change, message):
    root = copy(alone["begun"], tmp_path, checkpoints=False)
    reader = LedgerReader(root / LEDGER)
    records = list(reader)
    tree = json.loads(reader.header.encode()) | change
    header = type(reader.header).decode(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
    initial = read_stored(root / LEDGER, reader.header)
    (root / LEDGER).unlink()
    with LedgerWriter(root / LEDGER, header, initial) as writer:
        for record in records:
            writer.append(record)
    assert run_replay([str(root / LEDGER), "--threads", "1"])
    said = fit(root, "--ckpt_path", "ledger", status=1)
    assert (message or "is of another run: weights.name") in said
    assert "Traceback" not in said
    assert not list(Path.cwd().glob("evil"))


def test_replay_of_an_adapter_and_of_named_weights(text_args, opt, tmp_path, capsys):
    lora = ["fit", *text_args, "--model.network.peft", '{"r": 2, "alpha": 4}', "--trainer.max_steps", "3"]
    for name, args in (("lora", lora), ("all", ["fit", *text_args, "--trainer.max_steps", "3"])):
        root = tmp_path / name
        assert cli.main([*args, "--trainer.default_root_dir", str(root)]) == 0
        header = LedgerReader(root / LEDGER).header
        if name == "lora":
            assert {facts.name.rpartition("lora_")[2][0] for facts in header.stored} >= {"A"}
            assert (root / f"{LEDGER}.safetensors").stat().st_size < 16_000
            weights = []
        else:
            assert header.stored == ()
            assert not (root / f"{LEDGER}.safetensors").exists()
            weights = ["--weights", str(opt)]
        capsys.readouterr()
        assert cli.main(["replay", str(root / LEDGER), "--verify", "--threads", "1", *weights]) == 0
        digest = json.loads((root / "summary.json").read_text())["digest"]
        assert capsys.readouterr().out.endswith(f"digest {digest}\nverified\n")
        assert cli.main(["ledger", str(root / LEDGER)]) == 0
        assert "3 rounds, closed" in capsys.readouterr().out
    assert cli.main(["replay", str(tmp_path / "all" / LEDGER)]) == 1
    assert "weights must be given" in capsys.readouterr().err
