"""The files of a report that are not tables: pictures and the page, each whole or not there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hiso_pl.report.figures import PICTURES, pictures
from hiso_pl.report.look import MARK, encoded
from hiso_pl.report.page import page
from hiso_pl.run.folder import write_atomically
from hiso_pl.run.whole_file import whole_file

if TYPE_CHECKING:
    from hiso_pl.report.comparison import Comparison

PAGE = "report.html"
KINDS = ("png", "pdf")


def write_pictures_and_page(
    comparison: Comparison,
    folder: Path,
    question: str = "",
    command: str = "",
    kinds: tuple[str, ...] = (*KINDS, "html"),
) -> list[Path]:
    """Writes each picture as PNG and PDF, and the page, and removes those of an earlier report that are no more.

    Args:
        comparison: What is told.
        folder: Where to; it is made.
        question: What it is to answer, in a sentence.
        command: The command that makes it.
        kinds: Which of them to write: ``png``, ``pdf``, ``html``.

    Returns:
        The files written.

    Raises:
        OSError: If one cannot be written; the error names it.
    """
    drawn = pictures(comparison)
    whole = {
        folder / f"{name}.{kind}": encoded(made, kind)
        for name, made in drawn.items()
        for kind in KINDS
        if kind in kinds
    }
    text = page(comparison, drawn, question, command) if "html" in kinds else ""
    for path, content in whole.items():  # all are made before the first is written
        with whole_file(path) as part:
            part.write_bytes(content)
    if text:
        write_atomically(folder / PAGE, text)
    for stale in (
        folder / f"{name}.{kind}" for name in PICTURES if name not in drawn for kind in KINDS if kind in kinds
    ):
        with suppress(OSError):
            if MARK.encode() in stale.read_bytes():  # nobody else's of the same name
                stale.unlink()
    return [*whole, *([folder / PAGE] if text else [])]
