"""What a ledger says of its run before the first record: plain data, checked strictly when it is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

from hiso_pl import bounds
from hiso_pl.ledger.format import MAX_HEADER
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.options import check_count
from hiso_pl.zeroth_order.philox import MAX_ELEMENTS, check_seed

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorFacts:
    """A trainable tensor at the start of the run; it is fp32.

    Attributes:
        name: Its name in the network.
        shape: Its shape.
        sha256: SHA-256 of its values as little-endian fp32.
        stored: Whether it lies beside the ledger; if not, it is among the named weights.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    stored: bool


@dataclass(frozen=True)
class Weights:
    """What the network's weights were loaded from: shown to a reader, and never followed.

    Attributes:
        name: Folder, or name on the hub; None for a network that is built from nothing.
        revision: Commit on the hub, where known.
    """

    name: str | None
    revision: str | None


@dataclass(frozen=True)
class Header:
    """A ledger's header.

    Attributes:
        stream: Number of the streams' format.
        numerics: Number of the order of evaluation.
        seed: The run's 64-bit seed.
        method: The method, by :meth:`~hiso_pl.zeroth_order.method.Method.as_data`; what is absent has its default.
        clients: Number of clients M.
        cohort: Number of slots m.
        tensors: The trainable tensors, in the order that fixes their streams.
        trainable_sha256: The digest of x at the start: SHA-256 over the 32 bytes of each tensor's own, in order.
        frozen_sha256: SHA-256 over frozen tensors and buffers, as a checkpoint holds it.
        weights: What the weights were loaded from.
        configuration: The run's configuration, as data.
        versions: Versions of packages.

    Raises:
        ValueError: If a field has another type or a value that cannot be.
    """

    stream: int
    numerics: int
    seed: int
    method: Mapping[str, Any]
    clients: int
    cohort: int
    tensors: tuple[TensorFacts, ...]
    trainable_sha256: str
    frozen_sha256: str
    weights: Weights
    configuration: Mapping[str, Any]
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        """Checks the fields, and brings configuration and method to what JSON can say."""
        for name in ("configuration", "method"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        check_count("stream", integer("stream", self.stream), 1 << 31)
        check_count("numerics", integer("numerics", self.numerics), 1 << 31)
        check_seed(self.seed)
        check_count("clients", integer("clients", self.clients), bounds.CLIENTS)
        check_count("cohort", integer("cohort", self.cohort), min(bounds.COHORT, self.clients + 1))
        Method.check_data(self.method)
        _check_tensors(self.tensors)
        check_sha256("trainable_sha256", self.trainable_sha256)
        check_sha256("frozen_sha256", self.frozen_sha256)
        for name in ("name", "revision"):
            if getattr(self.weights, name) is not None:
                _check_name(f"weights.{name}", getattr(self.weights, name))
        for key, version in self.versions.items():
            _check_name("versions", key)
            _check_name(f"versions.{key}", version)

    @property
    def local_steps(self) -> int:
        """Local steps tau."""
        return int(self.method.get("local_steps", 1))

    @property
    def own_directions(self) -> bool:
        """Whether every client has directions of its own, so that a record has as many for each slot."""
        return self.method.get("directions") == "client"

    @property
    def stored(self) -> tuple[TensorFacts, ...]:
        """The tensors that lie beside the ledger."""
        return tuple(tensor for tensor in self.tensors if tensor.stored)

    def encode(self) -> bytes:
        """Canonical JSON.

        Raises:
            ValueError: If it is larger than a header may be.
        """
        encoded = _canonical(asdict(self))
        if len(encoded) > MAX_HEADER:
            raise ValueError(f"a header of {len(encoded)} bytes must not exceed {MAX_HEADER}")
        return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> Header:
        """Reads a header from outside.

        Raises:
            ValueError: If it is not canonical JSON, or is no header; in one line.
        """
        try:
            tree = json.loads(encoded.decode("ascii"))
            if not isinstance(tree, dict) or _canonical(tree) != encoded:
                raise ValueError("it is not a mapping in canonical JSON")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON of a header: {str(error).partition(chr(10))[0][:200]}") from error
        values = _take(Header, tree, "header")
        tensors = [_take(TensorFacts, t, "tensors") for t in _listed("tensors", values["tensors"])]
        for tensor in tensors:
            tensor["shape"] = tuple(_listed("shape", tensor["shape"]))
        values["tensors"] = tuple(TensorFacts(**tensor) for tensor in tensors)
        values["weights"] = Weights(**_take(Weights, values["weights"], "weights"))
        for name in ("configuration", "method", "versions"):
            if not isinstance(values[name], dict):
                raise ValueError(f"{name} is {type(values[name]).__name__}, must be a mapping")
        return cls(**values)


def _canonical(tree: Any) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _plain(value: Any, depth: int = 0) -> Any:
    """What JSON can say: of other values, infinities and dates for instance, their text."""
    if depth > bounds.LEDGER_DEPTH:
        raise ValueError(f"configuration is nested deeper than {bounds.LEDGER_DEPTH} levels")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, int) and abs(value) >= bounds.LEDGER_INTEGER:
        raise ValueError(f"configuration holds {str(value)[:20]}... of {len(str(value))} digits, must be below 2**64")
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _take(kind: type, tree: Any, where: str) -> dict[str, Any]:
    """The fields of a dataclass from a mapping that has those keys and no others."""
    names = {field.name for field in fields(kind)}
    if not isinstance(tree, dict) or set(tree) != names:
        found = sorted(map(str, tree)) if isinstance(tree, dict) else type(tree).__name__
        raise ValueError(f"{where} holds {str(found)[:200]}, must hold {sorted(names)}")
    return cast("dict[str, Any]", dict(tree))


def _listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {type(value).__name__}, must be a list")
    return value


def integer(name: str, value: Any) -> int:
    """Returns ``value`` if it is an integer; else it is a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}={str(value)[:80]!r} must be an integer")
    return value


def _check_name(what: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{what}={str(value)[:80]} must be text")
    if len(value) > bounds.LEDGER_NAME:
        raise ValueError(f"{what} has {len(value)} characters, must have at most {bounds.LEDGER_NAME}")


def check_sha256(name: str, value: Any) -> None:
    """Refuses, by a ValueError, what is no SHA-256."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{name}={str(value)[:80]!r} must be 64 hexadecimal digits")


def _check_tensors(tensors: tuple[TensorFacts, ...]) -> None:
    """Refuses, by a ValueError, tensors that cannot be trained together."""
    if not tensors:
        raise ValueError("tensors=[] must name at least one trainable tensor")
    names: set[str] = set()
    for tensor in tensors:
        _check_name("a tensor's name", tensor.name)
        if not isinstance(tensor.stored, bool):
            raise ValueError(f"tensor {tensor.name!r}: stored={str(tensor.stored)[:80]} must be true or false")
        large = len(tensor.shape) > bounds.DIMENSIONS or any(
            not 0 <= integer("shape", n) <= MAX_ELEMENTS for n in tensor.shape
        )
        if large or math.prod(tensor.shape) > MAX_ELEMENTS:
            raise ValueError(f"tensor {tensor.name!r}: its shape must be of at most 2**34 elements")
        check_sha256(f"tensor {tensor.name!r}: sha256", tensor.sha256)
        if tensor.name in names:
            raise ValueError(f"tensor {tensor.name!r} is named twice")
        names.add(tensor.name)
