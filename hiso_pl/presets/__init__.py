"""Presets: the configurations that come with the package, found by name wherever a configuration can be given."""

from __future__ import annotations

from hiso_pl.presets.shipped import (
    STUDIES,
    Configuration,
    find,
    folder,
    head,
    is_study,
    label,
    names,
    preset,
    summary,
    text,
    to_parse,
)

__all__ = [
    "STUDIES",
    "Configuration",
    "find",
    "folder",
    "head",
    "is_study",
    "label",
    "names",
    "preset",
    "summary",
    "text",
    "to_parse",
]
