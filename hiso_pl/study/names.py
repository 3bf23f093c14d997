"""What a study calls things: its folders, its mistakes, and the options of ``fit`` that it sets itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from hiso_pl.run.configuration import leaves

Key = tuple[str, ...]
"""A place in a study file: the keys that lead there."""

RATE = "model.method.init_args.lr"
SEED, FOLDER = "seed_everything", "trainer.default_root_dir"
OURS = {
    "seed_everything": "give seeds",
    "model.method.lr": "give lrs",
    "trainer.default_root_dir": "give --root",
    "ckpt_path": "leave it out, a study resumes its runs itself",
    "config": "give config",
    "print_config": "leave it out",
}
"""Options of ``fit`` that all runs are given by the study, without what may be left out of a name; and what to do."""
FILES = re.compile(r"\.(yaml|json|md|csv|tex|png|pdf|html|lock|log)$")
"""How the names of files in the root end, which no folder of runs has."""


class StudyError(ValueError):
    """A study asks for what cannot be.

    Attributes:
        key: Where in its file.
        words: What is said of it.
    """

    def __init__(self, key: Key, words: str) -> None:
        super().__init__(f"{'.'.join(key) or 'the study'}{words}")
        self.key, self.words = key, words


def plain_name(text: str, salt: str = "") -> str:
    """A name for a folder; text that is none, or too long, keeps its head and is told apart by a hash."""
    plain = re.sub(r"[^\w.+-]+", "-", text).strip("-.")
    if plain == text and len(plain) <= 60 and not FILES.search(plain):
        return plain
    return f"{plain[:48]}-{hashlib.sha256(f'{salt} {text}'.encode()).hexdigest()[:8]}"


def same_folder(one: str, other: str) -> bool:
    """Whether two names are one on some file system, which may not tell capitals apart."""
    return one.casefold() == other.casefold()


def plain_option(name: str) -> str:
    """An option's name without what may be left out of it, or added to it."""
    return name.rstrip("+").replace(".init_args.", ".")


def refuse_own(at: Key, option: str, value: Any) -> None:
    """Refuses an option that a study sets itself, also one that stands within another's value.

    Raises:
        StudyError: If it is one.
    """
    for plain in map(plain_option, leaves(value, option)):
        if plain in OURS:
            raise StudyError(at, f" sets {plain}, which the study sets: {OURS[plain]}")


def setting_name(options: Sequence[tuple[str, Any]]) -> str:
    """What a combination of crossed options is called: the last words of their names, or all where these are one."""
    last = [key.rpartition(".")[2] for key, _ in options]
    words = [short if last.count(short) == 1 else key for short, (key, _) in zip(last, options, strict=True)]
    return ", ".join(f"{word}={as_word(value)}" for word, (_, value) in zip(words, options, strict=True))


def as_word(value: Any) -> str:
    """A value as a command line gives it."""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value)
