"""The paper's experiments, one preset each, made of a model's, a task's and a method's preset and one table."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOM = "paper"
TABLE = "table"

HEAD = """\
# {title} with {model} by {method}, in the setting of HiSo's paper, arXiv 2506.02370, section 5. Its tables 2 and 3 say:
#   {measure}: {reported}.
#   Rounds: {converged}.
# Learning rate: {source}.
"""
RUN = """\
seed_everything: {seed_everything}
trainer:
  max_steps: {max_steps}
  val_check_interval: {val_check_interval}
  default_root_dir: runs/{name}
"""
NOT_REPORTED = "not reported there"


def names(folder: Path) -> list[str]:
    """The names of the experiments.

    Args:
        folder: The folder of all presets.
    """
    table = _table(folder)
    models, methods = table["experiments"], table["methods"]
    return [f"{ROOM}/{model}_{task}_{method}" for model in models for task in models[model] for method in methods]


def text(folder: Path, name: str) -> str:
    """An experiment as YAML.

    Args:
        folder: The folder of all presets.
        name: The experiment's name.
    """
    table = _table(folder)
    model, task, method = name.removeprefix(f"{ROOM}/").split("_")
    experiment, of_task = table["experiments"][model][task], table["tasks"][task]
    reported, converged, own = experiment["reported"], experiment["converged"], experiment[method]
    head = HEAD.format(
        **of_task,
        model=model.upper(),
        method=table["methods"][method],
        reported="{:.2f} for HiSo, {:.2f} for DeComFL".format(*reported) if reported else NOT_REPORTED,
        converged="{:,} until DeComFL has converged, {:,} until HiSo is as good".format(*converged)
        if converged
        else NOT_REPORTED,
        source=own["source"].format(scripts=table["scripts"]),
    )
    head += f"# {of_task['note']}\n" if "note" in of_task else ""
    head += RUN.format(**table, max_steps=experiment["max_steps"], name=name.removeprefix(f"{ROOM}/"))
    of_method = _body(folder, f"method/{method}").removeprefix("model:\n")  # the model's preset has that line
    rate = f"{own['lr']:.1e}".replace("e-0", "e-")
    body = _body(folder, f"model/{model}") + _with(of_method, "lr", rate)
    data = _body(folder, f"task/{task}-hiso")
    return head + body + (_with(data, "batch_size", of_task["batch_size"]) if "batch_size" in of_task else data)


@cache
def _table(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / ROOM / f"{TABLE}.yaml").read_text(encoding="utf-8")))


def _body(folder: Path, name: str) -> str:
    """A preset without its head."""
    return re.sub(r"\A(#.*\n)+", "", (folder / f"{name}.yaml").read_text(encoding="utf-8"))


def _with(text: str, key: str, value: object) -> str:
    """The text with another value for a key that it has once."""
    changed, count = re.subn(rf"^( +{key}: ).*$", rf"\g<1>{value}", text, flags=re.M)
    assert count == 1, (key, count)
    return changed
