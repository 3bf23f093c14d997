"""Curves from TensorBoard's event files, which others may have written, cut short or damaged."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from hiso_pl.bounds import CURVE_POINTS, EVENT_BYTES, EVENTS_BYTES, ROUNDS
from hiso_pl.regular_file import open_regular

FILES = "events.out.tfevents.*"
CURVES = re.compile(r"(?:^|.*-)((?:val|comm|cost|time)/.+)$", re.S)
"""What is read; a logger's own prefix before it is left out."""

Points = dict[str, dict[int, float]]
"""By curve, its values by the rounds done."""


def read_events(paths: Sequence[Path]) -> tuple[Points, list[str]]:
    """The curves of a run's event files, and what is wrong with these.

    A later file takes back what an earlier one holds of the rounds that a resumed run began with, and has the last
    word where both know a point. What a file holds before it breaks off counts.

    Args:
        paths: The files, of all parts of a run.
    """
    points, notes = Points(), list[str]()
    for path in sorted(paths, key=_begun):
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size > EVENTS_BYTES:
                    raise ValueError(f"it has {size} bytes, must have at most {EVENTS_BYTES}")
                _read(file, points)
        except (OSError, ValueError) as error:
            notes.append(f"{path.name} is read up to where it is damaged: {error}")
    return points, notes


def _begun(path: Path) -> tuple[list[int], str]:
    """A file's place among others, by the time and number in its name."""
    return [int(word[:18]) for word in re.findall(r"\d+", path.name)][:1], path.name


def _read(file: BinaryIO, points: Points) -> None:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    known: dict[str, str | None] = {}
    count = sum(map(len, points.values()))
    for data, crc in _records(file):
        try:
            event = Event.FromString(data)
        except Exception as error:  # protobuf's own
            raise ValueError("an event is none") from error
        values = []
        for value in event.summary.value:
            if value.tag not in known:
                found = CURVES.match(value.tag) if len(value.tag) < 1000 else None
                known[value.tag] = found and found[1]
            if known[value.tag] is not None and value.WhichOneof("value") == "simple_value":
                values.append((str(known[value.tag]), value.simple_value))
        purges = event.HasField("session_log") and event.session_log.status == SessionLog.START
        if not values and not purges:
            continue
        if masked_crc32c(data) != crc:
            raise ValueError(f"the checksum of what it holds of round {event.step} is wrong")
        if not 0 <= event.step < ROUNDS:
            raise ValueError(f"it holds round {event.step}")
        if purges:
            for curve in points.values():
                for step in [step for step in curve if step >= event.step]:
                    del curve[step]
        for name, number in values:
            points.setdefault(name, {})[event.step] = number
        count += len(values)
        if count > CURVE_POINTS:
            raise ValueError(f"it holds over {CURVE_POINTS} points")


def _records(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The records of a file, each with its checksum: length, checksum of it, data, checksum of them (TFRecord).

    Raises:
        ValueError: If one is cut short, or longer than is allowed.
    """
    while header := file.read(12):
        if len(header) < 12:
            raise ValueError("it is cut short")
        (length,) = struct.unpack("<Q", header[:8])
        if length > EVENT_BYTES:
            raise ValueError(f"an event has {length} bytes, must have at most {EVENT_BYTES}")
        data, footer = file.read(length), file.read(4)
        if len(data) < length or len(footer) < 4:
            raise ValueError("it is cut short")
        yield data, struct.unpack("<I", footer)[0]
