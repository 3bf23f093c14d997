"""The studies that come with the package ask for what ``fit`` takes, on digits and on other models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hiso_pl import presets
from hiso_pl.cli.study import resolve
from hiso_pl.cli.study_file import read
from hiso_pl.presets import studies
from hiso_pl.study.file import Study
from hiso_pl.study.grid import Grid, Group

NAMES = [name for name in presets.names() if presets.is_study(name)]
OWN = [name for name in NAMES if "-" not in name]
MADE = [name for name in NAMES if "-" in name]
ISSUE = {"hessian", "non_iid", "baselines", "budget", "models", "sensitivity", "robustness"}


def groups(study: Study) -> list[Group]:
    return Grid(study, Path("unused"), resolve).groups


def first(study: Study, methods: int | None = 1, settings: int | None = 1) -> Study:
    return replace(
        study, methods=dict([*study.methods.items()][:methods]), settings=dict([*study.settings.items()][:settings])
    )


def test_each_question_is_asked_on_digits_the_small_language_model_and_two_of_the_hub() -> None:
    assert {f"study/{name}" for name in ISSUE} <= {*OWN}
    asked = {f"study/{name}-{model}" for name in ISSUE for model in ("language", "opt-125m", "opt-1.3b")}
    assert asked - {*MADE} == {"study/models-language"}  # it is among those of study/models


@pytest.mark.parametrize("name", OWN)
def test_fit_takes_every_method_and_every_setting_of_a_study(name: str) -> None:
    study, _ = read(name, quick=False)
    across = [*groups(first(study, methods=None)), *groups(first(study, settings=None))]
    assert {group.method for group in across} == {*study.methods}
    assert {group.setting for group in across} == ({*study.settings} or {""})
    assert all(len(group.lrs) >= 3 for group in across)
    rounds = {group.configuration["trainer.max_steps"] for group in groups(first(read(name, quick=True)[0]))}
    assert all(int(count) > 0 for count in rounds)


@pytest.mark.parametrize("name", MADE)
def test_a_study_on_another_model_is_that_study_with_the_models_configuration(name: str) -> None:
    study, own = read(name, quick=False)[0], read(name.partition("-")[0], quick=False)[0]
    model = {"language": "./runs/small_language"}.get(name.partition("-")[2], f"facebook/{name.partition('-')[2]}")
    (group,) = groups(first(study))
    assert group.configuration["model.network.init_args.pretrained"] == repr(model)
    assert group.configuration["model.lr_scheduler.class_path"] == repr("hiso_pl.run.schedules.CosineToEnd")
    assert not {*study.settings} - {*own.settings}
    if name.startswith("study/models"):
        assert not {*study.methods} & {*own.methods}
    else:
        assert {*study.methods} <= {*own.methods}
    assert len(read(name, quick=True)[0].seeds) == 1


def test_a_study_on_another_model_scales_rounds_and_rates_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "short.yaml").write_text(
        "# Is it short? A study of two.\n#\n# The paper says so.\n# Needs nothing.\n"
        "config: [quickstart]\n"
        "options: {trainer.max_steps: 600, trainer.val_check_interval: 25, data.partition: IID}\n"
        "methods: {a: {config: hiso, lrs: &r [0.01, 0.02]}, b: {config: fedavg, lrs: *r}, c: {config: decomfl}}\n"
        "targets: [0.7]\n"
        "quick: {options: {trainer.max_steps: 100}}\n"
    )
    (tmp_path / "study" / "table.yaml").write_text(
        "big: {model: BIG, needs: a hub, measured: It is not., config: [big], options: {threads: 2}, rounds: 2.5, "
        "lr: 1.0e-3, targets: [0.9], lrs: {b: [0.5]}, leaves_out: [], over: {short: {methods: {c: null}}}}\n"
        "small: {leaves_out: [short]}\n"
    )
    assert studies.names(tmp_path) == ["study/short-big"]
    text = studies.text(tmp_path, "study/short-big")
    assert text.splitlines()[:4] == [
        "# Is it short? The same on BIG.",
        "# The paper says so.",
        "# Needs a hub.",
        "# Made of study/short and study/table.yaml: 2.5 of its rounds and 0.001 of its rates. It is not.",
    ]
    assert yaml.safe_load(text) == {
        "config": ["big"],
        "options": {
            "trainer.max_steps": 1500,
            "trainer.val_check_interval": 62,
            "data.partition": "IID",
            "threads": 2,
        },
        "methods": {"a": {"config": "hiso", "lrs": [1e-5, 2e-5]}, "b": {"config": "fedavg", "lrs": [0.5]}},
        "targets": [0.9],
        "quick": {"options": {"trainer.max_steps": 250}, "targets": [0.9]},
    }
