"""Aggregations, one to a file. The line that imports one here registers it."""

from hiso_pl.federation.aggregation.majority_vote import MajorityVote as MajorityVote
from hiso_pl.federation.aggregation.weighted import WeightedMean as WeightedMean
from hiso_pl.zeroth_order.aggregation import Aggregation as Aggregation
from hiso_pl.zeroth_order.aggregation import Mean as Mean
from hiso_pl.zeroth_order.aggregation import Weighing as Weighing
