"""A task made of nothing but a seed, for federations of any size: an example is drawn when a batch asks for it."""

from __future__ import annotations

import hashlib
import json
import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hiso_pl.data.examples import Batch, ExampleSet, Splits
from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.federation.partition import Parts
from hiso_pl.zeroth_order.philox import Purpose, check_seed, last_word, philox4x32
from hiso_pl.zeroth_order.streams import normals

FORMAT = 1
"""Number of the way in which examples are made of a seed; any change to it is a new number."""

TRAIN, VALIDATION, TEST = range(3)

# What is drawn, as the local step k of a counter has it
_LABEL, _NOISE, _MEAN, _OWN_MEAN, _OWN_SHIFT = range(5)

_MOST = 1 << 32
_PIECE = 1 << 14


class Recipe(NamedTuple):
    """What generated examples are made by; the options are those of :class:`GeneratedData`."""

    data_seed: int
    features: int
    classes: int
    separation: float
    label_noise: float
    own_means: float
    own_shift: float
    clients: int
    examples_per_client: int


class GeneratedExamples(ExampleSet):
    r"""Examples that are pure functions of a seed, their split and their number, and never all in memory.

    .. math::
        x = \underbrace{\sqrt{1 - a} \, m_c + \sqrt{a} \, m_{i,c}}_{\text{mean of class } c \text{ at client } i}
        + s_i + n, \qquad m_c, m_{i,c} \sim \mathcal N(0, \tfrac{d^2}{F} I), \quad s_i \sim \mathcal N(0, b^2 I),
        \quad n \sim \mathcal N(0, I)

    with a, b and d the options ``own_means``, ``own_shift`` and ``separation``, and F features. Client i has the
    training examples ``i n`` to ``i n + n - 1``, n being ``examples_per_client``; one of another split is of a client
    that is drawn. The class c is drawn evenly; with probability ``label_noise`` an example is labelled by another draw.

    A number comes from the Philox call with counter ``(f >> 2, owner, context, 12 << 28 | k << 14)``, normals by the
    streams' own method (:mod:`hiso_pl.zeroth_order.streams`), so that they are the same on every machine. Labels: f, k
    0, owner the example, context the split; of the words w, class ``w0 C >> 32``, labelled anew, as ``w2 C >> 32``,
    where ``w1 < label_noise 2^32``, client ``w3 M >> 32``. Feature f: n by k 1, owner and context as of labels; m_c by
    k 2, owner the class; m_{i,c} by k 3, owner the client and context the class; s_i by k 4, owner the client.

    Args:
        recipe: What they are made by.
        split: 0 for training, 1 for validation, 2 for test.
        examples: Number of examples N.
    """

    named = False

    def __init__(self, recipe: Recipe, split: int, examples: int) -> None:
        self.recipe = recipe
        self.split = split
        self.examples = examples
        self.classes = tuple(map(str, range(recipe.classes)))

    def __len__(self) -> int:
        """Number of examples N."""
        return self.examples

    @cached_property
    def labels(self) -> NDArray[np.int64]:  # type: ignore[override]  # made when somebody wants those of all
        """Label of each example, shape ``[N]``."""
        pieces = range(0, self.examples, _PIECE)
        return np.concatenate([self._drawn(np.arange(i, min(i + _PIECE, self.examples)))[1] for i in pieces])

    def labels_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`ExampleSet`."""
        return self.labels[indices] if "labels" in vars(self) else self._drawn(indices)[1]

    def label_bounds(self) -> tuple[int, int]:
        """See :class:`ExampleSet`."""
        return 0, len(self.classes) - 1

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """Returns ``features``, fp32, shape ``[B, F]``, and ``label``, shape ``[B]``."""
        recipe = self.recipe
        classes, labels, clients = self._drawn(indices)
        x = self._means[classes]
        if recipe.own_means:
            own = self._normals(_OWN_MEAN, clients, classes) * self._scale
            x = np.float32(math.sqrt(1.0 - recipe.own_means)) * x + np.float32(math.sqrt(recipe.own_means)) * own
        if recipe.own_shift:
            x = x + np.float32(recipe.own_shift) * self._normals(_OWN_SHIFT, clients, 0)
        x = x + self._normals(_NOISE, indices, self.split)
        if "labels" in vars(self):  # they may have been put in the order of a model's
            labels = self.labels[indices]
        return {"features": torch.from_numpy(x), "label": torch.from_numpy(labels)}

    def fingerprint(self) -> str:
        """SHA-256 over what the examples are made by, which is all that they are."""
        told = {"format": FORMAT, "split": self.split, "examples": self.examples, **self.recipe._asdict()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _means(self) -> NDArray[np.float32]:
        """The classes' means that all clients share, shape ``[C, F]``."""
        return self._normals(_MEAN, np.arange(self.recipe.classes), 0) * self._scale

    @property
    def _scale(self) -> np.float32:
        return np.float32(self.recipe.separation / math.sqrt(self.recipe.features))

    def _drawn(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Class, label and client of examples, shape ``[B]`` each."""
        recipe = self.recipe
        words = self._words(_LABEL, indices, self.split, 1)[:, 0].astype(np.uint64)

        def below(word: int, count: int) -> NDArray[np.int64]:
            return (words[:, word] * np.uint64(count) >> np.uint64(32)).astype(np.int64)

        classes = below(0, recipe.classes)
        anew = words[:, 1] < np.uint64(math.floor(recipe.label_noise * 2**32))
        clients = indices // recipe.examples_per_client if self.split == TRAIN else below(3, recipe.clients)
        return classes, np.where(anew, below(2, recipe.classes), classes), clients

    def _normals(self, what: int, owners: NDArray[np.int64], contexts: NDArray[np.int64] | int) -> NDArray[np.float32]:
        """A standard normal for each owner and feature, shape ``[B, F]``."""
        words = self._words(what, owners, contexts, -(-self.recipe.features // 4))
        return normals(words.reshape(-1, 4)).reshape(len(owners), -1)[:, : self.recipe.features]

    def _words(
        self, what: int, owners: NDArray[np.int64], contexts: NDArray[np.int64] | int, calls: int
    ) -> NDArray[np.uint32]:
        """The words of so many calls for each owner, shape ``[B, calls, 4]``."""
        counter = np.empty((len(owners), calls, 4), dtype=np.uint32)
        counter[..., 0] = np.arange(calls)
        counter[..., 1] = owners[:, None]
        counter[..., 2] = contexts if isinstance(contexts, int) else contexts[:, None]
        counter[..., 3] = last_word(Purpose.EXAMPLES, what)
        return philox4x32(counter, self.recipe.data_seed)


class GeneratedData(FederatedDataModule):
    """Points around the centres of their classes, made of a seed, for a million clients as for ten.

    Every client has as many examples of its own. Clients may differ in where their features lie and in what a class
    looks like, as in the synthetic data of Li et al.; there the label follows from the features by a linear model, here
    the features from the label, so that labels are known without them. Where clients are alike, a partition may divide
    the examples in another way.

    Source: T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith, "Federated optimization in heterogeneous
    networks", MLSys 2020, arXiv 1812.06127, section 5.1: synthetic(alpha, beta).

    Args:
        examples_per_client: Training examples of each client; with a partition, on average.
        features: Number of features F.
        classes: Number of classes C.
        separation: How far the centres of classes lie from the origin, in standard deviations of a feature.
        label_noise: Share of the examples that are labelled at random, in [0, 1).
        own_means: Share of a class's centre that is a client's own, in [0, 1]: alpha of the source. With 1 clients
            have nothing in common.
        own_shift: How far a client's features are displaced, in standard deviations of a feature: beta of the source.
        validation: Examples of the validation split, each of a client that is drawn.
        test: Examples of the test split, each of a client that is drawn; 0 for none.
        data_seed: Seed of the examples, apart from the run's seed.
        base: Clients, cohort, batches, partition, hosting and seed, as in :class:`FederatedDataModule`. Without a
            partition each client has its own examples.
    """

    def __init__(
        self,
        examples_per_client: int = 1,
        features: int = 32,
        classes: int = 10,
        separation: float = 4.0,
        label_noise: float = 0.0,
        own_means: float = 0.0,
        own_shift: float = 0.0,
        validation: int = 1000,
        test: int = 2000,
        data_seed: int = 0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        at_least = {"examples_per_client": (examples_per_client, 1), "features": (features, 1), "classes": (classes, 2)}
        for name, (value, least) in {**at_least, "validation": (validation, 1), "test": (test, 0)}.items():
            if not least <= value < _MOST:
                raise ValueError(f"{name}={value} must be in [{least}, 2**32)")
        if self.clients * examples_per_client >= _MOST:
            raise ValueError(
                f"examples_per_client={examples_per_client} for each of clients={self.clients} makes "
                f"{self.clients * examples_per_client} training examples, must be below 2**32"
            )
        for name, size in {"separation": separation, "own_shift": own_shift}.items():
            if not 0.0 <= size <= 1e6:
                raise ValueError(f"{name}={size} must be in [0, 1e6]")
        if not 0.0 <= label_noise < 1.0:
            raise ValueError(f"label_noise={label_noise} must be in [0, 1)")
        if not 0.0 <= own_means <= 1.0:
            raise ValueError(f"own_means={own_means} must be in [0, 1]")
        if self.partition is not None and (own_means or own_shift):
            raise ValueError(
                f"partition={type(self.partition).__name__} must be null with own_means={own_means} and "
                f"own_shift={own_shift}: examples that are a client's own cannot be another's"
            )
        numbers = (features, classes, separation, label_noise, own_means, own_shift, self.clients, examples_per_client)
        self.recipe = Recipe(check_seed(data_seed), *numbers)
        self.validation = validation
        self.test = test

    def take(self, facts: ModelFacts) -> None:
        """See :class:`FederatedDataModule`.

        Raises:
            ValueError: If the network takes another number of features.
        """
        super().take(facts)
        if facts.num_features not in (None, self.recipe.features):
            raise ValueError(f"features={facts.num_features} of the network must be {self.recipe.features}, the data's")

    def load(self) -> Splits:
        """Says what the examples are; none is made yet."""
        recipe = self.recipe
        train = GeneratedExamples(recipe, TRAIN, recipe.clients * recipe.examples_per_client)
        train.parts = Parts(range(len(train)), np.full(recipe.clients, recipe.examples_per_client))
        test = GeneratedExamples(recipe, TEST, self.test) if self.test else None
        return Splits(train, GeneratedExamples(recipe, VALIDATION, self.validation), test)
