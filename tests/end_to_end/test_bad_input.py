"""What cannot be is refused in one line that names it, with a status that is not zero, before anything is written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from hiso_pl.cli import program as cli

pytestmark = pytest.mark.usefixtures("process_settings")

METHOD = "--model.method.init_args"
DATA = "--data.init_args"
OWN = (f"{METHOD}.directions", "client")
LATE = {"class_path": "hiso_pl.zeroth_order.Steps", "init_args": {"milestones": [11], "values": [5000]}}
MEDIAN = (f"{METHOD}.aggregation", "hiso_pl.federation.Median", f"{METHOD}.aggregation.f")
VOTE = ("hiso_pl.federation.MajorityVote", f"{METHOD}.transform", "hiso_pl.federation.Sign")


@pytest.fixture
def refused(capsys, tmp_path):
    """Runs the program where it must refuse, and returns what it says."""

    def refused(args, root=None, status=(1, 2)):
        root = root or tmp_path / "run"
        before = contents(root)
        capsys.readouterr()
        assert cli.main([*args, "--trainer.default_root_dir", str(root)]) in status
        lines = [line for line in capsys.readouterr().err.splitlines() if "hiso-pl" in line]
        assert len(lines) == 1, lines
        assert lines[0].startswith("hiso-pl: error: ")
        assert contents(root) == before
        return lines[0]

    return refused


def contents(root):
    """All that a run wrote, but for what Lightning's logger writes on any start."""
    files = [path for path in Path(root).rglob("*") if path.is_file()]
    return {
        str(path): path.read_bytes() for path in files if "tfevents" not in path.name and path.name != "hparams.yaml"
    }


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """The folder of a run of three rounds."""
    root = tmp_path_factory.mktemp("finished") / "run"
    args = ["--trainer.max_steps", "3", f"{DATA}.validation", "40", "--trainer.val_check_interval", "3"]
    assert cli.main([*base, *args, "--trainer.default_root_dir", str(root)]) == 0
    return root, [*base, *args]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([f"{METHOD}.lrr", "0.1"], "lrr"),
        (["--checkpoint.monitor", "val/accuracy"], r"checkpoint\.mode=min .* must be max"),
        (["--trainer.max_stepz", "3"], "max_stepz"),
        (["--model.optimiser.lr", "0.1"], "optimiser"),
        (["--trainer.max_steps", "many"], r"trainer\.max_steps.*many"),
        ([f"{DATA}.clients", "2.5"], r"clients.*2\.5"),
        ([f"{METHOD}.lr", "fast"], "lr.*fast"),
        ([f"{METHOD}.lr", "-1.0"], r"lr=-1\.0 must be finite and not negative"),
        ([f"{METHOD}.lr", ".nan"], "lr=nan must be finite"),
        ([f"{METHOD}.mu", "0.0"], r"mu=0\.0 must be finite and positive"),
        ([f"{METHOD}.num_directions", "0"], r"num_directions=0 must be an integer in \[1, "),
        ([*OWN, f"{METHOD}.num_directions", "4096"], "num_directions=4096 in round 0 .* make 16384 of a cohort of 4"),
        (
            [*OWN, f"{METHOD}.num_directions_schedule", json.dumps(LATE)],
            "num_directions=5000 in round 11 .* 20000",
        ),
        (
            [*OWN, f"{METHOD}.aggregation", *VOTE, f"{METHOD}.transform.scale", "none"],
            r"aggregation=MajorityVote\(\) compares slots, so directions='client' must be 'shared'",
        ),
        ([*OWN, *MEDIAN, "1"], r"aggregation=Median\(f=1, mixing=False\) compares .* NormClipping do without"),
        ([*MEDIAN, "2"], r"aggregation=Median\(f=2, mixing=False\) needs 5 slots, a cohort of 4 has too few"),
        ([*MEDIAN, "-1"], "f=-1 must be an integer of at least 0"),
        ([f"{METHOD}.directions", "5"], "directions=5 must be one of shared, client"),
        ([f"{METHOD}.local_steps", "0"], r"local_steps=0 must be an integer in \[1, "),
        ([f"{METHOD}.difference", "backward"], "difference.*backward"),
        ([f"{METHOD}.seed", "5"], "seed"),
        ([f"{DATA}.cohort", "9"], r"cohort=9 must be in \[1, clients=8\]"),
        ([f"{DATA}.cohort", "0"], r"cohort=0 must be in \[1, clients=8\]"),
        ([f"{DATA}.hosting", "fixed"], "fixed.*8"),
        ([f"{DATA}.partition.init_args.minimum", "1000"], "minimum=1000"),
        ([f"{DATA}.partition.init_args.alpha", "0.0"], r"alpha=0\.0 must be"),
        (["--trainer.max_steps", "0"], r"trainer\.max_steps=0 must be at least 1"),
        (["--trainer.precision", "16-mixed"], r"trainer\.precision=16-mixed must be 32-true"),
        (["--trainer.limit_val_batches", "0.5"], r"trainer\.limit_val_batches=0\.5 must be 1\.0 or 0"),
        (["--threads", "0"], "threads=0 must be at least 1"),
        (["--seed_everything", "true"], "seed.*True"),
        (["--ckpt_path", "nowhere.ckpt"], r"ckpt_path=nowhere\.ckpt does not exist"),
        (["--ckpt_path", "last"], "ckpt_path=last: .* holds no checkpoint"),
        (["--config", "nowhere.yaml"], r"nowhere\.yaml"),
    ],
)
def test_options_that_cannot_be(refused, base, args, message):
    line = refused([*base, *args])
    assert re.search(message, line), line


def test_text_that_cannot_be_read(refused, text_args, table, tmp_path):
    broken = tmp_path / "broken.tsv"
    broken.write_text("sentence\tlabel\na film\t1\na fine film\na film\t0\n")
    strange = tmp_path / "strange.tsv"
    strange.write_text("sentence\tlabel\na film\t1\na fine film\t7\n")
    for args, message in (
        (["--data.train_file", str(tmp_path / "nowhere.tsv")], r"nowhere\.tsv' does not exist"),
        (["--data.train_file", str(broken)], r"broken\.tsv line 3: 1 columns, 2 expected \(sentence, label\)"),
        (["--data.train_file", str(strange)], r"strange\.tsv line 3: label='7' must be"),
        (["--data.label_words", '[" bad", " splendid"]'], "label word ' splendid' is unknown to the tokenizer"),
        (["--data.label_words", '[" good film", " good film"]'], "are the same tokens"),
        (["--data.template", "{text} It was"], "no column 'text', there are sentence, label"),
        (["--data.train_examples", "61"], "train_examples=61 must be at most 60"),
        (["--data.max_length", "2"], "max_length"),
        (["--data.clients", "61", "--data.cohort", "1"], "61"),
    ):
        line = refused(["fit", *text_args, *args], status=(1,))
        assert re.search(message, line), line


def test_models_that_cannot_be_loaded(refused, text_args, opt, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(opt, bare)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (bare / name).unlink(missing_ok=True)
    cut = tmp_path / "cut"
    shutil.copytree(opt, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for args, message in (
        (["--model.network.pretrained", str(bare)], "tokenizer='.*bare': the folder holds no tokenizer"),
        (["--model.network.pretrained", str(cut)], "pretrained='.*cut' cannot be loaded"),
        (["--model.network.pretrained", str(tmp_path)], "pretrained=.* holds no config.json"),
        (["--model.network.pretrained", str(tmp_path / "none")], "pretrained=.*none': no such folder"),
        (["--model.network.peft", '{"r": 0}'], r"peft\.r=0 must be at least 1"),
    ):
        line = refused(["fit", *text_args, *args])
        assert re.search(message, line), line


def test_checkpoints_that_cannot_be_gone_on_from(refused, finished, tmp_path):
    root, args = finished
    last = root / "checkpoints" / "last.ckpt"
    truncated = tmp_path / "truncated.ckpt"
    truncated.write_bytes(last.read_bytes()[:-100])
    empty = tmp_path / "empty.ckpt"
    empty.write_bytes(b"")
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}, "epoch": 3}, foreign)
    code = tmp_path / "code.ckpt"
    torch.save({"callback": shutil.rmtree}, code)
    lightnings = tmp_path / "lightnings.ckpt"
    torch.save({"state_dict": {}, "global_step": 3, "optimizer_states": []}, lightnings)
    for path, message in (
        (truncated, r"truncated\.ckpt is truncated or no checkpoint"),
        (empty, r"empty\.ckpt is truncated or no checkpoint"),
        (code, r"code\.ckpt is truncated or no checkpoint"),
        (foreign, r"foreign\.ckpt: it is no checkpoint of a run"),
        (lightnings, "not a checkpoint of hiso_pl"),
    ):
        line = refused([*args, "--ckpt_path", str(path)])
        assert re.search(message, line), line
    line = refused([*args, "--ckpt_path", str(last), "--model.network.init_args.channels", "4"])
    assert (
        "the checkpoint is of another model: tensor 'first.weight' is [3, 1, 3, 3] there and [4, 1, 3, 3] here" in line
    )


def test_a_folder_that_holds_a_run_is_kept(refused, finished):
    root, args = finished
    line = refused(args, root=root)
    assert re.search(rf"trainer\.default_root_dir={root} already holds a run \(config\.yaml\)", line), line


def test_an_option_changes_on_resume_only_where_that_is_asked_for(refused, finished, tmp_path):
    finished_root, args = finished
    root = tmp_path / "resumed"
    shutil.copytree(finished_root, root)
    more = [*args, "--trainer.max_steps", "5", "--ckpt_path", "last"]
    lr, batch = [f"{METHOD}.lr", "0.001"], [f"{DATA}.batch_size", "4"]
    for change, named in (
        (lr, "model.method.init_args.lr was 0.02 and is 0.001"),
        (batch, "data.init_args.batch_size was 8 and is 4"),
        (["--seed_everything", "8"], "seed_everything was 7 and is 8"),
        (
            [*lr, *batch, "--change_on_resume", "[model.method.init_args.lr]"],
            "data.init_args.batch_size was 8 and is 4",
        ),
    ):
        assert named in refused([*more, *change], root=root)
    allowed = ["--change_on_resume", "[model.method.init_args.lr]"]
    assert cli.main([*more, *lr, *allowed, "--trainer.default_root_dir", str(root)]) == 0
    state = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 5
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0.001
    assert json.loads((root / "summary.json").read_text())["rounds"] == 5
    # and it acts: another digest than that of the run whose learning rate stayed
    other = tmp_path / "unchanged"
    shutil.copytree(finished_root, other)
    assert cli.main([*more, "--trainer.default_root_dir", str(other)]) == 0
    digests = {json.loads((folder / "summary.json").read_text())["digest"] for folder in (root, other)}
    assert len(digests) == 2


def test_more_ranks_than_clients_is_said_once(launch, base, tmp_path):
    status, out, root = launch(3, [*base, f"{DATA}.clients", "2", f"{DATA}.cohort", "1"], tmp_path / "run")
    assert status != 0
    [line] = [line for line in out.splitlines() if "hiso-pl: error" in line]
    assert "3 ranks but only 2 clients" in line
    assert contents(root) == {}
