"""The command as it is called."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hiso_pl.cli import program

Make = Callable[..., Path]


@pytest.fixture
def study(folder_of: Make, tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for method, values in (("one", [0.1, 0.8, 0.9]), ("other", [0.1, 0.5, 0.8])):
        for seed in (1, 2):
            asked = {"method": method, "setting": "", "lr": 0.1, "seed": seed}
            folder_of(root / method / "lr-0.1" / f"seed-{seed}", values, seed=seed, asked=asked)
    return root


def test_a_study_is_reported_by_what_its_file_asks_for(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "study.yaml").write_text(
        yaml.safe_dump({"methods": {"other": {}, "one": {}}, "by": "rounds", "targets": [0.8]}, sort_keys=False)
    )
    assert program.main(["report", str(study)]) == 0
    out = capsys.readouterr().out
    assert "fewest rounds to it" in out
    assert out.index("| other |") < out.index("| one |")
    assert program.main(["report", str(study), "--targets", "0.5", "--by", "last", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["aim"] == {"metric": "val/accuracy", "by": "last", "targets": [0.5]}


def test_all_files_of_a_report_are_written(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures and page, which take their time, have tests of their own."""
    drawn = list[Any]()

    def draw(*given: Any) -> list[Path]:
        drawn.append(given)
        return []

    monkeypatch.setattr("hiso_pl.report.files.write_pictures_and_page", draw)
    output = tmp_path / "new" / "out"
    command = ["report", str(study), "--targets", "0.8", "--output", str(output)]
    assert program.main(command) == 0
    assert (output / "report.md").read_text() == capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {
        f"report{end}" for end in (".md", ".tex", ".csv", ".json", "-runs.csv")
    }
    [(comparison, folder, _, said)] = drawn
    assert (len(comparison.groups), folder, said) == (2, output, shlex.join(["hiso-pl", *command]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere"], "nowhere is no folder: give folders of runs or of studies, in which config.yaml lies"),
        (["STUDY", "STUDY/one"], "is given twice, in"),
        (["STUDY", "--metric", "val/f1"], "metric=val/f1 must be one of val/accuracy, val/loss"),
        (["STUDY", "--metric", "accuracy"], "metric=accuracy must be one of validation, such as val/accuracy"),
        (["STUDY", "--by", "rounds"], "by=rounds needs targets"),
        (
            ["STUDY", "--by", "bset"],
            "argument --by: invalid choice: 'bset' (choose from 'best', 'last', 'rounds', 'loss')",
        ),
        (["STUDY", "--targets", "0.5", "0.5"], "each of them once"),
        (["STUDY", "--targets", "high"], "targets"),
        (["STUDY", "--format", "word"], "format"),
        (["STUDY", "--output", "STUDY/one/lr-0.1/seed-1/config.yaml"], "config.yaml must be a folder that can be"),
        (["STUDY", "--output", "/proc/none"], "output=/proc/none must be a folder that can be written into"),
        ([], "folders"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert program.main(["report", *(option.replace("STUDY", str(study)) for option in options)]) != 0
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert words in line


def test_a_target_that_nobody_reaches_is_told(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["report", str(study), "--targets", "0.99"]) == 0
    assert "- No run reaches val/accuracy 0.99; the best there is is 0.9." in capsys.readouterr().out
