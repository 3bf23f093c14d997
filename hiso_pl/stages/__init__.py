"""Networks in stages: consecutive blocks, of which the memory for probing is needed one stage at a time."""

from hiso_pl.stages.options import Stages

__all__ = ["Stages"]
