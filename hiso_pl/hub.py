"""The Hugging Face hub: whether it is to be reached is asked once and within seconds; if not, nobody else asks it.

Its own packages ask for each of a dozen files, six times each, and say so each time.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading

from huggingface_hub import constants
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from hiso_pl.errors import one_line

log = logging.getLogger(__name__)

ANSWER_S, NAME_S = 5.0, 10.0
"""Seconds that the hub has to connect and to answer, and that all of it may take, the look-up of its name included."""


@functools.cache
def away() -> str:
    """Why nothing can be had from the hub but what is on this machine already; empty if all can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    why = _ask(constants.ENDPOINT)
    if why:
        _leave_alone()
    return f"{constants.ENDPOINT} is not reached ({why})" if why else ""


def check_there(option: str, there: bool, instead: str) -> None:
    """Refuses what would have to be fetched where nothing can be; what is here is said to be taken as it is.

    Args:
        option: The option that names it, with its value.
        there: Whether it is on this machine.
        instead: What to do instead.

    Raises:
        ValueError: If it is not here, and not to be had.
    """
    if away() and not there:
        raise ValueError(f"{option} is not on this machine, and {away()}: {instead}")
    if "not reached" in away():
        _say(option)


@functools.cache
def _say(option: str) -> None:
    log.warning("%s: %s is taken as it is on this machine.", away(), option)


def _ask(endpoint: str) -> str:
    """Asks for anything; any answer but an error of the server's will do. Says what came instead."""
    found = [f"no answer within {NAME_S:g} s"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=ANSWER_S).status_code
            found[0] = f"it answers with status {status}" if status >= 500 else ""
        except Exception as error:  # of whatever package the hub's own uses for it
            found[0] = one_line(error, 100)

    asking = threading.Thread(target=ask, daemon=True)  # nothing else bounds the look-up of a name
    asking.start()
    asking.join(NAME_S)
    return found[0]


def _leave_alone() -> None:
    """Keeps the packages that know the hub from asking it again."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # for those that are imported later
    for module, name in (
        ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_HUB_OFFLINE"),
        ("transformers.utils.hub", "_is_offline_mode"),
    ):
        if hasattr(sys.modules.get(module), name):
            setattr(sys.modules[module], name, True)
