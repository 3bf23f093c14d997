"""A report as documents: a pinned table, what is escaped, and the same numbers everywhere."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hiso_pl.report.comparison import Comparison, compare
from hiso_pl.report.documents import document, for_terminal, runs_csv
from hiso_pl.report.markup import latex, latex_text, markdown_text
from hiso_pl.report.run_data import Aim, RunData
from hiso_pl.report.tables import Table

Run = Callable[..., RunData]

PINNED = Path(__file__).with_name("pinned.md")


@pytest.fixture(scope="module")
def comparison(run_of: Run) -> Comparison:
    with_setting = {"setting": "alpha 0.1"}
    curves = ((1, [0.1, 0.8, 0.9]), (2, [0.1, 0.5, 0.9]), (3, [0.1, 0.8, 0.7]))
    runs = [run_of(values, seed=seed, method="hiso", test=values[-1] - 0.01, **with_setting) for seed, values in curves]
    other = {"method": "own_, scalar | x", **with_setting}
    runs += [
        run_of(values, lr=0.2, seed=seed, **other) for seed, values in ((1, [0.1, 0.2, 0.8]), (2, [0.1, 0.2, 0.5]))
    ]
    runs += [run_of([0.1, 0.85, 0.9], [1.0, 0.5, 3.0], lr=0.1, seed=1, **other)]
    return compare(runs, Aim("val/accuracy", "rounds", (0.8,)))


def test_the_table_is_pinned(comparison: Comparison) -> None:
    assert document(comparison, "markdown") == PINNED.read_text(encoding="utf-8")


def test_the_table_for_programs_holds_all_numbers(comparison: Comparison) -> None:
    found = json.loads(document(comparison, "json"))
    assert found["aim"] == {"metric": "val/accuracy", "by": "rounds", "targets": [0.8]}
    assert [group["chosen"] for group in found["groups"]] == [0.1, 0.2]
    assert [run["seed"] for run in found["runs"]] == [1, 2, 3, 1, 1, 2]
    assert found["summary"][0]["rounds@0.8"] == pytest.approx(100 / 3)
    assert found["runs"][3]["rounds@0.8"] is None
    assert found["runs"][3]["diverged"] is True
    assert found["notes"] == list(comparison.notes)


def test_the_tables_for_spreadsheets_hold_all_numbers(comparison: Comparison) -> None:
    summary = list(csv.DictReader(io.StringIO(document(comparison, "csv"))))
    assert [row["label"] for row in summary] == ["hiso, alpha 0.1", "own_, scalar | x, alpha 0.1"]
    assert (summary[1]["rounds@0.8"], summary[1]["rounds@0.8 seeds"], summary[1]["test"]) == ("50.0", "1", "")
    runs = list(csv.DictReader(io.StringIO(runs_csv(comparison))))
    assert [run["chosen"] for run in runs] == ["True"] * 3 + ["False", "True", "True"]


def test_a_terminal_is_told_the_same(comparison: Comparison) -> None:
    wide = for_terminal(comparison, 300)
    for words in ("33 (25 to 50)", "own_, scalar | x", "is the highest of its grid", "0.2 (chosen)"):
        assert words in wide
    assert max(map(len, for_terminal(comparison, 80).split("- Warning")[0].splitlines())) <= 80


UGLY = "a_b $5% #1 {x} \\c ~ ^ & <a|b> \"q\" 's' `t` --lr -1.5 \u00e9\u00df \u03b1\u03a9 \u4e2d \u00d7 \x07"
TEX = (
    r"a\_b \$5\% \#1 \{x\} \textbackslash{}c \textasciitilde{} \textasciicircum{} \& \textless{}a\textbar{}b"
    r"\textgreater{} \texttt{\char34}q\texttt{\char34} '{}s'{} {}`{}t{}`{} -{}-{}lr \ensuremath{-}1.5 \'{e}\ss{} "
    r"\ensuremath{\alpha}\ensuremath{\Omega} \texttt{U+4E2D} \ensuremath{\times} ?"
)


def test_what_latex_and_markdown_would_read_is_escaped() -> None:
    assert latex_text(UGLY) == TEX
    assert markdown_text("a_b | <b> *c* `d` [e] \\ $f$ _g_\nh") == (r"a_b \| \<b\> \*c\* \`d\` \[e\] \\ \$f\$ \_g\_ h")


def test_a_table_of_latex_has_as_many_cells_in_each_row_and_is_of_ascii() -> None:
    text = latex(Table(UGLY, ["method", "rounds to 0.8", "KB"], [[UGLY, "1 & 2", "3"]] * 2, 1), "x")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert text.isascii()
    assert r"\begin{tabular}{lrr}" in text
    assert r"\shortstack{rounds\\to 0.8}" in text
