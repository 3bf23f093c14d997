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
    for examples in {id(split): split for split in splits if split is not None}.values():
        _put_in_order(examples, facts.num_labels, facts.labels)


def _put_in_order(examples: ExampleSet, count: int, labels: tuple[str, ...] | None) -> None:
    if len(examples.classes) != count:
        there = f"{len(examples.classes)}: {', '.join(examples.classes)}" if examples.classes else "none to tell apart"
        raise ValueError(f"num_labels={count} of the network must be the number of the data's classes, {there}")
    if labels is None:
        return
    found = next((f for names in (examples.classes, examples.other_names) if (f := places(names, labels))), None)
    if found is None:
        told = f"the model calls its classes {', '.join(labels)}, the data {', '.join(examples.classes)}"
        if examples.named and says_something(examples.classes):
            raise ValueError(f"{told}: they must be the same (data.classes renames those of texts, in their order)")
        logger.warning("%s: they are taken to be in the same order.", told[0].upper() + told[1:])
    elif found != tuple(range(count)):
        examples.labels = np.array(found, dtype=np.int64)[examples.labels]
        examples.classes = tuple(examples.classes[i] for i in np.argsort(found))
        logger.info("Labels are numbered in the order of the model: %s.", ", ".join(examples.classes))
