"""Clients, and what passes between them: who owns what, who takes part, and the one exchange of a round."""

from hiso_pl.federation.aggregation import *  # noqa: F403 - what is registered there is found here too
from hiso_pl.federation.attacks import *  # noqa: F403
from hiso_pl.federation.batches import draw_batch, draw_secret_batch
from hiso_pl.federation.cohort import own_slots, resolve_hosting, sample_cohort
from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.federation.partition import (
    IID,
    ByColumn,
    Dirichlet,
    LabelShards,
    Partition,
    label_counts,
    partition_fingerprint,
)
from hiso_pl.federation.presence import *  # noqa: F403
from hiso_pl.federation.privacy import *  # noqa: F403
from hiso_pl.federation.scalars import *  # noqa: F403 - what is registered there is found here too
from hiso_pl.federation.traffic import Traffic

__all__ = [
    "IID",
    "AllReduceExchange",
    "ByColumn",
    "Dirichlet",
    "LabelShards",
    "Partition",
    "Traffic",
    "draw_batch",
    "draw_secret_batch",
    "label_counts",
    "own_slots",
    "partition_fingerprint",
    "resolve_hosting",
    "sample_cohort",
]
