"""Where presets are, what they are called, and the rule by which a configuration that is given is found.

A file that there is wins; else what is given is a preset's name, with or without ``.yaml``; else one line names the
nearest. In a clone presets are read from its folder ``configs``, which a wheel carries inside the package.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hiso_pl.nearest import nearest
from hiso_pl.presets import paper, studies

FILE = ".yaml"
STUDIES = studies.ROOM
"""The folder of study files, which are no configurations of a run."""
NEAREST = 6


@dataclass(frozen=True)
class Configuration:
    """A configuration that was given, by file or by name.

    Attributes:
        name: The preset's name, or what was given.
        path: The file; None for a preset that is made of others.
    """

    name: str
    path: Path | None

    @property
    def text(self) -> str:
        """The configuration as YAML.

        Raises:
            ValueError: If the file is no text.
        """
        if self.path is None:
            return text(self.name)
        try:
            return self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} must be text in UTF-8: {error}") from error


def folder() -> Path:
    """The folder that presets are read from."""
    package = Path(__file__).resolve().parents[1]
    carried = package / "configs"
    return carried if carried.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """The names of all presets, folder by folder."""
    root = folder()
    files = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{FILE}")]
    tables = {f"{made.ROOM}/{made.TABLE}" for made in (paper, studies)}
    found = {*files, *paper.names(root), *studies.names(root)} - tables
    return sorted(found, key=lambda name: (name.rpartition("/")[0], name))


def is_study(name: str) -> bool:
    """Whether a preset is a study."""
    return name.startswith(f"{STUDIES}/")


def text(name: str) -> str:
    """A preset as YAML, with its comments."""
    path = _path(name)
    if path is not None:
        return path.read_text(encoding="utf-8")
    return (studies if is_study(name) else paper).text(folder(), name)


def summary(name: str) -> str:
    """What a preset is, in a sentence: the first of its head."""
    return head(text(name))


def head(written: str) -> str:
    """The first sentence of the comment that a file begins with; nothing if it begins with none."""
    line = written.partition("\n")[0]
    return re.split(r"(?<=[.?]) ", line.removeprefix("# "))[0] if line.startswith("# ") else ""


def find(given: str, option: str = "config", room: str = "") -> Configuration:
    """The configuration that is meant.

    Args:
        given: A file, or a name.
        option: The option that it was given to, for messages.
        room: A folder of presets whose names may be given without it, such as ``method``.

    Raises:
        ValueError: If there is neither such a file nor such a preset, or the preset is a study where none is taken.
    """
    path = os.path.expanduser(given)
    if os.path.exists(path) and not os.path.isdir(path):
        return Configuration(given, Path(path))
    is_folder = " is a folder," if os.path.isdir(path) else ""
    found = preset(given, f"{option}={given}{is_folder} must be a file or a name", room)
    if is_study(found.name) and room != STUDIES:
        raise ValueError(f"{option}={given} is a study: carry it out by `hiso-pl study {found.name}`")
    return found


def preset(given: str, refusal: str, room: str = "") -> Configuration:
    """The preset of a name.

    Args:
        given: The name, with or without the ending of a file.
        refusal: How the message begins where there is none.
        room: A folder of presets whose names may be given without it.

    Raises:
        ValueError: If there is none.
    """
    known, name = names(), given.removesuffix(FILE)
    for wanted in (f"{room}/{name}", name) if room else (name,):
        if wanted in known:
            return Configuration(wanted, _path(wanted))
    short = [name.removeprefix(f"{room}/") for name in known if name.startswith(room)]
    raise ValueError(f"{refusal} that `hiso-pl configs` lists{_nearest(name, short, all_of=bool(room))}")


def to_parse(given: str) -> str:
    """What a parser takes for the configuration that is given: the path of a file, or YAML.

    Raises:
        ValueError: If it is neither YAML itself, nor such a file or preset.
    """
    if not os.path.exists(given) and re.search(r"[{\n]|:(\s|$)", given):
        return given
    found = find(given)
    return found.text if found.path is None else str(found.path)


def label(given: str) -> str:
    """The last part of a configuration's name or path, without the ending of a file."""
    return given.removesuffix(FILE).rpartition("/")[2]


def _path(name: str) -> Path | None:
    path = folder() / f"{name}{FILE}"
    return path if path.is_file() else None


def _nearest(wanted: str, known: list[str], all_of: bool) -> str:
    """Words that tell which names may be meant: those of that folder, with that last part, or spelt alike; or all."""
    wanted = f"/{wanted.strip('/')}".rpartition("/configs/")[2].strip("/")
    near = [name for name in known if wanted and name.startswith(wanted)]
    near = near or [name for name in known if label(name) == label(wanted)] or nearest(wanted, known, len(known), "/")
    if not near:
        return f": {', '.join(known)}" if all_of else ""
    return f"; the nearest: {', '.join(near[:NEAREST])}{', ...' if len(near) > NEAREST else ''}"
