"""What runs of one's own are called."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hiso_pl import presets
from hiso_pl.report.labels import differing, in_words, method_name
from hiso_pl.report.run import read_runs
from hiso_pl.run.configuration import as_text

Make = Callable[..., Path]


def options(name: str, **changed: Any) -> dict[str, str]:
    tree = yaml.safe_load(presets.text(f"method/{name}"))
    tree["model"]["method"]["init_args"] |= changed
    return as_text(tree)


@pytest.mark.parametrize("name", [n.removeprefix("method/") for n in presets.names() if n.startswith("method/")])
def test_a_method_is_called_by_the_preset_that_it_is_whatever_its_rate_and_kernels(name: str) -> None:
    assert method_name(options(name, lr=0.123)) == name


def test_a_method_that_is_no_preset_is_called_by_the_nearest_and_what_it_has_of_its_own() -> None:
    rule = {"class_path": "hiso_pl.zeroth_order.Momentum", "init_args": {"beta": 0.5}}
    assert method_name(options("hiso", num_directions=10)) == "hiso, num_directions=10"
    assert method_name(options("hiso", update_rule=rule)) == "hiso, update_rule=Momentum, update_rule.beta=0.5"
    assert method_name(options("hiso", backend="reference", memory="low")) == "hiso"


@pytest.mark.parametrize(
    "method",
    [
        {"class_path": "mine.Method"},
        {"class_path": "os.system", "init_args": {"command": "false"}},
        {"class_path": "hiso_pl.cli.program.main"},
        {"class_path": "hiso_pl.no_such.Method"},
        {"class_path": "hiso_pl.zeroth_order.Method", "init_args": {"lr": "fast"}},
        {"class_path": "hiso_pl.zeroth_order.Method", "init_args": {"preconditioner": {"class_path": "mine.Part"}}},
        {},
    ],
)
def test_nothing_of_others_is_imported_for_a_name(method: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it ran"))
    asked, real = list[str](), importlib.import_module

    def note(name: str, *more: Any) -> Any:
        asked.append(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", note)
    assert method_name(as_text({"model": {"method": method}})) == ""
    assert set(asked) <= {"hiso_pl.zeroth_order"}


def test_what_differs_is_told_and_what_only_follows_is_not() -> None:
    iid, skew, more = (
        as_text(
            {"data": {"partition": {"class_path": f"hiso_pl.federation.{kind}", "init_args": arguments}}, "same": 1}
        )
        for kind, arguments in (
            ("IID", {}),
            ("Dirichlet", {"alpha": 0.1, "by": "label"}),
            ("Dirichlet", {"alpha": 1.0, "by": "label"}),
        )
    )
    key = "data.partition"
    assert differing([iid, skew]) == [f"{key}.class_path"]
    assert differing([skew, more]) == [f"{key}.init_args.alpha"]
    assert differing([iid, iid]) == []
    assert in_words([f"{key}.class_path", f"{key}.init_args.alpha"], skew) == "partition=Dirichlet, alpha=0.1"
    assert in_words(["a.lr", "b.lr"], {"a.lr": "1", "b.lr": "2"}) == "a.lr=1, b.lr=2"


def test_runs_of_ones_own_are_told_apart_by_method_rate_seed_and_what_else_differs(
    folder_of: Make, tmp_path: Path
) -> None:
    foreign = {"class_path": "mine.Method", "init_args": {"power": 2}}
    data = {"class_path": "hiso_pl.data.DigitsData", "init_args": {"clients": 8, "cohort": 2}}
    folder_of(tmp_path / "a", lr=0.1, seed=1)
    folder_of(tmp_path / "b", lr=0.2, seed=2, config={"trainer": {"max_steps": 100, "default_root_dir": "x"}})
    folder_of(tmp_path / "c", method=foreign)
    folder_of(tmp_path / "d", method={**foreign, "init_args": {"power": 3}}, config={"data": data, "threads": 3})
    found = [(run.method, run.setting, run.lr, run.seed) for run in read_runs([tmp_path])]
    assert sorted(found, key=str) == [
        ("Method, power=2", "cohort=4", 0.1, 1),
        ("Method, power=3", "cohort=2", 0.1, 1),
        ("hiso", "cohort=4", 0.1, 1),
        ("hiso", "cohort=4", 0.2, 2),
    ]


def test_lengths_tell_runs_apart_where_nothing_else_does(folder_of: Make, tmp_path: Path) -> None:
    for rounds in (50, 100):
        folder_of(tmp_path / str(rounds), config={"trainer": {"max_steps": rounds}})
    assert sorted(run.setting for run in read_runs([tmp_path])) == ["max_steps=100", "max_steps=50"]
