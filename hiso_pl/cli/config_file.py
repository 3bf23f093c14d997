"""A configuration file as it is written: what is wrong with it as YAML, and in which line an option stands."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hiso_pl.bounds import CONFIGURATION_VALUES
from hiso_pl.cli.mistakes import ConfigurationError
from hiso_pl.errors import one_line

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
INNER = ("init_args", "dict_kwargs")
"""Keys of a class's options, which names on the command line may leave out."""


class ConfigFile:
    """One file of a command line.

    Args:
        path: The file, as it was named.
        text: What it holds, where it stands on the command line itself.

    Raises:
        ConfigurationError: If it cannot be read or is no mapping; it names the file, and the line.
    """

    def __init__(self, path: str, text: str | None = None) -> None:
        self.path = path
        try:
            text = Path(path).read_text(encoding="utf-8") if text is None else text
        except IsADirectoryError:
            raise ConfigurationError(f"{path} is a folder, must be a YAML file") from None
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path} is no text in UTF-8 (byte {error.start}): save it as such") from error
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
        try:
            root = yaml.compose(text, Loader=LOADER)
        except yaml.YAMLError as error:
            raise ConfigurationError(_no_yaml(path, text, error)) from error
        except RecursionError as error:
            raise ConfigurationError(f"{path} is no configuration: it is nested too deep") from error
        if root is None:
            raise ConfigurationError(f"{path} is empty: a configuration holds options, such as trainer: ...")
        if not isinstance(root, yaml.MappingNode):
            what = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            raise ConfigurationError(f"{path} line {_line(root)} is {what}: a configuration holds options by name")
        self.root = root
        self._count(root, {}, ())
        self._check(root)

    def _count(self, node: yaml.Node, counted: dict[int, int], above: tuple[yaml.Node, ...]) -> int:
        """How many values are in one, aliases counted as what they stand for; refuses too many, and endless ones."""
        if any(node is outer for outer in above):
            raise ConfigurationError(f"{self.path} line {_line(node)}: a value that is an alias of itself")
        if id(node) not in counted:
            inner = [part for item in _items(node) for part in item]
            counted[id(node)] = 1 + sum(self._count(part, counted, (*above, node)) for part in inner)
        if counted[id(node)] > CONFIGURATION_VALUES:
            raise ConfigurationError(
                f"{self.path} line {_line(node)} holds over {CONFIGURATION_VALUES} values, those of aliases included"
            )
        return counted[id(node)]

    def _check(self, node: yaml.Node) -> None:
        """Refuses a key that stands twice, of which YAML's readers keep the last."""
        if node.tag not in yaml.SafeLoader.yaml_constructors:
            raise ConfigurationError(f"{self.path} line {_line(node)}: the tag {node.tag} is not taken: leave it out")
        seen: dict[str, yaml.Node] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name = str(key.value)
            if name in seen and name != "<<":
                raise ConfigurationError(
                    f"{self.path} line {_line(key)}: {name} stands in line {_line(seen[name])} as well: leave one out"
                )
            if name in INNER and value.tag == "tag:yaml.org,2002:null":
                raise ConfigurationError(f"{self.path} line {_line(key)}: {name} holds nothing: leave it out")
            seen[name] = key
            self._check(value)
        for item in node.value if isinstance(node, yaml.SequenceNode) else ():
            self._check(item)

    def line_of(self, key: Sequence[str], word: str | None = None) -> int | None:
        """The line of an option, or of a word within its value.

        Args:
            key: Its dotted name in parts, of which those between a class and its option may be left out.
            word: Text that is looked for in what the option holds.
        """
        found = _find(self.root, list(key))
        if found is None:
            return None
        name, value = found
        for node in _scalars(value) if word is not None else ():
            if node.value == word:
                return _line(node)
        return _line(name)


def place(key: str, words: str, args: Sequence[str], files: Sequence[ConfigFile]) -> str:
    """File and line of an option that no word of the command line names, of the last file that has it; or nothing.

    Args:
        key: The option.
        words: What is said of it, which begins with ``=`` and its value where that is wrong.
        args: The command line.
        files: The configuration files that it names.
    """
    if words.startswith(": "):
        return ""  # that of a file, which says so itself
    parts = _parts(key)
    named = {".".join(_parts(name)): value for name, value in _named(args)}
    given = re.match(r"=(\S+)", words)
    for count in range(len(parts), 0, -1):  # itself, or else what it may stand in
        name = ".".join(parts[:count])
        if name in named:
            return _within(named[name], parts[count:])
        for file in reversed(files):
            line = file.line_of(parts[:count], given[1] if given else parts[-1] if count < len(parts) else None)
            if line is not None:
                return f"{file.path} line {line}: "
    return ""


def _named(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line, and what is given for each."""
    for word, following in zip(args, [*args[1:], ""], strict=False):
        if word.startswith("-"):
            name, given, value = word.partition("=")
            yield name.lstrip("-").rstrip("+"), value if given else following


def _within(path: str, parts: Sequence[str]) -> str:
    """The line of an option in a file that was named for what it stands in."""
    if parts and os.path.isfile(path):
        line = ConfigFile(path).line_of(parts)
        return "" if line is None else f"{path} line {line}: "
    return ""


def _parts(name: str) -> list[str]:
    """A dotted name without what a command line may leave out of it."""
    return [part for part in name.split(".") if part not in INNER]


def _find(node: yaml.Node, key: list[str]) -> tuple[yaml.Node, yaml.Node] | None:
    """Key and value of an option."""
    if isinstance(node, yaml.SequenceNode):  # of the parts of a list nobody has said which
        return next((found for item in node.value if (found := _find(item, key))), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        parts = str(name.value).rstrip("+").split(".")
        if parts == key[: len(parts)]:
            rest = key[len(parts) :]
            found = _find(value, rest) if rest else (name, value)
            if found is not None:
                return found
    for name, value in node.value:
        if name.value in INNER and (found := _find(value, key)) is not None:
            return found
    return None


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    for item in _items(node):
        for part in item:
            yield from _scalars(part)


def _items(node: yaml.Node) -> Iterator[tuple[yaml.Node, ...]]:
    """What a list or mapping holds: values, or pairs of key and value."""
    for item in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield item if isinstance(item, tuple) else (item,)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _no_yaml(path: str, text: str, error: yaml.YAMLError) -> str:
    """What is wrong with a text that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0].replace('"<unicode string>"', "it")
    if mark is None:
        return f"{path} is no YAML: {one_line(problem, 200)}"
    context, begun = getattr(error, "context", None), getattr(error, "context_mark", None)
    since = f", {context}" + (f" that begins in line {begun.line + 1}" if begun is not None else "") if context else ""
    lines = text.splitlines()
    if mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        return f"{path} line {mark.line + 1} is no YAML: indent with spaces instead of a tab"
    return f"{path} line {mark.line + 1} is no YAML: {one_line(problem, 200)}{since}"


def pruned(content: str, kept: Mapping[str, Any]) -> str:
    """A configuration without the keys that are not kept, inside those that are by a mapping; values stay as written.

    Args:
        content: The configuration as YAML.
        kept: The keys, each with those inside it, or with None for all of them.
    """
    root = yaml.compose(content, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return content
    return yaml.serialize(_kept(root, kept), Dumper=yaml.SafeDumper)


def _kept(node: yaml.Node, kept: Mapping[str, Any] | None) -> yaml.Node:
    if kept is None:
        return node
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    inside = [(key, _kept(value, kept[key.value])) for key, value in pairs if key.value in kept]
    return yaml.MappingNode("tag:yaml.org,2002:map", inside)
