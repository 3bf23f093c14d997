"""The ledger: a run as a file of a few kilobytes, from which anyone can rebuild the model and check it."""

from hiso_pl.ledger.format import Closing, LedgerError, stored_path
from hiso_pl.ledger.header import Header, TensorFacts, Weights
from hiso_pl.ledger.header_of_run import header_of
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.replay import catch_up, initial_tensors, replay
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.ledger.writer import LedgerWriter

__all__ = [
    "Closing",
    "Header",
    "LedgerError",
    "LedgerReader",
    "LedgerWriter",
    "NamedWeights",
    "TensorFacts",
    "Weights",
    "catch_up",
    "header_of",
    "initial_tensors",
    "replay",
    "stored_path",
]
