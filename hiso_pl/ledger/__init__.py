"""The ledger: a run as a file of a few kilobytes, from which anyone can rebuild the model and check it."""

from hiso_pl.ledger.describe import describe
from hiso_pl.ledger.format import Closing, LedgerError, stored_path
from hiso_pl.ledger.header import Header, Method, Part, TensorFacts, Weights
from hiso_pl.ledger.methods import method_of
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.replay import catch_up, initial_tensors, replay
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.ledger.writer import LedgerWriter

LEDGER = "rounds.ledger"
"""Name of the ledger in a run's folder."""

__all__ = [
    "LEDGER",
    "Closing",
    "Header",
    "LedgerError",
    "LedgerReader",
    "LedgerWriter",
    "Method",
    "NamedWeights",
    "Part",
    "TensorFacts",
    "Weights",
    "catch_up",
    "describe",
    "initial_tensors",
    "method_of",
    "replay",
    "stored_path",
]
