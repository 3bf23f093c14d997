"""The versions a result may depend on."""

from __future__ import annotations

import platform
from importlib import metadata

import hiso_pl
from hiso_pl.zeroth_order.kernels.base import NUMERICS
from hiso_pl.zeroth_order.philox import STREAM

PACKAGES = (
    *("torch", "lightning", "transformers", "tokenizers", "peft", "datasets", "safetensors", "jsonargparse"),
    *("numpy", "numba", "triton"),
)


def package_versions() -> dict[str, str]:
    """The versions a result may depend on, and the numbers of the formats that it does depend on."""
    found = {"hiso_pl": hiso_pl.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found | {"stream": str(STREAM), "numerics": str(NUMERICS)}
