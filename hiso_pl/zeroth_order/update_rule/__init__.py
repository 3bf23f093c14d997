"""Update rules, one to a file. The line that imports one here registers it."""

from hiso_pl.zeroth_order.update_rule.adagrad import Adagrad as Adagrad
from hiso_pl.zeroth_order.update_rule.adam import Adam as Adam
from hiso_pl.zeroth_order.update_rule.base import UpdateRule as UpdateRule
from hiso_pl.zeroth_order.update_rule.greedy import Greedy as Greedy
from hiso_pl.zeroth_order.update_rule.momentum import Momentum as Momentum
from hiso_pl.zeroth_order.update_rule.normalized import Normalized as Normalized
from hiso_pl.zeroth_order.update_rule.sgd import Sgd as Sgd
from hiso_pl.zeroth_order.update_rule.yogi import Yogi as Yogi
