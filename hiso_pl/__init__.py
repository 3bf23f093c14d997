"""Hessian-informed federated zeroth-order fine-tuning: forward passes only, a few scalars a round.

The package implements HiSo (arXiv 2506.02370) and, with the Hessian switched off, DeComFL (arXiv 2405.15861)
on PyTorch Lightning. Importing it loads nothing else, so that a version can be asked for without loading torch.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("hiso_pl")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0.0.0+unknown"
