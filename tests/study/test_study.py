"""Studies by the program itself, on digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hiso_pl.cli import program

FILE = """\
# Which rate.
config: [quickstart]
options: {data.partition: IID, data.batch_size: 8, trainer.max_steps: 40, trainer.val_check_interval: 10}
methods:
  HiSo: {config: method/hiso, lrs: [0.01, 0.03]}
  own, one scalar: {config: method/own-scalar, lrs: [0.02, 0.04]}
seeds: [1, 2]
rates: {halving: {first: 0.25}}
targets: [0.15]
quick: {seeds: [1], methods: [HiSo], rates: grid}
"""


def summaries(root: Path) -> dict[str, Any]:
    return {str(path.parent.relative_to(root)): json.loads(path.read_text()) for path in root.rglob("summary.json")}


@pytest.mark.slow
def test_a_run_that_was_halted_and_went_on_is_the_run_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], process_settings: None
) -> None:
    """About a minute of processor time, most of it 10 runs."""
    file, halved, whole = tmp_path / "own.yaml", tmp_path / "halved", tmp_path / "whole"
    file.write_text(FILE)
    assert program.main(["study", str(file), "--root", str(halved), "--jobs", "2"]) == 0
    told = capsys.readouterr().out
    found = summaries(halved)
    complete = {name: summary for name, summary in found.items() if not summary["interrupted"]}
    halted = {name: summary for name, summary in found.items() if summary["interrupted"]}
    assert (len(complete), len(halted)) == (4, 2)
    assert {summary["rounds"] for summary in halted.values()} == {10}
    assert {name.rpartition("/")[2] for name in halted} == {"seed-1"}
    assert all("--ckpt_path last" in (halved / name / "fit.log").read_text() for name in complete if "seed-1" in name)

    rates = sorted(float(name.split("/")[-2].removeprefix("lr-")) for name in complete if "seed-1" in name)
    lrs = ["--lrs", *(f"{method}={lr}" for method, lr in zip(("HiSo", "own, one scalar"), rates, strict=True))]
    assert program.main(["study", str(file), "--root", str(whole), "--rates", "grid", *lrs]) == 0
    capsys.readouterr()
    again = summaries(whole)
    assert {name: summary["digest"] for name, summary in again.items()} == {
        name: summary["digest"] for name, summary in complete.items()
    }
    assert {name: summary["metrics"] for name, summary in again.items()} == {
        name: summary["metrics"] for name, summary in complete.items()
    }

    # again: nothing is run, and the same is told
    written = {path: path.stat().st_mtime_ns for path in halved.rglob("fit.log")}
    assert program.main(["study", str(file), "--root", str(halved)]) == 0
    assert capsys.readouterr().out == told
    assert {path: path.stat().st_mtime_ns for path in halved.rglob("fit.log")} == written
    kept = (halved / "study.yaml").read_text()
    assert kept.startswith("# Which rate.\nconfig:\n- quickstart\n")
    assert "Which rate." in (halved / "report.html").read_text()
    assert {"study.md", "study.json", "study.csv", "study.tex", "by-rounds.png"} <= {
        path.name for path in halved.iterdir()
    }
    # the kept file is a study, and report goes by it
    assert program.main(["study", str(halved / "study.yaml"), "--root", str(halved)]) == 0
    assert capsys.readouterr().out == told
    assert program.main(["report", str(halved)]) == 0
    assert capsys.readouterr().out == told
    # another study is refused, a larger grid is not
    assert program.main(["study", str(file), "--root", str(halved), "--", "--trainer.max_steps", "41"]) == 1
    assert "holds runs with trainer.max_steps=40, but 41 is asked" in capsys.readouterr().err
    assert (halved / "study.yaml").read_text() == kept
