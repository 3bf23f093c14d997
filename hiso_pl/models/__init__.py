"""Networks that a federation can fine-tune."""

from hiso_pl.models.adapters import LoRA
from hiso_pl.models.causal_lm import CausalLM
from hiso_pl.models.digits import DigitsCNN, DigitsViT
from hiso_pl.models.image_classifier import ImageClassifier
from hiso_pl.models.perceptron import Perceptron
from hiso_pl.models.sequence_classifier import SequenceClassifier
from hiso_pl.models.task_model import Evaluation, TaskModel
from hiso_pl.models.transformers_model import TransformersModel

__all__ = [
    "CausalLM",
    "DigitsCNN",
    "DigitsViT",
    "Evaluation",
    "ImageClassifier",
    "LoRA",
    "Perceptron",
    "SequenceClassifier",
    "TaskModel",
    "TransformersModel",
]
