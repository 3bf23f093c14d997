"""Options of a class stay with it: another class that takes its place gets those only that both inherit."""

from __future__ import annotations

import inspect

import pytest
import yaml

from hiso_pl.cli import overrides, parser_privates
from hiso_pl.data import DigitsData, PromptData
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.federation import IID, Dirichlet
from hiso_pl.zeroth_order import Diagonal, Identity, PerTensor

from .conftest import BASE

METHOD = "--model.method.init_args"
FEDERATION = "hiso_pl.federation"
SHORT_AND_LONG = [
    *("IID", f"{FEDERATION}.IID", f"{FEDERATION}.partition.iid.IID", f'{{"class_path": "{FEDERATION}.IID"}}'),
]


@pytest.fixture
def resolved(say, caplog):
    """What the options of a fit come to, and what was said of those that are left out."""

    def resolved(*args: str) -> tuple[dict, list[str]]:
        caplog.clear()
        status, out, errors = say("fit", "--config", BASE, *args, "--print_config")
        assert status == 0, errors
        return yaml.safe_load(out), [line for line in caplog.messages if "takes the place" in line]

    return resolved


@pytest.mark.parametrize("name", SHORT_AND_LONG)
@pytest.mark.parametrize("option", ["--data.partition", "--data.init_args.partition"])
def test_a_partition_does_not_inherit_the_minimum_of_another(resolved, option, name):
    config, said = resolved(option, name)
    partition = config["data"]["init_args"]["partition"]
    assert partition["init_args"] == {"minimum": 1}
    assert said == ["IID takes the place of Dirichlet; left out, as given for that: alpha=0.5, minimum=4."]


@pytest.mark.parametrize(
    "name", ["Dirichlet", f"{FEDERATION}.Dirichlet", f"{FEDERATION}.partition.dirichlet.Dirichlet"]
)
def test_the_same_class_by_another_name_keeps_its_options(resolved, name):
    config, said = resolved("--data.partition", name, "--data.partition.by", "length")
    assert config["data"]["init_args"]["partition"]["init_args"] == {
        **{"alpha": 0.5, "minimum": 4},
        **{"by": "length", "bins": 10},
    }
    assert said == []


def test_a_later_file_overrides_as_the_command_line_does(resolved, tmp_path):
    path = tmp_path / "later.yaml"
    path.write_text("data:\n  init_args:\n    partition:\n      class_path: hiso_pl.federation.IID\n")
    config, said = resolved("--config", str(path))
    assert config["data"]["init_args"]["partition"]["init_args"] == {"minimum": 1}
    assert len(said) == 1


def test_what_is_given_for_the_new_class_itself_stays(resolved):
    config, _ = resolved("--data.partition", "IID", "--data.partition.minimum", "7")
    assert config["data"]["init_args"]["partition"]["init_args"] == {"minimum": 7}


def test_what_both_inherit_passes(resolved):
    config, said = resolved(f"{METHOD}.preconditioner.nu", "0.2", f"{METHOD}.preconditioner", "PerTensor")
    assert config["model"]["method"]["init_args"]["preconditioner"]["init_args"]["nu"] == 0.2
    assert said == []
    config, said = resolved(f"{METHOD}.preconditioner.nu", "0.2", f"{METHOD}.preconditioner", "Identity")
    assert config["model"]["method"]["init_args"]["preconditioner"]["init_args"] == {}
    assert said == ["Identity takes the place of Diagonal; left out, as given for that: nu=0.2."]


def test_another_data_class_keeps_clients_and_cohort_and_no_more(resolved):
    config, said = resolved("--data.validation", "40", "--data.split_seed", "3", "--data", "hiso_pl.data.PromptData")
    data = config["data"]["init_args"]
    assert (data["clients"], data["cohort"], data["batch_size"]) == (8, 4, 8)
    assert data["partition"]["init_args"]["minimum"] == 4
    assert data["split_seed"] == 0  # both have one of their own
    assert said == [
        "PromptData takes the place of DigitsData; left out, as given for that: validation=40, split_seed=3."
    ]


def test_a_scheduler_does_not_inherit_the_length_of_another(resolved):
    schedulers = "torch.optim.lr_scheduler"
    first = f'{{"class_path": "{schedulers}.CosineAnnealingLR", "init_args": {{"T_max": 7, "last_epoch": -1}}}}'
    config, said = resolved(
        *("--model.lr_scheduler", first, "--model.lr_scheduler", f"{schedulers}.CosineAnnealingWarmRestarts"),
        *("--model.lr_scheduler.T_0", "5"),
    )
    assert "T_max" not in config["model"]["lr_scheduler"]["init_args"]
    assert said == [
        "CosineAnnealingWarmRestarts takes the place of CosineAnnealingLR; left out, as given for that: T_max=7."
    ]


def test_defaults_that_nobody_set_are_not_told(resolved):
    _, said = resolved(f"{METHOD}.preconditioner", "Identity")
    assert said == []


@pytest.mark.parametrize(
    ("name", "classes", "passes"),
    [
        ("minimum", (Dirichlet, IID), False),
        ("clients", (DigitsData, PromptData), True),
        ("split_seed", (DigitsData, PromptData), False),
        ("nu", (Diagonal, PerTensor), True),
        ("nu", (Diagonal, Identity), False),
        ("clients", (FederatedDataModule, PromptData), True),
    ],
)
def test_an_option_passes_if_one_constructor_gives_it_to_both(name, classes, passes):
    assert overrides.inherited(name, *classes) is passes


def test_what_is_private_in_jsonargparse_is_there():
    from jsonargparse import _typehints

    assert _typehints.discard_init_args_on_class_path_change.__name__ == "leave_behind"
    source = inspect.getsource(_typehints)
    assert source.count("    discard_init_args_on_class_path_change(") == 2  # of a value, and of a class within one
    parameters = inspect.signature(parser_privates.original_overriding()).parameters
    assert list(parameters) == ["parser_or_action", "prev_val", "value"]
