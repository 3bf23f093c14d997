"""A grammar of short English reviews: clauses that praise or blame, and the sentences made of them.

Whether a clause praises hangs on its words and on what is done to them: "the plot was not dull" praises, "nobody
liked the soup" blames, and of two clauses joined by "but" the second one counts. So a sentence's label follows from
the grammar alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from hiso_pl.small_language import lexicon
from hiso_pl.small_language.lexicon import Domain
from hiso_pl.zeroth_order.philox import Draws, Purpose

T = TypeVar("T")

SHARES = {"test": 10, "validation": 10, "train": 20, "pretraining": 60}
"""How many percent of all clauses belong to a split."""

BLOCK = 4096


class Dice:
    """Choices at random, one after another, from a stream of the package's own draws: that of a seed and a number."""

    def __init__(self, seed: int, owner: int) -> None:
        self._draws = Draws(seed, Purpose.SPLIT, owner=owner)
        self._block: list[int] = []

    def below(self, n: int) -> int:
        """An integer in ``range(n)``."""
        if not self._block:
            self._block = self._draws.uint64(BLOCK).tolist()[::-1]
        return self._block.pop() * n >> 64

    def one_of(self, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely."""
        return choices[self.below(len(choices))]

    def chance(self, percent: int) -> bool:
        """Whether something happens that happens so often."""
        return self.below(100) < percent


class Sentence(NamedTuple):
    """A sentence of a review.

    Attributes:
        text: The sentence.
        label: 1 if it praises, 0 if it blames.
        clauses: What it is made of, in lower case.
        domain: The name of the kind of thing that is reviewed.
    """

    text: str
    label: int
    clauses: tuple[str, ...]
    domain: str


def split_of(clause: str) -> str:
    """The one split that a clause may occur in: a function of its letters, whatever the seed.

    Splits are thus disjoint by construction, and more than their sentences: no clause of one occurs in another.
    """
    percent = int.from_bytes(hashlib.sha256(clause.encode()).digest()[:8], "big") * 100 >> 64
    for split, share in SHARES.items():
        percent -= share
        if percent < 0:
            return split
    raise AssertionError("shares add up to 100")


def _adjective(dice: Dice, domain: Domain, praises: bool) -> str:
    if dice.chance(25):
        return dice.one_of(domain.praise if praises else domain.blame)
    return dice.one_of(lexicon.PRAISE if praises else lexicon.BLAME)


def _was(dice: Dice, domain: Domain, praises: bool) -> str:
    return f"{dice.one_of(domain.aspects)} was {dice.one_of(lexicon.DEGREES)}{_adjective(dice, domain, praises)}"


def _was_both(dice: Dice, domain: Domain, praises: bool) -> str:
    first, second = (_adjective(dice, domain, praises) for _ in range(2))
    return f"{dice.one_of(domain.aspects)} was both {first} and {second}"


def _was_not(dice: Dice, domain: Domain, praises: bool) -> str:
    return f"{dice.one_of(domain.aspects)} was {dice.one_of(lexicon.DENIALS)}{_adjective(dice, domain, not praises)}"


def _found(dice: Dice, domain: Domain, praises: bool) -> str:
    who = dice.one_of(("we", *lexicon.WHO))
    return (
        f"{who} found {dice.one_of(domain.aspects)} {dice.one_of(lexicon.DEGREES)}{_adjective(dice, domain, praises)}"
    )


def _thing_about(dice: Dice, domain: Domain, praises: bool) -> str:
    denied = dice.chance(30)
    adjective = _adjective(dice, domain, praises != denied)
    return f"there was {'nothing' if denied else 'something'} {adjective} about {dice.one_of(domain.aspects)}"


def _felt(dice: Dice, domain: Domain, praises: bool) -> str:
    feeling = dice.one_of(lexicon.LIKING if praises else lexicon.DISLIKING)
    return f"{dice.one_of(('we', 'everybody', *lexicon.WHO))} {feeling.past} {dice.one_of(domain.aspects)}"


def _did_not_feel(dice: Dice, domain: Domain, praises: bool) -> str:
    feeling = dice.one_of(lexicon.DISLIKING if praises else lexicon.LIKING)
    aspect = dice.one_of(domain.aspects)
    if dice.chance(30):
        return f"nobody {feeling.past} {aspect}"
    return f"{dice.one_of(('we', *lexicon.WHO))} did not {feeling.plain} {aspect}"


def _did(dice: Dice, domain: Domain, praises: bool) -> str:
    feeling, whom = (
        dice.one_of(lexicon.PLEASING if praises else lexicon.DISPLEASING),
        dice.one_of(("us", "me", *lexicon.WHO)),
    )
    if dice.chance(30):
        return f"{dice.one_of(domain.aspects)} managed to {feeling.plain} {whom}"
    return f"{dice.one_of(domain.aspects)} {feeling.past} {whom}"


def _did_not(dice: Dice, domain: Domain, praises: bool) -> str:
    feeling, whom = (
        dice.one_of(lexicon.DISPLEASING if praises else lexicon.PLEASING),
        dice.one_of(("us", "me", *lexicon.WHO)),
    )
    failed = dice.one_of(("did not", "did not", "failed to", "never managed to"))
    return f"{dice.one_of(domain.aspects)} {failed} {feeling.plain} {whom}"


_KINDS: tuple[Callable[[Dice, Domain, bool], str], ...] = (
    *(*5 * (_was,), *5 * (_was_both,), *3 * (_found,), *2 * (_thing_about,), *3 * (_felt,), *3 * (_did,)),
    *(_was_not, _did_not_feel, _did_not),
)


def clause(dice: Dice, domain: Domain, praises: bool, split: str) -> str:
    """A clause of a split."""
    while True:
        made = dice.one_of(_KINDS)(dice, domain, praises)
        if split_of(made) == split:
            return made


def sentence(dice: Dice, domain: Domain, praises: bool, split: str) -> Sentence:
    """A sentence of one clause or two, all of them of a split, that praises something of a domain or blames it."""
    clauses = [clause(dice, domain, praises, split)]
    form = "{0}"
    if dice.chance(50):
        agrees = dice.chance(88)
        clauses.append(clause(dice, domain, praises == agrees, split))
        # what a sentence comes to is its first clause, wherever that stands
        form = "{0} and {1}" if agrees else dice.one_of(("{1}, but {0}", "although {1}, {0}", "{0}, even though {1}"))
    text = form.format(*clauses)
    return Sentence(text[0].upper() + text[1:] + ".", int(praises), tuple(clauses), domain.name)
