"""The folders of a study: whose they are, and how one is made ready for a run to begin or go on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hiso_pl.run import lock
from hiso_pl.run.folder import BUDGET, SUMMARY, held_by_run, json_text, write_atomically
from hiso_pl.study.grid import Ask, Setting
from hiso_pl.study.names import FOLDER

log = logging.getLogger(__name__)

ASKED = "asked.json"
LOG = "fit.log"
MARK = "hiso-pl study runs: "  # begins each part of a log
FREE = (FOLDER, "trainer.enable_progress_bar")  # what may change between two calls


def check_root(root: Path, common: Mapping[str, str]) -> None:
    """Refuses a folder that holds another study.

    Args:
        root: The folder.
        common: What makes it the same study, by dotted keys.

    Raises:
        ValueError: If it does, or does not say what it holds.
    """
    if noted(root) is None and (root / ASKED).exists():
        raise ValueError(
            f"{root / ASKED} cannot be read, so nobody knows which study the folder holds: if it is this one, remove "
            "the file, and each run is compared by its own"
        )
    _compare(root, common)


def check_run(ask: Ask) -> None:
    """Refuses a run's folder that holds a run of another configuration, or one that no study has begun.

    Raises:
        ValueError: If it does.
    """
    _compare(ask.folder, ask.configuration)
    if left := _left(ask.folder):
        raise ValueError(f"{ask.folder} holds {left!r} and no {ASKED}, so it is of no study: move it away")


def _compare(folder: Path, asked: Mapping[str, str]) -> None:
    if not (folder / ASKED).exists() and held_by_run(folder):
        raise ValueError(f"{folder} holds a run that this study has not begun: give another --root")
    before = noted(folder)
    if before is None:
        return
    for key in sorted({*before, *asked} - set(FREE)):
        was, now = before.get(key, "absent"), asked.get(key, "absent")
        if was != now:
            raise ValueError(f"{folder} holds runs with {key}={was}, but {now} is asked: give another --root")


def _left(folder: Path) -> str | None:
    """What lies in a folder of which no study says that it is its own."""
    names = [path.name for path in folder.iterdir() if path.name != lock.LOCK] if folder.is_dir() else []
    return None if ASKED in names else next(iter(names), None)


def noted(folder: Path) -> Mapping[str, str] | None:
    """The configuration that is asked of a folder; none if it cannot be read."""
    found = read_json(folder / ASKED)
    configuration = found.get("configuration") if isinstance(found, dict) else None
    return configuration if isinstance(configuration, dict) else None


def note_asked(folder: Path, setting: Setting | None, asked: Mapping[str, str], until: int | None = None) -> None:
    """Notes in a folder what is asked of it, and to which round if not to the end; a study's root has no setting."""
    note = {"setting": setting and asdict(setting), "configuration": dict(asked)}
    write_atomically(folder / ASKED, json_text(note if until is None else {**note, "until": until}, 1) + "\n")


def mend(root: Path) -> None:
    """Throws away what is damaged below a study's folder, and says so: it is carried out anew.

    A run whose ``asked.json`` cannot be read goes as a whole, as nobody knows whose results it holds. Of one whose
    summary cannot be read only that goes, and is made again from its checkpoint.

    Raises:
        ValueError: If such a run has released something, which is not to be forgotten.
    """
    for path in sorted(root.glob(f"**/{ASKED}")):
        if path.parent == root:
            continue
        if noted(path.parent) is None:
            if (path.parent / BUDGET).exists():
                raise ValueError(
                    f"{path} cannot be read, and {BUDGET} beside it tells of releases: move the folder away"
                )
            log.warning("%s cannot be read: its run is carried out anew.", path)
            _throw_away(path.parent)
        summary = path.with_name(SUMMARY)
        if summary.exists() and not isinstance(read_json(summary), dict):
            log.warning("%s cannot be read: what is missing of its run is carried out again.", summary)
            summary.unlink()


def prepare(ask: Ask) -> bool:
    """Makes a run's folder ready to be gone on with from its newest checkpoint, or to begin.

    What is left of one without a checkpoint that can be read is thrown away, unless it tells of releases. One that
    somebody else is carrying out is left as it is, and refuses to be started.

    Returns:
        Whether it goes on.

    Raises:
        ValueError: As :func:`check_run`.
    """
    from hiso_pl.run.checkpoint import newest  # with torch, which a study that is complete does without

    check_run(ask)
    if noted(ask.folder) is not None and (newest(ask.folder) is not None or (ask.folder / BUDGET).exists()):
        note_asked(ask.folder, ask.setting, ask.configuration, ask.until)
        return True
    _throw_away(ask.folder, ask)
    return False


def _throw_away(folder: Path, ask: Ask | None = None) -> None:
    """Throws away a run, and notes what is asked in its place."""
    with suppress(lock.InUseError), lock.held(folder):
        shutil.rmtree(folder, ignore_errors=True)
        if ask is not None:
            note_asked(folder, ask.setting, ask.configuration, ask.until)


def last_line(folder: Path) -> str:
    """The last line a run has said since it was last started, or its error if it has named one."""
    text = ""
    with suppress(OSError):
        text = (folder / LOG).read_text(encoding="utf-8", errors="replace").rpartition(MARK)[2]
    lines = text.strip().splitlines()[1:]  # the first is the command
    said = [line for line in lines if "error" in line.lower() and "hiso-pl" in line]
    return (said or lines or ["it said nothing"])[-1].strip()


def read_json(path: Path) -> Any:
    """What a JSON file holds; none if it cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None
