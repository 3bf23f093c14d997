"""The minibatches that a diagnosis looks at: those that clients draw in a round, from the program's own streams."""

from __future__ import annotations

from dataclasses import replace

from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.rounds import Round, Rounds


def minibatches_of(data: FederatedDataModule, round: int, clients: int | None, batches: int) -> Round:
    """Minibatches of clients in a round, addressed as a run addresses them.

    Of each client the first tau are those that it would take in that round, the others those of further local steps
    of it. Nothing is drawn from a generator, so looking at a run leaves it as it is.

    Args:
        data: The data, which have been set up.
        round: The round.
        clients: How many clients, those that a cohort of so many would have in that round; all if None.
        batches: Minibatches of each.

    Raises:
        ValueError: If there are fewer clients.
    """
    count = len(data.ownership.sizes)
    if clients is not None and clients > count:
        raise ValueError(f"clients={clients} must be at most {count}, the clients of the data")
    rounds = data.train_dataloader().dataset
    assert isinstance(rounds, Rounds)
    cohort = count if clients is None else clients
    # one process looks at every slot, with local steps of its own number
    looked = replace(
        rounds, hosting="dealt", rank=0, world=1, cohort=cohort, local_steps=batches, local_epochs=0, sharing=False
    )
    return looked[round]
