"""Text that YAML would take for something else arrives as it was given, on the command line and in files."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from hiso_pl.cli import plain_text
from hiso_pl.cli import program as cli

pytestmark = pytest.mark.usefixtures("process_settings")
CONFIG = str(Path(__file__).parents[2] / "configs" / "local" / "sst2.yaml")


def told(*args: str) -> Any:
    """The data's options as the program understands them."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert cli.main(["fit", "--config", CONFIG, *args, "--print_config"]) == 0
    return yaml.safe_load(out.getvalue())["data"]["init_args"]


TEMPLATES = (
    "Context: {sentence}",
    "Q: {sentence}\nAnswer:",
    "# {sentence}",
    "[{sentence}]",
    "Title: {title}\n\n  Context: {sentence}\n",
    "{sentence}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_arrives_as_it_is(template, tmp_path):
    assert told("--data.template", template)["template"] == template
    own = told("--data.task.template", template, "--data.task.label_words", '[" no\\n", " yes"]')
    assert own["task"]["template"] == template
    assert own["task"]["label_words"] == [" no\n", " yes"]
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"data": {"init_args": {"template": template}}}))
    assert told("--config", str(path))["template"] == template


def test_a_line_break_in_quotes_is_no_space(tmp_path):
    task = told("--data.task", "{template: 'A\nB: {sentence} it''s', label_words: [\" a\n\", ' b']}")["task"]
    assert task["template"] == "A\nB: {sentence} it's"
    assert task["label_words"] == [" a\n", " b"]
    path = tmp_path / "c.yaml"  # in a file a folded line is YAML's
    path.write_text("data:\n  init_args:\n    template: 'A {sentence}\n      B'\n")
    assert told("--config", str(path))["template"] == "A {sentence} B"


def test_words_of_a_list_are_words(tmp_path):
    assert told("--data.classes", "[no, Yes]")["classes"] == ["no", "Yes"]
    assert told("--data.label_words", "[on, off]")["label_words"] == ["on", "off"]
    path = tmp_path / "c.yaml"
    path.write_text(
        "data:\n  init_args:\n    classes:\n    - no\n    - true\n    label_words: [off, 'on']\n    cache: no\n"
    )
    found = told("--config", str(path))
    assert (found["classes"], found["label_words"], found["cache"]) == (["no", "true"], ["off", "on"], False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("", None),
        ("1e-3", 1e-3),
        ("{a: 1, b: [x, {c: null}]}", {"a": 1, "b": ["x", {"c": None}]}),
        ("a: b", {"a": "b"}),
        ("- no\n- 2", ["no", 2]),
        ("&x {a: [yes]}", {"a": ["yes"]}),
        ("true", True),
    ],
)
def test_what_is_no_text_stays_what_it_is(text, value):
    assert plain_text.load(text) == value
