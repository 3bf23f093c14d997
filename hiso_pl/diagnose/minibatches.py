"""The clients' minibatches that a diagnosis looks at: those that a run's own streams give them in a round."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.rounds import Rounds
from hiso_pl.diagnose.problem import Client, Minibatch, Outputs
from hiso_pl.models.task_model import TaskModel

MOST = 10_000
"""Of more clients than these one has to say how many are looked at."""


def check_clients(count: int | None, clients: int) -> None:
    """Refuses to look at more clients than there are, or at all of very many, whose minibatches are held together.

    Raises:
        ValueError: If it is asked for.
    """
    if count is not None and count > clients:
        raise ValueError(f"clients={count} must be at most {clients}, the clients of the data")
    if count is None and clients > MOST:
        raise ValueError(f"clients must say how many of {clients} are looked at; all are only up to {MOST}")


def clients_of(
    network: TaskModel, data: FederatedDataModule, round: int, count: int | None, batches: int, weighted: bool = False
) -> list[Client]:
    """The clients of a round with minibatches, addressed as a run addresses them.

    Of each client the first ones are those that it would take in the round's local steps, the others those of further
    local steps. Nothing is drawn from a generator, so looking at a run leaves it as it is.

    Args:
        network: The network with its task, on its device.
        data: The data, which have been set up.
        round: The round.
        count: How many clients, those that a cohort of so many has in that round; all if None.
        batches: Minibatches of each.
        weighted: Whether clients count by their examples.

    Raises:
        ValueError: If there are fewer clients, or all of very many are asked for.
    """
    sizes = data.ownership.sizes
    check_clients(count, len(sizes))
    rounds = data.train_dataloader().dataset
    assert isinstance(rounds, Rounds)
    # one process looks at every slot, as if there were so many local steps
    alone = replace(rounds, hosting="dealt", rank=0, world=1, sharing=False)
    presence = rounds.presence.everybody(len(sizes) if count is None else count)
    drawn = replace(alone, presence=presence, local_steps=batches, local_epochs=0)[round]
    device = next(network.parameters()).device
    return [
        Client([_minibatch(network, _moved(batch, device)) for batch in of_client], sizes[i] if weighted else 1.0)
        for i, of_client in zip(drawn.slots.clients, drawn.batches, strict=True)
    ]


def _moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _minibatch(network: TaskModel, batch: dict[str, Tensor]) -> Minibatch:
    return Minibatch(lambda: network.loss(batch), len(batch["label"]), lambda: Outputs(*network.loss_logits(batch)))
