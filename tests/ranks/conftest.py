"""What tests of ranks have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hiso_pl.errors import RunError


def on_each(*functions: Callable[[], object]) -> list[object]:
    """What functions give that run at the same time."""
    found: list[object] = [None] * len(functions)

    def run(i: int) -> None:
        try:
            found[i] = functions[i]()
        except RunError as error:
            found[i] = str(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found
