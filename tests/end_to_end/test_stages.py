"""Runs of a network in stages: the same bits, on any number of ranks, and on from there uncut."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from hiso_pl.cli import program as cli
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.stages import Stages

pytestmark = pytest.mark.timeout(600)


def result(root):
    summary = json.loads((root / "summary.json").read_text())
    return summary["digest"], summary["metrics"]


@pytest.fixture(scope="module")
def uncut(launch, text_args, tmp_path_factory):
    status, out, root = launch(1, ["fit", *text_args], tmp_path_factory.mktemp("uncut") / "run")
    assert status == 0, out
    return result(root)


@pytest.mark.slow
def test_a_run_in_stages_is_the_run_uncut(launch, text_args, uncut, tmp_path):
    scratch = tmp_path / "scratch"
    stages = ["--model.stages.count", "2", "--model.stages.offload_dir", str(scratch)]
    status, out, root = launch(2, ["fit", *text_args, *stages], tmp_path / "run")
    assert status == 0, out
    assert "Probes go through 2 stages of model.model.decoder.layers: blocks 0 to 0, 1 to 1." in out
    assert result(root) == uncut
    assert list(scratch.iterdir()) == []


def test_a_run_goes_on_with_other_stages_or_none(here, text_args, uncut, tmp_path):
    begun = ["fit", *text_args, "--model.stages.count", "2", "--trainer.max_steps", "3"]
    assert here(begun, tmp_path / "run")[0] == 0
    on = ["fit", *text_args, "--ckpt_path", "last", "--trainer.max_steps"]
    scratch = ["--model.stages", json.dumps({"starts": [0, 1], "offload_dir": str(tmp_path)})]
    assert here([*on, "4", *scratch], tmp_path / "run")[0] == 0
    assert here([*on, "6"], tmp_path / "run")[0] == 0
    assert result(tmp_path / "run")[0] == uncut[0]


def test_a_run_in_stages_is_replayed_measured_and_exported(here, text_args, opt, tmp_path):
    root, scratch = tmp_path / "run", tmp_path / "scratch"
    stages = ["--model.stages.count", "2", "--model.stages.offload_dir", str(scratch)]
    assert here(["fit", *text_args, *stages, "--trainer.max_steps", "3"], root)[0] == 0
    config = str(root / "config.yaml")
    replay = ["replay", str(root / "rounds.ledger"), "--weights", str(opt), "--verify"]
    assert cli.main([*replay, "--offload_dir", str(scratch)]) == 0
    assert list(scratch.iterdir()) == []
    assert here(["validate", "--config", config], root)[0] == 0
    output = tmp_path / "exported"
    assert cli.main(["export", "--config", config, "--output", str(output)]) == 0
    exported = transformers.AutoModelForCausalLM.from_pretrained(output)
    state = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, p in exported.named_parameters():
        assert torch.equal(p, state[f"network.model.{name}"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--model.stages.count", "3"],
            "count=3 must be at most 2, the number of blocks in model.model.decoder",
        ),
        (["--model.stages.count", "1"], "count=1 must be at least 2"),
        (["--model.stages.blocks", "encoder"], "blocks='encoder' must be a list of blocks of the network"),
        (["--model.stages.count", "two"], "count"),
        (["--model.stages.offload_dir", "/dev/null/x"], "offload_dir='/dev/null/x' must be a folder to write to"),
        (
            ["--model.stages.count", "2", "--model.method", "FedAvg"],
            "model.stages must be null with method=FedAvg",
        ),
        (
            ["--model.stages.count", "2", "--model.method.directions_per_forward", "2"],
            "directions_per_forward=2 must be 1 with model.stages",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused_in_a_line(here, text_args, tmp_path, options, told):
    status, out, _ = here(["fit", *text_args, *options], tmp_path / "run")
    assert status != 0
    [line] = [line for line in out.splitlines() if "hiso-pl: error" in line]
    assert told in line
    assert not list(tmp_path.glob("run/*.tfevents*"))


def test_where_stages_are_is_a_word_in_a_file_too(here, text_args, tmp_path):
    (tmp_path / "stages.yaml").write_text("model:\n  stages:\n    on: host\n    count: 3\n")
    status, out, _ = here(["fit", *text_args, "--config", str(tmp_path / "stages.yaml")], tmp_path / "run")
    assert status != 0
    assert "count=3 must be at most 2, the number of blocks" in out


def test_a_round_whose_update_was_left_to_the_next_is_kept_only_if_it_is_finite(here, text_args, tmp_path):
    scratch = ["--model.stages", json.dumps({"count": 2, "offload_dir": str(tmp_path / "scratch")})]
    told = []
    for root, stages in ((tmp_path / "uncut", []), (tmp_path / "run", scratch)):
        status, out, _ = here(["fit", *text_args, *stages, "--model.method.lr", "3e38"], root)
        assert status != 0
        told += [line.partition(" (")[0] for line in out.splitlines() if "hiso-pl: error" in line]
        assert LedgerReader(root / "rounds.ledger").rounds == 0
    assert len(told) == 2
    assert all("round 0: " in line and "is not finite after the update" in line for line in told)


@pytest.fixture
def carried(monkeypatch):
    """Stages are brought to a device, which here is the CPU: copied to memory of their own, and back."""
    monkeypatch.setattr(Stages, "carries", lambda self, device: self.on == "host")


def test_a_run_whose_stages_are_brought_to_a_device_is_the_run_uncut(here, text_args, uncut, tmp_path, carried):
    stages = ["--model.stages.count", "2"]
    status, out, root = here(["fit", *text_args, *stages], tmp_path / "run")
    assert status == 0, out
    assert result(root) == uncut
    metrics = {name: found["last"] for name, found in uncut[1].items() if name.startswith("val/")}
    status, out, _ = here(["validate", "--config", str(root / "config.yaml"), "--ckpt_path", "last"], root)
    assert status == 0, out
    assert all(f"{name} {value:.4f}" in out for name, value in metrics.items())


def test_it_goes_on_from_a_checkpoint_and_its_ledger(here, text_args, uncut, tmp_path, carried):
    begun = ["fit", *text_args, "--model.stages", json.dumps({"count": 2, "offload_dir": str(tmp_path / "scratch")})]
    assert here([*begun, "--trainer.max_steps", "2"], tmp_path / "run")[0] == 0
    on = ["fit", *text_args, "--model.stages.count", "2", "--ckpt_path"]
    assert here([*on, "last", "--trainer.max_steps", "4"], tmp_path / "run")[0] == 0
    status, out, root = here([*on, "ledger", "--trainer.max_steps", "6"], tmp_path / "run")
    assert status == 0, out
    assert result(root)[0] == uncut[0]


def test_diagnosis_is_refused_where_stages_are_brought(here, text_args, tmp_path, carried):
    diagnosis = ["--trainer.callbacks+", "hiso_pl.callbacks.DiagnosisPanels"]
    status, out, _ = here(["fit", *text_args, "--model.stages.count", "2", *diagnosis], tmp_path / "run")
    assert status != 0
    [line] = [line for line in out.splitlines() if "hiso-pl: error" in line]
    assert "DiagnosisPanels looks at a whole network on its device" in line
