"""The mathematics: streams, kernels, probes, preconditioners, optimizer. Knows no Lightning and no federation."""

from hiso_pl.zeroth_order.interfaces import Aggregation, Exchange, LocalExchange, Mean, Slots, Transform
from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer
from hiso_pl.zeroth_order.preconditioner import Diagonal, Identity, PerTensor, Preconditioner, Scalar
from hiso_pl.zeroth_order.record import RoundRecord, RoundReport
from hiso_pl.zeroth_order.schedule import Cosine, Linear, Schedule, Steps
from hiso_pl.zeroth_order.update_rule import Momentum, Sgd, UpdateRule

__all__ = [
    "Aggregation",
    "Cosine",
    "Diagonal",
    "Exchange",
    "Identity",
    "Linear",
    "LocalExchange",
    "Mean",
    "Momentum",
    "PerTensor",
    "Preconditioner",
    "RoundRecord",
    "RoundReport",
    "Scalar",
    "Schedule",
    "Sgd",
    "Slots",
    "Steps",
    "Transform",
    "UpdateRule",
    "ZerothOrderOptimizer",
]
