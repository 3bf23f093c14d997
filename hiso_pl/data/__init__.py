"""Data modules: examples, their split over the clients, and the rounds made of them."""

from hiso_pl.data.digits import DigitsData
from hiso_pl.data.examples import Batch, ExampleSet, Splits
from hiso_pl.data.facts import ModelFacts, facts_of
from hiso_pl.data.generated import GeneratedData
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.rounds import Round
from hiso_pl.data.tasks import ClassificationOptions, GenerationOptions
from hiso_pl.data.text import PromptData, SentenceClassification
from hiso_pl.data.trace import Trace

__all__ = [
    "Batch",
    "ClassificationOptions",
    "DigitsData",
    "ExampleSet",
    "FederatedDataModule",
    "GeneratedData",
    "GenerationOptions",
    "ModelFacts",
    "PromptData",
    "Round",
    "SentenceClassification",
    "Splits",
    "Trace",
    "facts_of",
]
