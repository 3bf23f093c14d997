"""Attacks of a simulation, one to a file. The line that imports one here registers it."""

from hiso_pl.zeroth_order.attack import Attack as Attack
