"""Examples and a classifier's head: as many classes, in one order, which is the head's."""

from __future__ import annotations

import logging

import numpy as np

from hiso_pl.class_names import places, says_something
from hiso_pl.data.examples import ExampleSet, Splits
from hiso_pl.data.facts import ModelFacts

logger = logging.getLogger("hiso_pl.data")


def in_the_models_order(splits: Splits, facts: ModelFacts) -> None:
    """Gives the classes of examples the numbers that the model's head has for them.

    A head that was pretrained knows its classes by name. Where examples have the same names in another order, their
    labels and classes are put in the head's; where their names are others, nobody knows which is which.

    Args:
        splits: The examples, changed in place.
        facts: What is known of the model.

    Raises:
        ValueError: If the model has another number of classes, or its classes are others.
    """
    if facts.num_labels is None:
        return
    told = [_put_in_order(examples, facts.num_labels, facts.labels) for examples in splits if examples is not None]
    for level, message in dict.fromkeys(one for one in told if one is not None):
        logger.log(level, message)


def check_flipping(facts: ModelFacts, classes: int) -> None:
    """Refuses an attack on labels where examples have none that could be other ones.

    Raises:
        ValueError: If it is asked for.
    """
    if facts.flipping is not None and classes < 2:
        raise ValueError(f"attack={facts.attack!r} flips labels, so the task must be one with classes: this has none")


def _put_in_order(examples: ExampleSet, count: int, labels: tuple[str, ...] | None) -> tuple[int, str] | None:
    """Does so for one split; what is to be said of it, with its level of importance."""
    if len(examples.classes) != count:
        there = f"{len(examples.classes)}: {', '.join(examples.classes)}" if examples.classes else "none to tell apart"
        raise ValueError(f"num_labels={count} of the network must be the number of the data's classes, {there}")
    if labels is None:
        return None
    found = next((f for names in (examples.classes, examples.other_names) if (f := places(names, labels))), None)
    if found is None:
        told = f"the model calls its classes {', '.join(labels)}, the data {', '.join(examples.classes)}"
        if examples.named and says_something(examples.classes):
            raise ValueError(f"{told}: they must be the same (data.classes renames those of texts, in their order)")
        return logging.WARNING, f"{told[0].upper()}{told[1:]}: they are taken to be in the same order."
    if found == tuple(range(count)):
        return None
    examples.labels = np.array(found, dtype=np.int64)[examples.labels]
    examples.classes = tuple(examples.classes[i] for i in np.argsort(found))
    return logging.INFO, f"Labels are numbered in the order of the model: {', '.join(examples.classes)}."
