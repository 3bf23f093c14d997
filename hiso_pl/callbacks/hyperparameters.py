"""The options of a run that matter, and the order in which its configuration is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from hiso_pl.callbacks.boards import Plain

FIRST = ("model", "data", "seed_everything")


def in_reading_order(text: str) -> str:
    """A configuration that begins with the method, then the rest of the model, then the data."""
    tree = yaml.safe_load(text) or {}
    if isinstance(model := tree.get("model"), Mapping):
        tree["model"] = {key: model[key] for key in sorted(model, key=lambda key: key != "method")}
    ordered = {key: tree[key] for key in sorted(tree, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True) if ordered else ""


def chosen(text: str) -> dict[str, Plain]:
    """A dozen options by which runs are told apart; the same ones of every run, as they head one table.

    Args:
        text: The resolved configuration, as YAML; without one there are none.
    """
    tree = yaml.safe_load(text) or {}
    model, data = _at(tree, "model"), _at(tree, "data")
    method, own, network = _at(model, "method", "init_args"), _at(data, "init_args"), _at(model, "network", "init_args")
    if not method and not own:
        return {}
    plain: dict[str, Any] = {
        "method": _method(_at(model, "method")),
        "lr": method.get("lr"),
        "mu": method.get("mu"),
        "num_directions": method.get("num_directions"),
        "local_steps": method.get("local_steps"),
        "clients": own.get("clients"),
        "cohort": own.get("cohort"),
        "batch_size": own.get("batch_size"),
        "partition": _part(own.get("partition")),
        "model": PurePath(str(network.get("pretrained", ""))).name or _class(_at(model, "network")),
        "task": own.get("task") if isinstance(own.get("task"), str) else _class(data),
        "tuning": _tuning(network),
        "rounds": _at(tree, "trainer").get("max_steps"),
        "seed": tree.get("seed_everything"),
    }
    return {name: value if isinstance(value, Plain) else str(value) for name, value in plain.items()}


def _method(description: Mapping[str, Any]) -> str:
    """A method by the name of its paper, and the parts in which it differs from that."""
    options = _at(description, "init_args")
    if _class(description) != "Method":
        return _class(description)
    preconditioner = _class(_at(options, "preconditioner"))
    words = ["DeComFL" if preconditioner == "Identity" else "HiSo"]
    usual = {"Identity", "Diagonal", "Sgd", "Mean", "normal", ""}
    parts = [
        preconditioner,
        *(_class(_at(options, part)) for part in ("update_rule", "privacy", "transform", "attack", "aggregation")),
    ]
    words += [part for part in (*parts, str(options.get("distribution", ""))) if part not in usual]
    words += ["own"] if options.get("directions") == "client" else []
    return " ".join(words)


def _tuning(network: Mapping[str, Any]) -> str:
    """What of the network is trained."""
    if network.get("peft"):
        return str(_at(network, "peft").get("peft_type", "LORA"))
    return str(network.get("trainable") or "all")


def _part(description: Any) -> str:
    """A part by its class, and the options that make it what it is."""
    if not isinstance(description, Mapping):
        return str(description or "IID")
    options = [str(v) for k, v in _at(description, "init_args").items() if k not in ("minimum", "bins")]
    return _class(description) + (f"({', '.join(options)})" if options else "")


def _class(description: Mapping[str, Any]) -> str:
    return str(description.get("class_path", "")).rpartition(".")[2]


def _at(tree: Any, *path: str) -> Mapping[str, Any]:
    """The mapping at a path, empty where there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}
