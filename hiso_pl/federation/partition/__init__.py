"""Partitions: which client owns which training examples.

A partition is a pure function of a number for each example (its label, its length or its owner), the number of clients
and the seed, and the same on every machine: its randomness is the package's own integers, and its few logarithms are
taken one number at a time by ``math``, whose results do not depend on the width of a processor's vector units.
"""

from hiso_pl.federation.partition.base import Partition
from hiso_pl.federation.partition.by_column import ByColumn
from hiso_pl.federation.partition.dirichlet import Dirichlet, quantile_bins
from hiso_pl.federation.partition.iid import IID
from hiso_pl.federation.partition.label_shards import LabelShards
from hiso_pl.federation.partition.parts import Indices, Parts, label_counts, partition_fingerprint

__all__ = [
    "IID",
    "ByColumn",
    "Dirichlet",
    "Indices",
    "LabelShards",
    "Partition",
    "Parts",
    "label_counts",
    "partition_fingerprint",
    "quantile_bins",
]
