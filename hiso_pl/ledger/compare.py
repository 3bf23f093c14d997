"""Whether two headers are of one run."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

from hiso_pl.ledger.header import Header, Weights
from hiso_pl.run.configuration import leaves

FREE = ("versions", "configuration.threads", "configuration.deterministic")
"""What may differ between parts of a run: it is recorded, and replay does not depend on it."""
CHANGEABLE = ("configuration", "method", "clients", "cohort", "weights")
"""What a resumed run may change if asked to."""

_ABSENT = "absent"


def difference(there: Header, here: Header, ignoring: tuple[str, ...] = FREE) -> str | None:
    """Says where the ledger's header first differs from this run's, in one line; None if they do not.

    Dotted keys that are ignored need not be equal, with all below them.
    """
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for field in fields(Header):
        old, new = (_plain(getattr(header, field.name)) for header in (there, here))
        if field.name not in ignoring and json.dumps(old) != json.dumps(new):
            first |= _as_json(field.name, old)
            second |= _as_json(field.name, new)
    for key in sorted({*first, *second}):
        old, new = first.get(key, _ABSENT), second.get(key, _ABSENT)
        if old != new and not any(key == name or key.startswith(name + ".") for name in ignoring):
            key = key[:120].encode("unicode_escape").decode()  # a file's own text
            return f"{key} is {old[:80]} there and {new[:80]} here"
    return None


def with_options_of(old: Header, new: Header) -> Header:
    """The header of a run that goes on with other options: what can be changed is ``new``'s, the rest ``old``'s."""
    return replace(old, **{key: getattr(new, key) for key in (*CHANGEABLE, "versions")})


def _plain(value: Any) -> Any:
    """A field as JSON has it."""
    if isinstance(value, tuple):
        return {str(i): asdict(tensor) for i, tensor in enumerate(value)}
    return asdict(value) if isinstance(value, Weights) else value


def _as_json(name: str, value: Any) -> dict[str, str]:
    return {key: json.dumps(leaf) for key, leaf in leaves({name: value}).items()}
