"""Presets: the configurations that come with the package, found by name wherever a configuration can be given."""

from __future__ import annotations

from hiso_pl.presets.shipped import Configuration, find, folder, label, names, preset, summary, text, to_parse

__all__ = ["Configuration", "find", "folder", "label", "names", "preset", "summary", "text", "to_parse"]
