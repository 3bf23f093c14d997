"""Text tasks: those known by name, and a user's own."""

from hiso_pl.data.tasks.base import HubDataset, TextTask
from hiso_pl.data.tasks.builtin import TASKS, find_task
from hiso_pl.data.tasks.classification import ClassificationTask
from hiso_pl.data.tasks.generation import GenerationTask
from hiso_pl.data.tasks.options import ClassificationOptions, GenerationOptions, TaskOptions

__all__ = [
    "TASKS",
    "ClassificationOptions",
    "ClassificationTask",
    "GenerationOptions",
    "GenerationTask",
    "HubDataset",
    "TaskOptions",
    "TextTask",
    "find_task",
]
