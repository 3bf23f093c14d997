"""Every preset: they compose, and what they make starts.

Names of the hub are answered by tiny local things. The language quickstart has a test of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import hiso_pl.models.causal_lm
from hiso_pl import presets
from hiso_pl.cli import program as cli
from hiso_pl.cli import running
from hiso_pl.cli.parser import ConfigurationError, Parser
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.tasks import TASKS, GenerationTask
from hiso_pl.run.configuration import as_text

pytestmark = pytest.mark.usefixtures("process_settings")

ROWS = 1100  # of a training split; more than any preset draws
# columns as the hub has them; what is not here is a text
VALUES: dict[str, Any] = {
    "label": 1,
    "answer": True,
    "question": "is it",
    "answers": {"text": ["fine", "a film"], "answer_start": [0, 3]},
    "answers_spans": {"spans": ["fine"], "types": ["span"]},
}


@pytest.fixture(scope="module")
def byte_opt(tmp_path_factory):
    """A tiny random OPT that reads any text, byte by byte."""
    folder = tmp_path_factory.mktemp("byte-opt")
    words = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    config = transformers.OPTConfig(
        vocab_size=len(words),
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        init_std=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def hub(monkeypatch, byte_opt):
    """Answers the hub's names; returns what was asked for."""
    asked = []
    load_pretrained = hiso_pl.models.causal_lm.load_pretrained
    load_tokenizer = hiso_pl.data.text.tokenizing.load_tokenizer

    def model(auto_class, pretrained, **options):
        if Path(pretrained).is_dir():
            return load_pretrained(auto_class, pretrained, **options)
        asked.append(pretrained)
        options["use_safetensors"] = True
        return load_pretrained(auto_class, str(byte_opt), **options)

    def tokenizer(source, revision=None, trust_remote_code=False):
        return load_tokenizer(source if Path(source).is_dir() else str(byte_opt))

    def dataset(path, name=None, split=None):
        asked.append(f"{path}/{name}/{split}")
        columns = next(
            columns_of(task) for task in TASKS.values() if task.hub and (task.hub.path, task.hub.name) == (path, name)
        )
        words = ["a", "fine", "film", "great", "bad"]

        def row(i):
            text = " ".join(words[(i * 3 + j) % 5] for j in range(2 + i % 3))
            varied = {"label": (i // 3) % 2, "answer": i % 2 == 0, "question": "cause" if name == "copa" else text}
            varied["choice2"] = f"not {text}"
            return {column: varied.get(column, VALUES.get(column, text)) for column in columns}

        return [row(i) for i in range(ROWS)]

    monkeypatch.setattr(hiso_pl.models.causal_lm, "load_pretrained", model)
    monkeypatch.setattr(hiso_pl.data.text.tokenizing, "load_tokenizer", tokenizer)
    monkeypatch.setattr("datasets.load_dataset", dataset)
    return asked


def columns_of(task):
    """Columns that the hub has for a task."""
    columns = set(task.columns) - {"conjunction"}
    if isinstance(task, GenerationTask):
        return columns | {task.answer.partition(".")[0]}
    choices = {"choice1", "choice2", "question"} if task.name == "copa" else set()
    return columns | choices | {"answer" if task.hub.path == "google/boolq" else task.label_column}


@pytest.fixture(scope="module")
def parse():
    """Parses the options of a fit, by one parser for all; nothing is built."""

    class Parsed(Exception):
        pass

    class Stopped(running.FederatedCLI):
        def parse_arguments(self, parser, args):
            raise Parsed(parser)

    patch = pytest.MonkeyPatch()
    patch.setattr(running, "FederatedCLI", Stopped)
    try:
        with pytest.raises(Parsed) as caught:
            running.run(["fit"])
    finally:
        patch.undo()
    (parser,) = caught.value.args

    def parse(*names: str, options: tuple[str, ...] = ()) -> dict[str, str]:
        files = [word for name in names for word in ("--config", name)]
        found = parser.parse_args(["fit", *files, *options])
        plain = found.fit.as_dict()
        return as_text({key: value for key, value in plain.items() if key != "config"})

    return parse


def names(folder):
    return [name.partition("/")[2] for name in presets.names() if name.startswith(f"{folder}/")]


# Composition


@pytest.mark.parametrize("method", ["hiso", "decomfl"])
def test_the_papers_setting(parse, method):
    """Section 5 of arXiv 2506.02370: 2 of 6 clients, Dirichlet 1, P = 5, tau = 1, mu = 1e-3, nu = 0.05."""
    found = parse(f"paper/opt-350m_squad_{method}")
    expected = {
        "data.init_args.clients": "6",
        "data.init_args.cohort": "2",
        "data.init_args.train_examples": "1000",
        "data.init_args.partition.init_args.alpha": "1.0",
        "data.init_args.partition.init_args.by": "'length'",
        "model.method.init_args.num_directions": "5",
        "model.method.init_args.local_steps": "1",
        "model.method.init_args.mu": "0.001",
        "model.method.init_args.difference": "'forward'",
        "model.method.init_args.compute_dtype": "'float32'",
    }
    if method == "hiso":
        expected["model.method.init_args.preconditioner.init_args.nu"] = "0.05"
    assert {key: found[key] for key in expected} == expected
    kind = "Diagonal" if method == "hiso" else "Identity"
    assert found["model.method.init_args.preconditioner.class_path"] == f"'hiso_pl.zeroth_order.{kind}'"


def test_model_task_and_method_compose_in_any_order_and_an_option_wins(parse):
    parts = ["model/opt-125m", "task/sst2-hiso", "method/hiso"]
    found = parse(*parts)
    assert found["model.network.init_args.pretrained"] == "'facebook/opt-125m'"
    assert parse(*parts[::-1]) == parse(parts[2], parts[0], parts[1]) == found
    changed = parse(*parts, options=("--model.method.lr", "7e-6"))
    assert {key for key in found if found[key] != changed[key]} == {"model.method.init_args.lr"}


@pytest.mark.parametrize("method", names("method"))
def test_a_method_given_after_hiso_leaves_nothing_of_it(parse, method):
    alone = parse("model/opt-125m", "task/sst2", f"method/{method}")
    assert alone["model.method.class_path"].startswith(("'hiso_pl.zeroth_order.Method", "'hiso_pl.first_order.Fed"))
    after = parse("model/opt-125m", "task/sst2", "method/hiso", f"method/{method}")
    assert after == alone


def test_tuning_comes_after_model_and_method(parse):
    for name in names("tuning"):
        found = parse("model/opt-125m", "task/sst2", "method/hiso", f"tuning/{name}")
        assert found["model.method.init_args.lr"] != "5e-06"
        tuned = {key for key in found if key.startswith("model.network.init_args.peft")}
        assert tuned != {"model.network.init_args.peft"} or "trainable" in presets.text(f"tuning/{name}")
    with pytest.raises(ConfigurationError, match="class_path"):
        parse("tuning/lora", "model/opt-125m", "task/sst2", "method/hiso")


# What they make starts


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_tasks_data_are_read_drawn_and_divided(task, hub, byte_opt, tmp_path):
    """From the hub's columns to the clients' examples, with the preset's options."""
    parser = Parser()
    parser.add_subclass_arguments(FederatedDataModule, "data")
    values = yaml.safe_load(presets.text(f"task/{task}"))
    values["data"]["init_args"] |= {"tokenizer": str(byte_opt), "cache_dir": str(tmp_path), "max_length": 480}
    data = parser.instantiate(parser.parse_object(values)).data
    assert data.task.name == task
    data.setup("fit")
    found = TASKS[task].hub
    assert f"{found.path}/{found.name}/{found.train}" in hub
    drawn = values["data"]["init_args"].get("train_examples", ROWS)
    assert sum(data.ownership.sizes) == drawn
    assert min(data.ownership.sizes) >= 16
    assert len(data.ownership.sizes) == 6


@pytest.mark.parametrize(
    "given",
    [
        ["quickstart"],
        ["crowd"],
        ["local/sst2"],
        ["local/own"],
        ["local/sst2_encoder"],
        ["paper/opt-125m_sst2_hiso"],
        ["paper/opt-350m_qqp_decomfl"],
        ["paper/opt-2.7b_squad_hiso"],
        *(["paper/opt-125m_squad_hiso", f"tuning/{name}"] for name in ("prompt", "prefix")),  # generate behind them
        *(["model/local", "task/sst2", "method/hiso", f"tuning/{name}"] for name in names("tuning")),
        *(
            ["model/local", "task/sst2", f"method/{name}"]
            for name in names("method")
            if name not in ("hiso", "decomfl")
        ),
    ],
    ids=lambda given: "+".join(name.rpartition("/")[2] for name in given),
)
def test_a_configuration_runs_a_round(given, hub, byte_opt, opt, table, tmp_path, capsys):
    args = ["fit", *(word for name in given for word in ("--config", name))]
    args += ["--trainer.max_steps", "1", "--test_at_end", "false", "--threads", "1", "--trainer.accelerator"]
    args += ["cpu", "--trainer.default_root_dir", str(tmp_path / "run")]
    if given[0].startswith(("local/", "model/local")):  # paths are to be given by the user
        args += ["--model.network.pretrained", str(opt)]
        own = given == ["local/own"]
        args += ["--data.train_file", table("fifty.tsv", 50) if own else table("many.tsv", 2100)]
        args += ["--data.template", "{sentence} It was"] if own else ["--data.validation_file", table("few.tsv", 20)]
    if "method/robust" in given:  # which needs 2 f + 1
        args += ["--data.cohort", "3"]
    if given not in (["quickstart"], ["crowd"]):
        args += ["--data.cache_dir", str(tmp_path / "cache")]
    if given[0].startswith("paper/"):  # what is checked is that it starts
        args += ["--data.max_length", "480", "--data.train_examples", "200", "--data.validation_examples", "40"]
    assert cli.main(args) == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["rounds"] == 1
    assert summary["metrics"]["val/loss"]["first"] != summary["metrics"]["val/loss"]["last"]
    if given[0].startswith("paper/"):
        assert any(name.startswith("facebook/opt") for name in hub)
        assert any(name.endswith("/train") for name in hub)
