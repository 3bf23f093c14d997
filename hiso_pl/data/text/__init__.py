"""Text: where rows come from, how they become tokens, and the data modules made of them."""

from hiso_pl.data.text.base import TextData
from hiso_pl.data.text.kinds import PromptData, SentenceClassification

__all__ = ["PromptData", "SentenceClassification", "TextData"]
