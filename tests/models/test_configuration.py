"""The networks as YAML says them: typed options, documented by their docstrings."""

from __future__ import annotations

import pytest
import yaml
from jsonargparse import ArgumentParser

from hiso_pl.models import CausalLM, LoRA, SequenceClassifier, TaskModel


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TaskModel, "network")
    return parser


@pytest.mark.parametrize(
    ("peft", "trained"),
    [({"r": 3, "target_modules": ["q_proj"]}, "lora_"), ({"peft_type": "IA3"}, "ia3_"), (None, "")],
)
def test_a_network_is_built_from_yaml(parser, folder, peft, trained):
    config = {"class_path": "hiso_pl.models.CausalLM", "init_args": {"pretrained": folder("opt")}}
    if peft is not None:
        config["init_args"]["peft"] = peft
    parsed = parser.parse_args([f"--network={yaml.safe_dump(config)}"])
    network = parser.instantiate(parsed).network
    assert type(network) is CausalLM
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    assert names
    assert all(trained in name for name in names)
    reparsed = parser.parse_args([f"--network={yaml.safe_dump(yaml.safe_load(parser.dump(parsed))['network'])}"])
    assert reparsed.network == parsed.network


def test_options_of_lora_can_be_set_one_by_one(parser, folder):
    arguments = ["--network=SequenceClassifier", f"--network.pretrained={folder('bert')}"]
    arguments += ["--network.peft.r=2", "--network.peft.target_modules=[query]"]
    network = parser.instantiate(parser.parse_args(arguments)).network
    assert type(network) is SequenceClassifier
    assert network.model.peft_config["default"].r == 2


def test_lora_in_pefts_words():
    assert LoRA(r=4, alpha=8).options() == {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": None,
        "modules_to_save": None,
        "use_rslora": False,
    }
