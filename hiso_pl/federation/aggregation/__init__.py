"""Aggregations, one to a file. The line that imports one here registers it."""

from hiso_pl.federation.aggregation.centered_clipping import CenteredClipping as CenteredClipping
from hiso_pl.federation.aggregation.geometric_median import GeometricMedian as GeometricMedian
from hiso_pl.federation.aggregation.krum import Krum as Krum
from hiso_pl.federation.aggregation.majority_vote import MajorityVote as MajorityVote
from hiso_pl.federation.aggregation.median import Median as Median
from hiso_pl.federation.aggregation.multi_krum import MultiKrum as MultiKrum
from hiso_pl.federation.aggregation.norm_clipping import NormClipping as NormClipping
from hiso_pl.federation.aggregation.trimmed_mean import TrimmedMean as TrimmedMean
from hiso_pl.federation.aggregation.weighted import WeightedMean as WeightedMean
from hiso_pl.zeroth_order.aggregation import Aggregation as Aggregation
from hiso_pl.zeroth_order.aggregation import Mean as Mean
from hiso_pl.zeroth_order.aggregation import Weighing as Weighing
