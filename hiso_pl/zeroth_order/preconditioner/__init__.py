"""Preconditioners, one to a file. The line that imports one here registers it."""

from hiso_pl.zeroth_order.preconditioner.base import Preconditioner as Preconditioner
from hiso_pl.zeroth_order.preconditioner.block import Block as Block
from hiso_pl.zeroth_order.preconditioner.diagonal import Diagonal as Diagonal
from hiso_pl.zeroth_order.preconditioner.identity import Identity as Identity
from hiso_pl.zeroth_order.preconditioner.scalar import PerTensor as PerTensor
from hiso_pl.zeroth_order.preconditioner.scalar import Scalar as Scalar
