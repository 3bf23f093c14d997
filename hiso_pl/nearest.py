"""What a mistyped word may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

LIKE = 0.65
"""How much of a word must agree with one that it may have meant."""
CLOSE = 0.08
"""By how much less the next ones may agree to be told too."""


LONGEST = 100
"""How much of a word is compared."""


def nearest(word: str, known: Iterable[str], most: int = 3, within: str = ".") -> list[str]:
    """The known words that are like a word, the nearest first.

    Args:
        word: What was given.
        known: What there is.
        most: Most words that are told; fewer where one is as good as equal.
        within: What divides a word into where something is and what it is called, which counts by itself.
    """
    likeness = {name: _likeness(word, name, within) for name in known}
    best = max(likeness.values(), default=0.0)
    found = [name for name, value in likeness.items() if value >= max(LIKE, best - CLOSE)]
    return sorted(found, key=lambda name: (-likeness[name], len(name)))[: most if best < 1.0 else 2]


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence that asks for the nearest known words; empty if none is like it."""
    found = [prefix + name for name in nearest(word, known)]
    return f": did you mean {' or '.join(found)}?" if found else ""


def by_likeness(word: str, known: Iterable[str]) -> list[str]:
    """All known words, the nearest first."""
    return sorted(known, key=lambda name: (-_likeness(word, name, "."), name))


def _likeness(word: str, name: str, within: str) -> float:
    word, name = (text[:LONGEST].lower().replace("-", "_") for text in (word, name))
    (before, _, last), (room, _, end) = word.rpartition(within), name.rpartition(within)
    alike = _ratio(last, end)
    if before:  # where it was looked for counts as well
        alike = 0.7 * alike + 0.3 * _ratio(before, room)
    return max(alike, _ratio(word, name))


def _ratio(word: str, name: str) -> float:
    """Share of letters that agree, in a word's own length or in that of the name that it may begin."""
    whole = SequenceMatcher(None, word, name).ratio()
    begun = SequenceMatcher(None, word, name[: len(word)]).ratio() if len(word) > 3 else 0.0
    return max(whole, 0.9 * begun)
