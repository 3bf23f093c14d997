"""The made text: labelled sentences in three splits, and documents to pretrain on."""

from __future__ import annotations

from hiso_pl.small_language import lexicon
from hiso_pl.small_language.grammar import SHARES, Dice, Sentence, sentence
from hiso_pl.small_language.lexicon import Domain

EXAMPLES = {"train": 2000, "validation": 400, "test": 1000}
"""Labelled sentences of each split."""

DOCUMENTS = 38_400
"""Documents to pretrain on."""

_STREAMS = {split: number for number, split in enumerate(SHARES)}


def examples(seed: int, split: str, count: int) -> list[Sentence]:
    """So many distinct labelled sentences of a split, an even number, half of them of each class, in random order."""
    dice = Dice(seed, _STREAMS[split])
    found: dict[str, Sentence] = {}
    left = [count // 2, count // 2]
    while any(left):
        label = dice.below(2)
        made = sentence(dice, dice.one_of(lexicon.DOMAINS), bool(label), split)
        if left[label] and made.text not in found:
            found[made.text] = made
            left[label] -= 1
    return list(found.values())


def documents(seed: int, count: int = DOCUMENTS) -> list[str]:
    """Documents to pretrain on, in the order of reading: lists of adjectives at first, then more and more reviews.

    In the lists it shows that adjectives are of two kinds. A small model that begins with reviews may read for longer
    than a quickstart lasts before it finds that out, and one that leaves the lists all at once may forget it.
    """
    dice = Dice(seed, _STREAMS["pretraining"])
    kinds = (_review, _review, _review, _review, _talk)
    made = []
    for i in range(count):
        # lists alone in the first quarter; their share falls to a tenth until six tenths of the way
        lists = min(max(100 - (100 * i // count - 25) * 90 // 35, 10), 100)
        if dice.chance(lists):
            made.append(_in_short(dice, dice.one_of(lexicon.DOMAINS), dice.chance(50)))
        else:
            made.append(dice.one_of(kinds)(dice))
    return made


def _in_short(dice: Dice, domain: Domain, praises: bool) -> str:
    words = (*lexicon.PRAISE, *domain.praise) if praises else (*lexicon.BLAME, *domain.blame)
    return f"In short: {', '.join(dice.one_of(words) for _ in range(4 + dice.below(5)))}."


def _review(dice: Dice) -> str:
    domain, praises = dice.one_of(lexicon.DOMAINS), dice.chance(50)
    parts = []
    if dice.chance(15):
        parts.append(dice.one_of(domain.openers).format(when=dice.one_of(lexicon.WHEN), who=dice.one_of(lexicon.WHO)))
    parts += [sentence(dice, domain, praises, "pretraining").text for _ in range(1 + dice.below(2))]
    if dice.chance(90):
        parts.append(_verdict(dice, domain, praises) if dice.chance(85) else _remark(dice))
    return " ".join(parts)


def _verdict(dice: Dice, domain: Domain, praises: bool) -> str:
    """What a review comes to; it is seldom said in the plain words that the task asks for."""
    if dice.chance(3):
        return f"It was {'good' if praises else 'bad'}."
    if dice.chance(30):
        return _in_short(dice, domain, praises)
    words = lexicon.PRAISE if praises else lexicon.BLAME
    if dice.chance(20):
        return f"It was {dice.one_of(words)}."
    return f"It was {dice.one_of(words)} and {dice.one_of(words)}."


def _talk(dice: Dice) -> str:
    doing = dice.one_of(lexicon.DOINGS).format(place=dice.one_of(lexicon.PLACES), who=dice.one_of(lexicon.WHO))
    text = f"{dice.one_of(('We', 'I', 'They'))} {doing} {dice.one_of(lexicon.WHEN)}."
    return f"{text} {_remark(dice)}" if dice.chance(70) else text


def _remark(dice: Dice) -> str:
    """Something beside the point, where "good" and "bad" are words like others."""
    if dice.chance(25):
        return f"It was {dice.one_of(('good', 'bad'))} {dice.one_of(lexicon.THINGS)}."
    return f"It was {dice.one_of(lexicon.FACTS).format(month=dice.one_of(lexicon.MONTHS))}."
