"""Every configuration that comes with the package starts, names of the hub being answered by tiny local things."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import hiso_pl.data.text
import hiso_pl.models.causal_lm
import hiso_pl.models.loading
import hiso_pl.models.sequence_classifier
from hiso_pl import cli

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
ROWS = 2100


@pytest.fixture(autouse=True)
def _process():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.fixture
def hub(monkeypatch, opt):
    """Answers the hub's names; returns what was asked for."""
    asked = []
    load_pretrained, load_tokenizer = hiso_pl.models.loading.load_pretrained, hiso_pl.models.loading.load_tokenizer

    def model(auto_class, pretrained, **options):
        asked.append(pretrained)
        options["use_safetensors"] = True
        return load_pretrained(auto_class, str(opt), **options)

    def tokenizer(source, revision=None):
        asked.append(source)
        return load_tokenizer(str(opt))

    def dataset(path, name=None, split=None):
        asked.append(f"{path}/{name}/{split}")
        words = ["a", "fine", "film", "great", "bad"]
        return [
            {"sentence": " ".join(words[(i * 3 + j) % 5] for j in range(2 + i % 3)), "label": (i // 3) % 2, "idx": i}
            for i in range(ROWS if split == "train" else 70)
        ]

    for module in (hiso_pl.models.causal_lm, hiso_pl.models.sequence_classifier):
        monkeypatch.setattr(module, "load_pretrained", model)
    monkeypatch.setattr(hiso_pl.data.text, "load_tokenizer", tokenizer)
    monkeypatch.setattr("datasets.load_dataset", dataset)
    return asked


def test_there_are_configurations():
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_runs_a_round(path, hub, opt, table, tmp_path, capsys):
    """One that is to be given after another is given after the one of the command at its head."""
    named = re.findall(r"--config (configs/\S+)", path.read_text()) or [f"configs/{path.name}"]
    assert named[-1] == f"configs/{path.name}"
    args = ["fit", *(word for name in named for word in ("--config", str(path.parents[1] / name)))]
    args += ["--trainer.max_steps", "1", "--test_at_end", "false", "--threads", "1", "--trainer.accelerator"]
    args += ["cpu", "--trainer.default_root_dir", str(tmp_path / "run")]
    if any("local" in name for name in named):  # paths are to be given by the user
        args += ["--model.network.pretrained", str(opt)]
        args += ["--data.train_file", table("many.tsv", ROWS), "--data.validation_file", table("few.tsv", 20)]
    assert cli.main(args) == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"] == 1
    assert summary["metrics"]["val/loss"]["first"] != summary["metrics"]["val/loss"]["last"]
    if "facebook/" in path.read_text():
        assert any(name.startswith("facebook/") for name in hub)
        assert any(name.endswith("/train") for name in hub)


def test_configurations_that_say_so_are_of_the_papers_setting():
    text = {path.stem: path.read_text() for path in CONFIGS}
    for stem in ("sst2_opt-125m_hiso", "sst2_opt-125m_decomfl"):
        for line in ("num_directions: 5", "mu: 1.0e-3", "clients: 6", "cohort: 2", "alpha: 1.0"):
            assert line in text[stem], (stem, line)
