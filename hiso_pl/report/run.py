"""Runs read from their folders: a study's, one's own, or any that lie below a folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hiso_pl.bounds import REPORT_FOLDERS, RUN_TEXT_BYTES, RUN_TEXT_VALUES
from hiso_pl.errors import one_line
from hiso_pl.regular_file import read_at_most
from hiso_pl.report.curve import read_curve
from hiso_pl.report.labels import labelled
from hiso_pl.report.run_data import Aim as Aim
from hiso_pl.report.run_data import RunData as RunData
from hiso_pl.run.configuration import as_text
from hiso_pl.run.folder import CONFIG, SUMMARY, went_through

ASKED = "asked.json"
STUDY = "study.yaml"
RATE, SHORT_RATE, SEED = "model.method.init_args.lr", "model.method.lr", "seed_everything"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_run(folder: Path | str) -> RunData:
    """Reads one run by itself: a method is called by what it is.

    Raises:
        ValueError: If the folder holds no run.
    """
    folder = Path(folder)
    if not _holds_run(folder):
        raise ValueError(f"{folder} holds no run: there is no {CONFIG}, {SUMMARY} or {ASKED} of one in it")
    return labelled([_read(folder)])[0]


def read_runs(folders: Iterable[Path | str]) -> list[RunData]:
    """Reads all runs of folders: a run's own, a study's, or one with runs somewhere below it.

    They come in the order of the folders, and within a study in that of its file; by method, setting, learning rate and
    seed. A run of a study is called as there, one of one's own by what it is and where it differs from the others.

    Raises:
        ValueError: If a folder holds none, or a run is found twice.
    """
    found: dict[Path, Path] = {}
    runs = []
    for given in map(Path, folders):
        inside = list(_runs_below(given))
        if not inside:
            what = "holds no run" if given.is_dir() else "is no folder"
            raise ValueError(f"{given} {what}: give folders of runs or of studies, in which {CONFIG} lies")
        for folder in inside:
            real = folder.resolve()
            if real in found:
                twice = f", in {found[real]} and in {given}" if found[real] != given else ""
                raise ValueError(f"{folder} is given twice{twice}: give each run once")
            found[real] = given
        order = _order(given)
        read = [_read(folder) for folder in inside]
        runs += sorted(read, key=lambda run: (_place(run.method, order[0]), _place(run.setting, order[1]), *_rest(run)))
    return labelled(runs)


def asked_aim(folders: Sequence[Path]) -> dict[str, Any]:
    """What studies are judged by, as their files say: ``metric``, ``by`` and ``targets``; nothing if they differ."""
    found = []
    for folder in folders:
        try:
            tree = load_yaml(folder / STUDY)
        except (OSError, ValueError):
            return {}
        found.append({name: tree[name] for name in ("metric", "by", "targets") if tree.get(name)})
    return found[0] if found and all(other == found[0] for other in found) else {}


def _place(name: str, known: Sequence[str]) -> tuple[int, str]:
    return (known.index(name), "") if name in known else (len(known), name)


def _rest(run: RunData) -> tuple[float, float, str]:
    lr, seed = (math.inf if value is None else value for value in (run.lr, run.seed))
    return lr, seed, str(run.folder)


def _order(root: Path) -> tuple[Sequence[str], Sequence[str]]:
    """Methods and settings in the order of a study's file; nothing where there is none."""
    try:
        tree = load_yaml(root / STUDY)
    except (OSError, ValueError):
        return (), ()
    methods, settings = (tree.get(name) for name in ("methods", "settings"))
    return [str(name) for name in methods or ()], [str(name) for name in settings or ()]


def _runs_below(root: Path) -> Iterator[Path]:
    """The folders of runs in a folder, itself first; a run's own folders are not looked into."""
    seen = 0
    for here, folders, _ in os.walk(root):
        seen += 1 + len(folders)
        if seen > REPORT_FOLDERS:
            raise ValueError(f"{root} has over {REPORT_FOLDERS} folders below it: name those of the runs")
        if _holds_run(Path(here)):
            folders.clear()
            yield Path(here)
        folders.sort()


def _holds_run(folder: Path) -> bool:
    if (folder / CONFIG).is_file() or (folder / SUMMARY).is_file():
        return True
    return bool(_asked(folder).get("setting"))


def _read(folder: Path) -> RunData:
    notes = list[str]()
    asked, options, summary = _asked(folder), dict[str, str](), dict[str, Any]()
    try:
        options = as_text(load_yaml(folder / CONFIG))
    except FileNotFoundError:
        notes.append(f"there is no {CONFIG}")
    except (OSError, ValueError) as error:
        notes.append(f"{CONFIG} cannot be read: {one_line(error, 200)}")
    options = options or {str(key): str(value) for key, value in dict(asked.get("configuration") or {}).items()}
    try:
        summary = _sound(load_json(folder / SUMMARY))
    except FileNotFoundError:
        notes.append(f"there is no {SUMMARY}, which is written when a run ends")
    except (OSError, ValueError) as error:
        notes.append(f"{SUMMARY} is damaged: {one_line(error, 200)}")
    curve, missing = read_curve(folder, options, summary)
    setting = dict(asked.get("setting") or {})
    lr, seed = setting.get("lr", options.get(RATE, options.get(SHORT_RATE))), setting.get("seed", options.get(SEED))
    key, value = setting.get("key"), setting.get("value")  # of studies before they had files
    complete, until = _complete(summary, options), asked.get("until")
    return RunData(
        folder,
        one_line(setting.get("method") or "", 200) if setting else "",
        one_line(setting.get("setting") or (f"{key}={value}" if key else ""), 200) if setting else "",
        _number(lr),
        None if (found := _number(seed)) is None else int(found),
        complete,
        options,
        summary,
        curve,
        (*notes, *missing),
        halted=not complete and type(until) is int and bool((curve["round"] >= until).any()),
    )


def _number(value: Any) -> float | None:
    try:
        found = float(str(value).strip("'"))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _complete(summary: Mapping[str, Any], options: Mapping[str, str]) -> bool:
    """Whether a run went through all rounds, and its test if one is asked for."""
    if not summary or summary.get("interrupted") is not False:
        return False
    tested = options.get("test_at_end") != "True" or any(name.startswith("test/") for name in summary["metrics"])
    return went_through(summary, options.get("trainer.max_steps")) and tested


def _asked(folder: Path) -> Mapping[str, Any]:
    """What a study asked of a run; nothing of one of one's own."""
    try:
        found = load_json(folder / ASKED)
        return found if isinstance(found.get("setting") or {}, dict) else {}
    except (OSError, ValueError):
        return {}


def _sound(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary whose metrics are numbers.

    Raises:
        ValueError: If it is none.
    """
    metrics, rounds = summary.get("metrics"), summary.get("rounds")
    if not isinstance(metrics, dict) or not all(isinstance(entry, dict) for entry in metrics.values()):
        raise ValueError("it holds no metrics")
    for name, entry in metrics.items():
        for value in entry.values():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"{name} must be numbers")
    if not isinstance(rounds, int) or isinstance(rounds, bool):
        raise ValueError("it holds no number of rounds")
    return dict(summary)


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file of bounded size.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is none.
    """
    try:
        found = json.loads(read_at_most(path, RUN_TEXT_BYTES).decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object")
    return found


def load_yaml(path: Path) -> dict[str, Any]:
    """A mapping in a YAML file of bounded size and content.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is none.
    """
    try:
        found = yaml.load(read_at_most(path, RUN_TEXT_BYTES).decode("utf-8"), Loader=LOADER)
        _count(found, 0)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {one_line(error, 150)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a mapping")
    return found


def _count(value: Any, seen: int) -> int:
    """Counts values as they will be spelt, with those of an alias wherever it stands."""
    seen += 1
    if seen > RUN_TEXT_VALUES:
        raise ValueError(f"it holds over {RUN_TEXT_VALUES} values")
    for inner in (
        [*value.keys(), *value.values()]
        if isinstance(value, dict)
        else value
        if isinstance(value, (list, tuple))
        else ()
    ):
        seen = _count(inner, seen)
    return seen
