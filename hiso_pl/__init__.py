"""Hessian-informed federated zeroth-order fine-tuning: forward passes only, a few scalars a round.

The package implements HiSo (arXiv 2506.02370) and, with the Hessian switched off, DeComFL (arXiv 2405.15861)
on PyTorch Lightning. Importing it loads nothing else, so that a version can be asked for without loading torch.
"""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version, looked up when it is asked for: the program is to take its signals before anything is imported."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hiso_pl")
    except PackageNotFoundError:  # imported from a source tree that is not installed
        return "0.0.0+unknown"
