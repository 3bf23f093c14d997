"""Where texts may be cut: at the ends of words."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

LONGEST_WORD = 50
"""Characters of a word. What goes on longer without white space is a text without words, such as Chinese, or no text
for people, such as an address: it may be cut behind any character."""

LOOK_BEYOND = 24
"""Characters beyond a cut that does not fit within which others are tried: more text makes fewer tokens where its end
becomes one with what it had been cut from, or with what follows in the template."""

_WORD = re.compile(r"\S+")


class Cuts:
    """The ways of cutting some texts, all after the same number of characters.

    Args:
        texts: The texts, without white space around them.

    Attributes:
        ends: Numbers of characters, ascending from 0, at which one of the texts may be cut; the last cuts nothing.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._own = [word_ends(text) for text in texts]
        self.ends = sorted({0, *(end for own in self._own for end in own)})

    def texts(self, number: int) -> list[str]:
        """What is left of each text: the whole words within the first ``ends[number]`` characters."""
        characters = self.ends[number]
        if number and characters < self._shortest:
            return [text[:characters].rstrip() for text in self._texts]  # ends of characters, where no word fits
        return [
            text[: own[place - 1]] if (place := bisect_right(own, characters)) else ""
            for text, own in zip(self._texts, self._own, strict=True)
        ]

    def beyond(self, number: int) -> range:
        """The numbers of the ends that come soon after one, but for the last, which cuts nothing."""
        last = bisect_right(self.ends, self.ends[number] + LOOK_BEYOND)
        return range(number + 1, min(last, len(self.ends) - 1))

    @property
    def _shortest(self) -> int:
        """The least number of characters of a word at the beginning of a text."""
        return min(own[0] for own in self._own if own)


def word_ends(text: str) -> list[int]:
    """Where words end in a text, counted in characters from its beginning."""
    ends: list[int] = []
    for word in _WORD.finditer(text):
        ends += [word.end()] if word.end() - word.start() <= LONGEST_WORD else range(word.start() + 1, word.end() + 1)
    return ends
