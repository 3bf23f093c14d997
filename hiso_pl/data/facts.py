"""What a data module must know of the model: handed over before a run starts, not asked for through a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hiso_pl.models.task_model import TaskModel
from hiso_pl.stages import Stages
from hiso_pl.zeroth_order.attack import Attack
from hiso_pl.zeroth_order.interfaces import MethodBase


class ModelFacts(NamedTuple):
    """What a data module must know of the model: of its method, its network, and how it is resumed.

    Attributes:
        local_steps: Local steps tau of a round: the minibatches that a slot takes.
        local_epochs: Passes over its own examples that a slot takes in place of local steps; 0 for none.
        undivided: What of the method has a slot's work done by one rank, in words; empty where ranks may share it.
        withholds_losses: Whether the method says what leaves a client, so that no raw loss may.
        max_positions: Longest sequence the network takes, where it has a limit.
        vocabulary_size: Number of token ids the network takes, where it takes tokens.
        tokenizer_source: Where the network's tokenizer is found, if it brings one.
        tokenizer_revision: The revision of it, for a model on the hub.
        tokenizer_trusted: Whether Python code that comes with it may run.
        data_may_change: Whether a resumed run may go on with other data than its checkpoint's, as asked for by name.
        num_labels: Number of classes that the network scores, where that is its own.
        labels: What a pretrained head calls them, in the order of its scores, where it does.
        attack: What the method has hostile clients do, if any are.
        seed: The seed by which these are drawn; that of the run.
        method: The method as configured, where it is known: what a round costs a client.
        trained: Number of trainable parameters.
        per_example: Whether each example is private, so that minibatches are drawn in secret.
        num_features: Number of features that the network takes, where it takes points.
        ranks: Ranks that hold the network together; they are to this data what one rank is without.
    """

    local_steps: int = 1
    local_epochs: int = 0
    undivided: str = ""
    withholds_losses: bool = False
    max_positions: int | None = None
    vocabulary_size: int | None = None
    tokenizer_source: str | None = None
    tokenizer_revision: str | None = None
    tokenizer_trusted: bool = False
    data_may_change: bool = False
    num_labels: int | None = None
    labels: tuple[str, ...] | None = None
    attack: Attack | None = None
    seed: int | None = None
    method: MethodBase | None = None
    trained: int = 0
    per_example: bool = False
    num_features: int | None = None
    ranks: int = 1

    @property
    def divisible(self) -> bool:
        """Whether ranks may share a slot's work unasked, as it takes no further exchange and sends nothing else."""
        return self.local_steps == 1 and not self.withholds_losses and not self.undivided

    @property
    def flipping(self) -> Attack | None:
        """The attack, where it is one on labels."""
        return self.attack if self.attack is not None and self.attack.flips_labels else None

    def check_hostile(self, clients: int, seed: int) -> None:
        """Refuses hostile clients that are not among so many, or who are drawn by another seed than the data's.

        Raises:
            ValueError: If there are some.
        """
        if self.attack is None:
            return
        if self.seed != seed:
            raise ValueError(f"seed={seed} must be the model's, {self.seed}: it says which clients are hostile")
        self.attack.hostile(seed, clients)


class Model(Protocol):
    """What the facts are read from, as :class:`hiso_pl.module.FederatedModule` has it."""

    network: TaskModel
    method: MethodBase
    change_on_resume: list[str]
    seed: int


def facts_of(model: Model) -> ModelFacts:
    """The facts of a model, to be handed to its data: ``data.take(facts_of(model))``."""
    network = model.network
    attack = getattr(model.method, "attack", None)  # a scalar-only method's
    stages: Stages | None = getattr(model, "stages", None)  # a model that is no run's has none
    return ModelFacts(
        model.method.local_steps,
        model.method.local_epochs,
        type(model.method).__name__ if model.method.undivided else "",
        model.method.withholds_losses,
        network.max_positions,
        network.vocabulary_size,
        network.tokenizer_source,
        network.tokenizer_revision,
        network.tokenizer_trusted,
        _concerns_data(model.change_on_resume),
        network.num_labels,
        network.labels,
        attack,
        None if attack is None else model.seed,
        model.method,
        sum(p.numel() for p in network.parameters() if p.requires_grad),
        model.method.per_example,
        network.num_features,
        1 if stages is None else stages.ranks,
    )


def _concerns_data(options: Sequence[str]) -> bool:
    return any(option.partition(".")[0] == "data" for option in options)
