"""The option ``--config`` of every command that has one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from hiso_pl import presets
from hiso_pl.cli.config_file import LOADER, ConfigFile


class ConfigOption(ActionConfigFile):  # type: ignore[misc]
    """Takes a file, the name of a preset, or YAML itself."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Reads what is meant into the configuration."""
        try:
            meant = presets.to_parse(values)
            if meant == values and not os.path.exists(values):
                ConfigFile(f"--{self.dest}", values)
        except ValueError as error:
            parser.error(str(error), error)
        super().__call__(parser, cfg, meant, option_string)


def with_presets(text: str, options: Iterable[Any]) -> str:
    """A configuration whose own option ``config`` names a preset, with what is meant in its place.

    Args:
        text: The configuration; files that it names lie in the folder that is the current one.
        options: The options of the parser that it is for, which may have none such.

    Raises:
        ValueError: If it names neither a file nor a preset.
    """
    if not any(isinstance(option, ConfigOption) for option in options):
        return text
    try:
        root = yaml.compose(text, Loader=LOADER)
    except yaml.YAMLError:  # which is said where it is parsed
        return text
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value != "config" or value.tag == "tag:yaml.org,2002:null":
            continue
        if not isinstance(value, yaml.ScalarNode):
            raise ValueError(f"config={text[value.start_mark.index : value.end_mark.index]} must be one file or name")
        if not os.path.exists(value.value):
            meant = json.dumps(presets.to_parse(value.value))
            return text[: value.start_mark.index] + meant + text[value.end_mark.index :]
    return text


def of_presets(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments that add an option to a parser, such that one for configurations knows presets too."""
    return {**options, "action": ConfigOption} if options.get("action") is ActionConfigFile else options
