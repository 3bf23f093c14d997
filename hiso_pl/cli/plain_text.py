"""Text on the command line and in configurations that YAML would take for something else.

Options of a class, such as the data's, go through YAML before it is known that they are text. So a prompt such as
``Context: {passage}`` would become a mapping, ``# {passage}`` nothing at all, the names ``[no, yes]`` truth values, and
a line break in quotes a space.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

_load = get_loader("yaml")
_NULL = ("", "~", "null", "Null", "NULL")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^']|'')*'")
_BREAK = "\ufdd0"  # no character of any text


def keep() -> None:
    """Has the parser take such values as text."""
    set_loader("yaml", load, (yaml.YAMLError,))
    yaml.SafeDumper.add_representer(_Words, lambda dumper, words: dumper.represent_list(list(words)))


def load(text: str) -> Any:
    """What a value stands for.

    Raises:
        yaml.YAMLError: If it is no YAML.
    """
    flow = text.lstrip()[:1] in ("{", "[") and "\n" in text
    if flow:  # what is in quotes there is meant as it stands; a file's folded lines are YAML's business
        text = _QUOTED.sub(lambda found: found[0].replace("\n", _BREAK), text)
    value = _load(text)
    if flow:
        text, value = text.replace(_BREAK, "\n"), _unbroken(value)
    if value is None and text.strip() not in _NULL:
        return text  # a comment
    if _names_a_column(value, text):
        return text
    if _has_flag_for_a_word(value):
        value = _with_words(value, yaml.compose(text, Loader=yaml.SafeLoader))
    if isinstance(value, list) and any(isinstance(item, str) and not item.isprintable() for item in value):
        return _Words(value)
    return value


class _Words(list[Any]):
    """A list that is read from its text as it is, which the parser does with an option of an option."""

    def __str__(self) -> str:
        return json.dumps(self)


def _unbroken(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unbroken(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_unbroken(item) for item in value]
    return value.replace(_BREAK, "\n") if isinstance(value, str) else value


def _names_a_column(value: Any, text: str) -> bool:
    """Whether braces around a mere name, as of a prompt's column, have become a mapping; no option is such."""
    if isinstance(value, dict):
        if any(f"{{{name}}}" in text for name, inside in value.items() if inside is None):
            return True
        return any(_names_a_column(inside, text) for inside in value.values())
    return isinstance(value, list) and any(_names_a_column(inside, text) for inside in value)


def _has_flag_for_a_word(value: Any) -> bool:
    if isinstance(value, dict):
        return any(isinstance(key, bool) or _has_flag_for_a_word(inside) for key, inside in value.items())
    return isinstance(value, list) and any(isinstance(item, bool) or _has_flag_for_a_word(item) for item in value)


def _with_words(value: Any, node: Any) -> Any:
    """The value with truth values in lists and keys as they were written: both are names and words, such as ``on``."""
    if isinstance(value, dict) and isinstance(node, yaml.MappingNode):
        nodes = {key.value: inside for key, inside in node.value}
        flags = [key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:bool"]
        written = {name.lower() in ("on", "yes", "true"): name for name in flags}
        named = {(written.get(key, key) if isinstance(key, bool) else key): inside for key, inside in value.items()}
        return {key: _with_words(inside, nodes.get(key)) for key, inside in named.items()}
    if isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        pairs = zip(value, node.value, strict=True)
        return [inside.value if isinstance(item, bool) else _with_words(item, inside) for item, inside in pairs]
    return value
