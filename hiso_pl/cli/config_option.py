"""The option ``--config`` of every command that has one."""

from __future__ import annotations

import os
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from hiso_pl import presets
from hiso_pl.cli.config_file import ConfigFile


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


def of_presets(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments that add an option to a parser, such that one for configurations knows presets too."""
    return {**options, "action": ConfigOption} if options.get("action") is ActionConfigFile else options
