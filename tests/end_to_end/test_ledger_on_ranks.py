"""Ranks that hold a network together go on from a ledger, each with what is its own: the bits of the run uncut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers

from hiso_pl.ledger import LedgerReader
from hiso_pl.run.folder import LEDGER

from .conftest import TIMEOUT_S, environment, of_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HELD = ["--model.stages.on", "ranks", "--model.stages.count", "2"]
ON = ["--ckpt_path", "ledger"]
CHANGED = {
    "plain": [],
    "lora": ["--model.network.peft", '{"r": 2, "alpha": 4}'],
    "scalar own": ["--model.method.preconditioner", "Scalar", "--model.method.directions", "client"],
    "trace": ["--model.method.preconditioner.normalize", "trace", "--model.method.update_rule", "Momentum"],
}
LR = ["--model.method.lr", "0.002"]
ASKED = [*LR, "--change_on_resume", "[model.method.init_args.lr]"]


CHECKED = ["--in_step.every_n_rounds", "2", "--in_step.on_mismatch", "repair", "--trainer.callbacks+"]
TIED, OWN = (f"model.model.decoder.{name}.weight" for name in ("embed_tokens", "layers.3.fc1"))


def flip(**options):
    return [*HELD, *CHECKED, of_class("meddling.Flip", round=3, **options)]


def until(args, rounds, *options):
    return ["fit", *args, "--trainer.max_steps", str(rounds), *options]


@pytest.fixture(scope="module")
def uncut(run_jobs, four_blocks):
    """Runs of six rounds, and of three; one whose learning rate changes after the second and goes on to the sixth."""
    jobs = [(name, until(four_blocks, 6, *options)) for name, options in CHANGED.items()]
    jobs += [(f"begun {name}", until(four_blocks, 3, *options)) for name, options in CHANGED.items()]
    for name, rounds in (("change", 6), ("begun change", 4)):
        jobs.append((name, until(four_blocks, 2)))
        jobs.append((f"{rounds}@{name}", until(four_blocks, rounds, *ASKED, "--ckpt_path", "last")))
    return run_jobs(1, jobs)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The folder of a run, for another one to go on in, by its ledger alone or from its checkpoints as well."""

    def copy(run, checkpoints=False):
        root = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(run.root, root)
        if not checkpoints:
            shutil.rmtree(root / "checkpoints")
        return root

    return copy


@pytest.fixture(scope="module")
def other_start(four_blocks, tmp_path_factory):
    """The run's options with other weights to start from: of one tensor, of the last block."""
    there = four_blocks[four_blocks.index("--model.network.pretrained") + 1]
    folder = tmp_path_factory.mktemp("other") / "opt"
    shutil.copytree(there, folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_parameter("model.decoder.layers.3.fc1.weight")[0, 0] += 1.0
    model.save_pretrained(folder)
    return [str(folder) if arg == there else arg for arg in four_blocks]


@pytest.fixture(scope="module")
def held(run_jobs, four_blocks, uncut, copy, other_start):
    """Runs of two ranks that hold the network together, most of them from folders of runs uncut."""
    there, jobs = {}, [("begun", until(four_blocks, 3, *HELD)), ("whole@begun", until(four_blocks, 6, *HELD, *ON))]

    def job(name, folder, *options, args=four_blocks):
        there[name] = folder
        jobs.append((name, until(args, 6, *options, *HELD, *ON)))

    for name, options in CHANGED.items():
        job(name, copy(uncut[f"begun {name}"]), *options)
    job("newest", copy(uncut["begun plain"], checkpoints=True))
    (there["newest"] / LEDGER).write_bytes((uncut["plain"].root / LEDGER).read_bytes())
    job("change", copy(uncut["begun change"]), *LR)
    job("torn", copy(uncut["begun plain"]))
    os.truncate(there["torn"] / LEDGER, LedgerReader(there["torn"] / LEDGER).around(2)[0].end + 20)
    job("altered", copy(uncut["begun plain"]))
    whole = bytearray((there["altered"] / LEDGER).read_bytes())
    whole[LedgerReader(there["altered"] / LEDGER).around(2)[0].end + 10] ^= 1
    (there["altered"] / LEDGER).write_bytes(whole)
    job("another model", copy(uncut["begun lora"]))
    job("another start", copy(uncut["begun plain"]), args=other_start)
    job("another method", copy(uncut["begun plain"]), "--model.method.preconditioner.nu", "0.3")
    for name, once in (("repair", True), ("again", False)):
        jobs.append((name, until(four_blocks, 6, *flip(rank=1, tensor=TIED, once=once))))
    # the last, as rank 0 alone refuses it
    job("none", copy(uncut["begun plain"]))
    (there["none"] / LEDGER).unlink()
    return run_jobs(2, jobs, there)


def ledger(run):
    return (run.root / LEDGER).read_bytes()


@pytest.mark.parametrize("name", CHANGED)
def test_ranks_go_on_from_the_ledger_of_a_run_uncut(uncut, held, name):
    assert held[name].summary["digest"] == uncut[name].summary["digest"]
    assert held[name].summary["comm"]["paper_kb"] == uncut[name].summary["comm"]["paper_kb"]
    assert ledger(held[name]) == ledger(uncut[name])


def test_from_their_own_from_a_checkpoint_with_later_records_and_from_what_is_left(uncut, held):
    for name in ("whole@begun", "newest", "torn"):
        assert held[name].summary["digest"] == uncut["plain"].summary["digest"], name
        assert ledger(held[name]) == ledger(uncut["plain"])


def test_from_a_ledger_whose_options_change_within_it(uncut, held):
    assert held["change"].summary["digest"] == uncut["6@change"].summary["digest"]
    assert ledger(held["change"]) == ledger(uncut["change"])
    assert uncut["6@change"].summary["digest"] != uncut["plain"].summary["digest"]


def test_a_run_uncut_goes_on_from_the_ledger_of_ranks(here, four_blocks, uncut, held, copy):
    root = copy(held["begun"])
    # what was computed there after the third round is computed again
    os.truncate(root / LEDGER, LedgerReader(root / LEDGER).around(3)[0].end)
    status, said, _ = here(until(four_blocks, 6, *ON), root)
    assert status == 0, said
    assert "Going on after round 3, from the initial weights and rounds.ledger" in said
    assert json.loads((root / "summary.json").read_text())["digest"] == uncut["plain"].summary["digest"]


REFUSED = {
    "altered": "its checksum does not follow from what is before it",
    "another model": "the ledger is of another model: names or shapes of its tensors differ",
    "another start": "tensor 'model.model.decoder.layers.3.fc1.weight' does not have the values that the ledger's run",
    "another method": "from round 0 on, the ledger is of another method",
    "none": "holds no rounds.ledger",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_leads_nowhere_is_refused_in_a_line(held, name):
    assert held[name].statuses == [1, 1] or 0 not in held[name].statuses
    assert REFUSED[name] in held[name].said


def test_three_ranks_go_on(run_jobs, four_blocks, uncut, copy):
    three = ["--model.stages.on", "ranks", "--model.stages.count", "3"]
    found = run_jobs(3, [("three", until(four_blocks, 6, *three, *ON))], {"three": copy(uncut["begun plain"])})
    assert found["three"].summary["digest"] == uncut["plain"].summary["digest"]


@pytest.fixture(scope="module")
def repaired(run_jobs, four_blocks):
    """Two groups of two ranks, of which one rank leaves the step: its group is unlike the other, or apart in itself."""
    often = ["--checkpoint.every_n_train_steps", "2"]
    jobs = [
        ("unlike", until(four_blocks, 6, *flip(rank=3, tensor=OWN, once=True))),
        ("apart", until(four_blocks, 6, *flip(rank=2, tensor=TIED, once=True), *often)),
    ]
    return run_jobs(4, jobs)


def test_a_flipped_bit_is_repaired_and_does_not_show(uncut, held, repaired):
    for run in (held["repair"], *repaired.values()):
        assert run.summary["digest"] == uncut["plain"].summary["digest"]
        assert ledger(run) == ledger(uncut["plain"])
    # a launch's first run says what it does where the test hears it; of the others "again" shows that bits are found
    [line] = [line for line in repaired["unlike"].errors[0] if "Repairing" in line]
    assert "ranks [2, 3] of 4 are out of step after round 4" in line
    assert "all ranks go back to round 2" in line


def test_one_that_flips_again_and_again_stops_the_run(held):
    assert held["again"].statuses == [1, 1]
    told = f"ranks [0, 1] of 2 are out of step after round 4: the first tensor that differs is {TIED!r}"
    assert told in held["again"].said


def test_machines_that_do_not_share_a_folder(four_blocks, uncut, copy, tmp_path):
    """The rank of the second stage sees no checkpoint: both begin with the initial weights."""
    shutil.copytree(uncut["begun plain"].root, tmp_path / "node0" / "run")
    (tmp_path / "node0" / "run" / LEDGER).write_bytes(ledger(uncut["plain"]))
    place = 'mkdir -p node$RANK; cd node$RANK; LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 exec "$0" -m hiso_pl "$@"'
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    args = [*until(four_blocks, 6, *HELD, *ON), "--trainer.default_root_dir", "run"]
    done = subprocess.run(
        [*command, "bash", "-c", place, sys.executable, *args], cwd=tmp_path, env=environment(), timeout=TIMEOUT_S,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "node1" / "run" / LEDGER).exists()
    summary = json.loads((tmp_path / "node0" / "run" / "summary.json").read_text())
    assert summary["digest"] == uncut["plain"].summary["digest"]
