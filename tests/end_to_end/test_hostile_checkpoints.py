"""A checkpoint from elsewhere names nothing that is removed or written, and a damaged one is not gone on from."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from hiso_pl.cli import program as cli
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint_state import state_digest

pytestmark = pytest.mark.usefixtures("process_settings")

SAVING = ["--checkpoint.every_n_train_steps=2", "--trainer.val_check_interval=100", "--data.init_args.validation=20"]
FORMS = ["local://{}", "file://{}", "{}", "{root}/checkpoints/../../precious", "{}/a.ckpt"]
PATHS = [("best_model_path", form) for form in FORMS]
PATHS += [(key, FORMS[0]) for key in ("last_model_path", "kth_best_model_path", "dirpath", "best_k_models")]


@pytest.fixture(scope="module")
def run(base):
    """Runs the program in this process, to so many rounds."""

    def run(root: Path, rounds: int, *args: str) -> int:
        options = ["--trainer.max_steps", str(rounds), "--trainer.default_root_dir", str(root), *args]
        return cli.main([*base, *SAVING, *options])

    return run


@pytest.fixture(scope="module")
def four(run, tmp_path_factory):
    """A run of four rounds, and the digest that it has after eight."""
    root = tmp_path_factory.mktemp("four") / "run"
    assert run(root, 4) == 0
    whole = root.with_name("eight")
    assert run(whole, 8) == 0
    return root, json.loads((whole / "summary.json").read_text())["digest"]


@pytest.fixture
def root(four, tmp_path):
    shutil.copytree(four[0], tmp_path / "run")
    return tmp_path / "run"


def change(path: Path, change) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    facts = content[checkpoint.KEY]
    facts["digest"] = state_digest(content, list(facts["trainable"]))
    torch.save(content, path)


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and "events" not in path.name]
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize(("key", "form"), PATHS)
def test_no_path_in_it_is_removed_or_written(run, four, root, tmp_path, key, form):
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "deep" / "thesis.txt").write_text("years")
    (precious / "a.ckpt").write_text("years")
    before = files(precious)
    named = form.format(precious, root=root)

    def attack(content):
        for name, state in content["callbacks"].items():
            if name.startswith("ModelCheckpoint"):
                state[key] = {named: torch.tensor(1.0)} if key == "best_k_models" else named
                state["dirpath"] = named if key == "dirpath" else str(root / "checkpoints")

    last = root / "checkpoints" / "last.ckpt"
    change(last, attack)
    assert run(root, 8, "--ckpt_path", str(last)) == 0
    assert files(precious) == before
    assert json.loads((root / "summary.json").read_text())["digest"] == four[1]
    assert {path.name for path in (root / "checkpoints").iterdir()} >= {"last.ckpt", "step=8.ckpt"}


def spoil(path: Path) -> None:
    """Changes a bit of the largest tensor."""
    content = torch.load(path, weights_only=True)
    largest = max(content["state_dict"].values(), key=torch.numel)
    whole = bytearray(path.read_bytes())
    whole[whole.index(largest.numpy().tobytes()) + 5] ^= 4
    path.write_bytes(whole)


def test_a_changed_bit_falls_back_as_a_cut_off_file_does(run, four, root, capsys):
    checkpoints = root / "checkpoints"
    run(root, 6, "--ckpt_path", "last")
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last.ckpt", "step=6.ckpt"]
    spoil(checkpoints / "last.ckpt")
    capsys.readouterr()
    assert run(root, 8, "--ckpt_path", str(checkpoints / "last.ckpt")) == 1
    assert "the checkpoint is damaged: its state has digest" in capsys.readouterr().err
    assert run(root, 8, "--ckpt_path", "last") == 0
    assert json.loads((root / "summary.json").read_text())["digest"] == four[1]
    for path in checkpoints.iterdir():  # without one that is whole, the ledger says what is right
        spoil(path)
    assert run(root, 10, "--ckpt_path", "last") == 0
    assert cli.main(["replay", str(root / "rounds.ledger"), "--verify"]) == 0


def test_the_ledger_decides_on_a_state_that_is_of_another_history(run, four, root, capsys):
    last = root / "checkpoints" / "last.ckpt"
    change(last, lambda content: next(iter(content["state_dict"].values())).add_(0.5))
    capsys.readouterr()
    assert run(root, 8, "--ckpt_path", str(last)) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "hiso-pl" in line]
    assert "was closed after 4 rounds with another digest" in line
    assert run(root, 8, "--ckpt_path", "ledger") == 0
    assert json.loads((root / "summary.json").read_text())["digest"] == four[1]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=0.5), "lr=0.5 after round 4, the .* has 0.02"),
        (
            lambda c: next(iter(c["optimizer_states"][0]["state"].values()))["hessian"].mul_(-1.0),
            "holds hessian with values below 0",
        ),
        (
            lambda c: c["optimizer_states"][0]["state"][0].update(hessian=torch.ones(2).double()),
            "holds hessian .* float64",
        ),
        (
            lambda c: c["callbacks"].update(RunSummary={"metrics": 3}),
            "the state of RunSummary must be metrics",
        ),
        (lambda c: c["callbacks"]["Participation"].update(rounds="x"), "rounds of Participation must be int"),
        (lambda c: c.pop("optimizer_states"), "holds weights alone"),
        (
            lambda c: c["optimizer_states"][0]["param_groups"][0].update(round=2),
            "of round 4, its optimizer's state of an",
        ),
    ],
)
def test_what_the_configuration_does_not_have_is_refused_in_a_line(run, root, capsys, attack, message):
    last = root / "checkpoints" / "last.ckpt"
    change(last, attack)
    before = files(root)
    capsys.readouterr()
    assert run(root, 8, "--ckpt_path", str(last)) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "hiso-pl" in line]
    assert re.search(message, line), line
    assert "traceback" not in line
    assert files(root) == before


def test_counters_and_versions_in_it_are_not_taken(base, run, four, root):
    def attack(content):
        content["loops"] = {"fit_loop": [1], "validate_loop": None}
        content["pytorch-lightning_version"] = "0.0.1"
        content["epoch"] = -7
        content["native_amp_scaling_state"] = {"scale": 0}

    last = root / "checkpoints" / "last.ckpt"
    change(last, attack)
    for command in ("validate", "test"):
        assert cli.main([command, *base[1:], "--trainer.default_root_dir", str(root), "--ckpt_path", str(last)]) == 0
    assert run(root, 8, "--ckpt_path", str(last)) == 0
    assert json.loads((root / "summary.json").read_text())["digest"] == four[1]


def test_what_a_kill_leaves_is_cleared_by_the_next_start(run, root):
    run(root, 6, "--ckpt_path", "last")
    checkpoints = root / "checkpoints"
    older = checkpoints / "step=2.ckpt"
    content = torch.load(checkpoints / "step=6.ckpt", weights_only=True)
    # as a kill between the writing of step=6 and the removal of step=4 leaves it
    change_round(content, 4)
    torch.save(content, checkpoints / "step=4.ckpt")
    content[checkpoint.KEY]["retention"] = {key: -1 for key in content[checkpoint.KEY]["retention"]}
    torch.save(content, older)  # of a time when all were kept
    mine = [checkpoints / "mine.ckpt", root / "mine.part", checkpoints / "notes.part"]
    for path in mine:
        path.write_text("mine")
    litter = [root / "rounds.ledger.part", root / "predictions.jsonl.part", checkpoints / "last.ckpt.part"]
    for path in litter:
        path.write_text("half")
    shutil.copy(checkpoints / "step=6.ckpt", root / "rounds.ledger.ckpt")  # not made of a ledger
    assert run(root, 7, "--ckpt_path", "last") == 0
    assert {path.name for path in checkpoints.iterdir()} == {
        *("last.ckpt", "step=6.ckpt", "step=2.ckpt", "mine.ckpt", "notes.part"),
    }
    assert all(path.exists() for path in mine)
    assert not any(path.exists() for path in litter)
    assert (root / "rounds.ledger.ckpt").exists()
    content = torch.load(root / "rounds.ledger.ckpt", weights_only=True)
    content[checkpoint.KEY]["rebuilt"] = True
    torch.save(content, root / "rounds.ledger.ckpt")
    assert run(root, 8, "--ckpt_path", "last") == 0
    assert not (root / "rounds.ledger.ckpt").exists()


def change_round(content, round):
    content["global_step"] = round
    content["optimizer_states"][0]["param_groups"][0]["round"] = round
