"""Folders of runs: which there are, what they are called, and what is said of those that are not whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hiso_pl.report.run import asked_aim, read_run, read_runs

Make = Callable[..., Path]


def setting(method: str, lr: float = 0.1, seed: int = 1, name: str = "") -> dict[str, Any]:
    return {"method": method, "setting": name, "lr": lr, "seed": seed}


def test_a_study_is_read_in_the_order_of_its_file(folder_of: Make, tmp_path: Path) -> None:
    for method, name, lr, seed in (
        ("b", "y", 0.2, 2),
        ("b", "y", 0.2, 1),
        ("b", "y", 0.1, 1),
        ("a", "x", 0.1, 1),
        ("b", "x", 0.1, 1),
    ):
        asked = setting(method, lr, seed, name)
        folder_of(tmp_path / method / name / f"lr-{lr}" / f"seed-{seed}", asked=asked)
    (tmp_path / "asked.json").write_text('{"setting": null, "configuration": {}}')
    plain: dict[str, Any] = {
        "methods": {"b": {}, "a": {}},
        "settings": {"y": {}, "x": {}},
        "by": "rounds",
        "targets": [0.5],
        "metric": None,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    runs = read_runs([tmp_path])
    assert [(run.method, run.setting, run.lr, run.seed) for run in runs] == [
        ("b", "y", 0.1, 1), ("b", "y", 0.2, 1), ("b", "y", 0.2, 2), ("b", "x", 0.1, 1), ("a", "x", 0.1, 1),
    ]  # fmt: skip
    assert all(run.complete for run in runs)
    assert asked_aim([tmp_path]) == {"by": "rounds", "targets": [0.5]}
    assert asked_aim([tmp_path, tmp_path / "a"]) == {}


def test_runs_of_studies_before_they_had_files_are_read(folder_of: Make, tmp_path: Path) -> None:
    asked = {"lr": 0.1, "seed": 1, "method": "hiso", "key": "data.cohort", "value": "2"}
    folder_of(tmp_path / "run", asked=asked)
    assert read_run(tmp_path / "run").setting == "data.cohort=2"


def test_a_run_that_a_study_is_yet_to_begin_is_one_that_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    noted = {"setting": setting("a"), "configuration": {"trainer.max_steps": "50", "test_at_end": "False"}}
    (tmp_path / "run" / "asked.json").write_text(json.dumps(noted))
    (run,) = read_runs([tmp_path])
    assert (run.method, run.complete, len(run.curve), run.summary) == ("a", False, 0, {})
    assert any("there is no summary.json" in note for note in run.notes)


def test_only_a_run_with_all_rounds_and_its_test_is_complete(folder_of: Make, tmp_path: Path) -> None:
    for i, (options, expected) in enumerate(
        [
            ({}, True),
            ({"rounds": 49}, False),
            ({"interrupted": True}, False),
            ({"config": {"test_at_end": True}}, False),
        ]
    ):
        assert read_run(folder_of(tmp_path / str(i), **options)).complete is expected


@pytest.mark.parametrize(
    "text",
    [
        '{"rounds"',
        "[]",
        "",
        "\x00",
        "[" * 100_000,
        '{"rounds": 50}',
        '{"rounds": 50, "metrics": {"val/loss": 1}}',
        '{"rounds": 50, "metrics": {"val/loss": {"last": "1"}}}',
        '{"rounds": true, "metrics": {}}',
    ],
)
def test_a_damaged_summary_is_said_and_the_curve_counts(folder_of: Make, tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path / "run")
    (folder / "summary.json").write_text(text)
    run = read_run(folder)
    assert (run.complete, run.summary, len(run.curve)) == (False, {}, 3)
    assert [note for note in run.notes if note.startswith("summary.json is damaged")]


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1",
        "a: &a [1]\nb: &b [" + "*a, " * 300 + "]\nc: &c [" + "*b, " * 300 + "]\nd: [" + "*c, " * 300 + "]",
        "a: &a {b: *a}",
        "a: !!python/object/apply:os.system [echo]",
        "{" * 50_000,
    ],
)
def test_a_configuration_that_is_none_or_a_trap_is_said(folder_of: Make, tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path / "run")
    (folder / "config.yaml").write_text(text)
    run = read_run(folder)
    assert (run.complete, run.method, run.lr) == (False, "run", None)
    assert [note for note in run.notes if note.startswith("config.yaml cannot be read")]


def test_what_is_null_in_a_summary_is_no_number(folder_of: Make, tmp_path: Path) -> None:
    metrics = {"val/accuracy": {"first": 0.1, "best": 0.5, "last": None}, "val/loss": {"first": 1.0, "last": None}}
    run = read_run(folder_of(tmp_path / "run", metrics=metrics))
    assert math.isnan(run.value("val/accuracy", "last"))
    assert run.value("val/accuracy", "best") == 0.5


def test_names_from_files_steer_no_terminal(folder_of: Make, tmp_path: Path) -> None:
    run = read_run(folder_of(tmp_path / "run", asked=setting("a\x1b[31m\nb" + "c" * 500)))
    assert run.method.startswith("a\\x1b[31m b")
    assert len(run.method) == 200


def test_folders_without_runs_and_runs_that_are_given_twice_are_refused(folder_of: Make, tmp_path: Path) -> None:
    folder_of(tmp_path / "all" / "one")
    (tmp_path / "empty").mkdir()
    for folders, words in (
        (["none"], "none is no folder: give folders of runs or of studies"),
        (["empty"], "empty holds no run: give folders of runs"),
        (["all", "all"], "one is given twice: give each run once"),
        (["all", "all/one"], "one is given twice, in .*all and in .*one"),
    ):
        with pytest.raises(ValueError, match=words):
            read_runs([tmp_path / folder for folder in folders])
    with pytest.raises(ValueError, match="holds no run: there is no config"):
        read_run(tmp_path / "empty")


def test_one_looks_through_so_many_folders_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiso_pl.report.run.REPORT_FOLDERS", 3)
    for name in "abcd":
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="has over 3 folders below it: name those of the runs"):
        read_runs([tmp_path])
