"""What watches a run, keeps its files and ends it well; none of it touches the mathematics."""

from hiso_pl.callbacks.attending import Attending
from hiso_pl.callbacks.board import TensorBoardPanels
from hiso_pl.callbacks.diagnosis import DiagnosisPanels
from hiso_pl.callbacks.hostile import HostileClients
from hiso_pl.callbacks.in_step import InStepCheck
from hiso_pl.callbacks.ledger import RoundLedger
from hiso_pl.callbacks.participation import Participation
from hiso_pl.callbacks.privacy_budget import PrivacyBudget
from hiso_pl.callbacks.progress import RoundProgressBar
from hiso_pl.callbacks.run_folder import RunFolder
from hiso_pl.callbacks.signals import DeferredSignals
from hiso_pl.callbacks.summary import RunSummary
from hiso_pl.callbacks.validation import CompleteValidation

__all__ = [
    "Attending",
    "CompleteValidation",
    "DeferredSignals",
    "DiagnosisPanels",
    "HostileClients",
    "InStepCheck",
    "Participation",
    "PrivacyBudget",
    "RoundLedger",
    "RoundProgressBar",
    "RunFolder",
    "RunSummary",
    "TensorBoardPanels",
]
