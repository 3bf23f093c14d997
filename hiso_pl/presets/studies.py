"""The studies on other models, each made of a study's own file and one table: study/NAME-MODEL."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOM = "study"
TABLE = "table"
ROUNDS, EVERY = "trainer.max_steps", "trainer.val_check_interval"

HEAD = """\
# {question} The same on {model}.
{claims}
# Needs {needs}.
# Made of study/{study} and study/{table}.yaml: {rounds:g} of its rounds and {lr:g} of its rates. {measured}
"""


def names(folder: Path) -> list[str]:
    """The names of the studies that are made.

    Args:
        folder: The folder of all presets.
    """
    studies = sorted(path.stem for path in (folder / ROOM).glob("*.yaml") if path.stem != TABLE)
    return [
        f"{ROOM}/{study}-{model}"
        for model, of_model in _table(folder).items()
        for study in studies
        if study not in of_model["leaves_out"]
    ]


def text(folder: Path, name: str) -> str:
    """A study on another model as YAML.

    Args:
        folder: The folder of all presets.
        name: The study's name.
    """
    study, _, model = name.removeprefix(f"{ROOM}/").partition("-")
    of_model = _table(folder)[model]
    own = (folder / ROOM / f"{study}.yaml").read_text(encoding="utf-8")
    data = _scaled(yaml.safe_load(own), of_model)
    data |= {"config": of_model["config"], "options": {**data.get("options", {}), **of_model["options"]}}
    for key, rates in of_model["lrs"].items():
        if key in data["methods"]:
            data["methods"][key]["lrs"] = rates
    if "targets" in data:
        data["targets"] = data["quick"]["targets"] = of_model["targets"]
    _put(data, of_model["over"].get(study, {}))
    claims = re.search(r"\A#.*\n#\n(.*?)\n# Needs", own, flags=re.S)
    assert claims is not None, name
    question = own.removeprefix("# ").partition("?")[0] + "?"
    head = HEAD.format(**{**of_model, "question": question, "claims": claims[1], "study": study, "table": TABLE})
    return head + yaml.dump(data, Dumper=_Plain, sort_keys=False, width=120)


class _Plain(yaml.SafeDumper):
    """Writes what stands in several places out in each."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@cache
def _table(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / ROOM / f"{TABLE}.yaml").read_text(encoding="utf-8")))


def _scaled(value: Any, of_model: dict[str, Any], key: str = "") -> Any:
    """A study's data with its rounds and rates those of another model."""
    if isinstance(value, dict):
        return {name: _scaled(inner, of_model, name) for name, inner in value.items()}
    if key == "lrs":
        return [float(f"{rate * of_model['lr']:.2g}") for rate in value]
    if key in (ROUNDS, EVERY):
        return max(1, round(value * of_model["rounds"]))
    return value


def _put(data: dict[str, Any], over: dict[str, Any]) -> None:
    """Puts values over others, name by name; null takes one away."""
    for key, value in over.items():
        if value is None:
            data.pop(key, None)
        elif isinstance(value, dict) and isinstance(data.get(key), dict):
            _put(data[key], value)
        else:
            data[key] = value
