"""Names of classes from two sources: the same in another order, or not the same.

Names are compared without regard to capitals, and blanks, hyphens and underscores count alike: ``NOT-ENTAILMENT`` is
``not_entailment``. Names that number the classes (``LABEL_0``, or ``0`` for the first) say nothing of their order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERED = re.compile(r"(label|class)?[ ]?(\d+)")


def plain(name: str) -> str:
    """A name as it is compared with others."""
    return " ".join(re.sub(r"[-_]", " ", name).casefold().split()) or name.strip()


def says_something(names: Sequence[str]) -> bool:
    """Whether names tell more than the number of each class: they are all there, distinct, and not just numbered."""
    told = [plain(name) for name in names]
    if not all(told) or len(set(told)) != len(told):
        return False
    numbers = [_NUMBERED.fullmatch(name) for name in told]
    return not all(match is not None and int(match[2]) == i for i, match in enumerate(numbers))


def places(told: Sequence[str], ours: Sequence[str]) -> tuple[int, ...] | None:
    """Where each of some names stands among ours.

    Args:
        told: The names of the other source, in its order.
        ours: As many names, in our order.

    Returns:
        Places in ``ours``; None if they are not the same names.
    """
    theirs, mine = [plain(name) for name in told], [plain(name) for name in ours]
    if len(set(theirs)) != len(theirs) or sorted(theirs) != sorted(mine):
        return None
    return tuple(mine.index(name) for name in theirs)
