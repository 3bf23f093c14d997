"""A run's header, made from the run before its first round."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hiso_pl.ledger.header import Header, TensorFacts, Weights
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.zeroth_order.digest import digest_of_hashes, tensors_sha256
from hiso_pl.zeroth_order.kernels.base import NUMERICS
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.method_data import PARTS, applied
from hiso_pl.zeroth_order.part import known
from hiso_pl.zeroth_order.philox import STREAM

log = logging.getLogger(__name__)


def header_of(
    parameters: Sequence[tuple[str, Tensor]],
    method: Method,
    *,
    seed: int,
    clients: int,
    cohort: int,
    frozen_sha256: str,
    configuration: Mapping[str, Any],
    versions: Mapping[str, str],
    weights: str | None = None,
    revision: str | None = None,
    hashes: Sequence[str] | None = None,
) -> Header:
    """Makes the header of a run.

    Every tensor is looked for among the named weights, by its content, so that what replay will look for is known to
    be there; what is not found is to be stored beside the ledger. ``parameters`` are names and values of the trainable
    tensors at the start, in tensor order; ``weights`` is the folder or hub name that the network was loaded from, if
    any, of which nothing is downloaded, and ``revision`` its revision on the hub. ``hashes`` are the tensors' SHA-256,
    where they are known already. The others are as in
    :class:`~hiso_pl.ledger.header.Header`.

    Raises:
        ValueError: If a value cannot be.
    """
    named: NamedWeights | None = None
    if weights is not None:
        try:
            named = NamedWeights(weights, revision, local=True)
        except ValueError as error:
            log.warning("The ledger stores every trained tensor, as its start is in no safetensors file: %s", error)
    tensors = []
    if hashes is None:
        hashes = tensors_sha256(tensor for _, tensor in parameters)
    for (name, tensor), sha256 in zip(parameters, hashes, strict=True):
        shape = tuple(tensor.shape)
        found = named is not None and named.find(name, shape, sha256) is not None
        tensors.append(TensorFacts(name, shape, sha256, stored=not found))
    return Header(
        stream=STREAM,
        numerics=NUMERICS,
        seed=seed,
        method=method.as_data(),
        clients=clients,
        cohort=cohort,
        tensors=tuple(tensors),
        trainable_sha256=digest_of_hashes(hashes),
        frozen_sha256=frozen_sha256,
        weights=Weights(weights, revision if named is None or named.revision is None else named.revision),
        configuration=configuration,
        versions=versions,
    )


def say_what_replays(header: Header, ledger: Path, config: Path) -> None:
    """Says of a run whose updates are made by parts from elsewhere, which no file brings back, what will replay it.

    Args:
        header: The run's.
        ledger: Where its ledger is.
        config: Where its configuration is.
    """
    parts = {name: next(iter(header.method[name])) for name in applied(header.method) if name in PARTS}
    foreign = [f"{name}={part}" for name, part in parts.items() if part not in known(PARTS[name][0])]
    if foreign:
        named = not all(facts.stored for facts in header.tensors)
        weights = ["--weights", str(header.weights.name)] if named else []
        log.warning(
            "%s: no part of this package, and a ledger imports nothing; this will replay it, where the part can be "
            "imported: %s",
            ", ".join(foreign),
            shlex.join(["hiso-pl", "replay", str(ledger), *weights, "--method", str(config)]),
        )
