"""Update rules, one to a file. The line that imports one here registers it."""

from hiso_pl.zeroth_order.update_rule.base import UpdateRule as UpdateRule
from hiso_pl.zeroth_order.update_rule.momentum import Momentum as Momentum
from hiso_pl.zeroth_order.update_rule.sgd import Sgd as Sgd
