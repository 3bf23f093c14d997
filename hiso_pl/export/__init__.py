"""The command ``hiso-pl export``: from a run's checkpoint to a folder that Hugging Face's ``from_pretrained`` opens.

What is built is said by the configuration that is named on the command line, trusted as it is for ``fit``; the
checkpoint gives the values of the trained tensors, once it has been compared with what was built, and nothing else.
"""

from hiso_pl.export.command import run

__all__ = ["run"]
