"""The mathematics: streams, kernels, probes, parts, optimizer. Knows no Lightning and no federation."""

from hiso_pl.zeroth_order.aggregation import Aggregation as Aggregation
from hiso_pl.zeroth_order.aggregation import Mean as Mean
from hiso_pl.zeroth_order.interfaces import Exchange as Exchange
from hiso_pl.zeroth_order.interfaces import LocalExchange as LocalExchange
from hiso_pl.zeroth_order.interfaces import RoundOptimizer as RoundOptimizer
from hiso_pl.zeroth_order.interfaces import Slots as Slots
from hiso_pl.zeroth_order.method import Method as Method
from hiso_pl.zeroth_order.optimizer import ZerothOrderOptimizer as ZerothOrderOptimizer
from hiso_pl.zeroth_order.part import Part as Part
from hiso_pl.zeroth_order.preconditioner import *  # noqa: F403 - what is registered there is found here too
from hiso_pl.zeroth_order.record import RoundRecord as RoundRecord
from hiso_pl.zeroth_order.record import RoundReport as RoundReport
from hiso_pl.zeroth_order.schedule import Cosine as Cosine
from hiso_pl.zeroth_order.schedule import Linear as Linear
from hiso_pl.zeroth_order.schedule import Schedule as Schedule
from hiso_pl.zeroth_order.schedule import Steps as Steps
from hiso_pl.zeroth_order.tensors import Target as Target
from hiso_pl.zeroth_order.transform import Departure as Departure
from hiso_pl.zeroth_order.transform import Transform as Transform
from hiso_pl.zeroth_order.update_rule import *  # noqa: F403
