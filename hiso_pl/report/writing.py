"""The files of a report in a folder, each of them whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hiso_pl.report.documents import document, runs_csv
from hiso_pl.run.folder import write_atomically

if TYPE_CHECKING:
    from hiso_pl.report.comparison import Comparison

ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}


def check_output(folder: Path) -> None:
    """Makes the folder of a report before there is one.

    Raises:
        ValueError: If it cannot be made, or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("it may not be written into")
    except OSError as error:
        raise ValueError(
            f"output={folder} must be a folder that can be written into: {error.strerror or error}"
        ) from error


def write_report(
    comparison: Comparison, folder: Path, name: str = "report", question: str = "", command: str = ""
) -> list[Path]:
    """Writes a comparison as documents, pictures and a page.

    The CSV has a row for each method and setting, and ``NAME-runs.csv`` one for each run.

    Args:
        comparison: What is told.
        folder: Where to; it is made.
        name: What the documents are called.
        question: What the page says that it is to answer.
        command: The command that the page says made it.

    Returns:
        The files.

    Raises:
        OSError: If one cannot be written; it names the file.
    """
    texts = {folder / f"{name}.{ending}": document(comparison, form) for form, ending in ENDINGS.items()}
    texts[folder / f"{name}-runs.csv"] = runs_csv(comparison)
    for path, text in texts.items():  # all have been made
        write_atomically(path, text)
    from hiso_pl.report.files import write_pictures_and_page  # the heaviest last

    return [*texts, *write_pictures_and_page(comparison, folder, question, command)]
