"""What runs of one's own are called: by their method's preset, and by the options in which they differ."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from hiso_pl import presets
from hiso_pl.errors import one_line
from hiso_pl.run.configuration import OF_A_MACHINE

if TYPE_CHECKING:
    from hiso_pl.report.run_data import RunData

METHOD = "model.method."
OWN = (f"{METHOD}init_args.lr", f"{METHOD}lr", "seed_everything")
"""What a run is known by besides method and setting."""
BESIDE = (
    *("trainer.default_root_dir", "trainer.logger", "trainer.callbacks", "trainer.enable", "trainer.log_every"),
    *("trainer.profiler", "trainer.barebones", "trainer.detect_anomaly", "trainer.plugins", "trainer.num_sanity"),
    *("ckpt_path", "change_on_resume", "threads", "traceback", "checkpoint.", "in_step.", "ledger.", "board."),
    *("data.init_args.num_workers", "data.init_args.hosting", "data.init_args.spare_ranks", "launch", "test_at_end"),
    *(
        "trainer.strategy",
        "trainer.model_registry",
        "weights_only",
        "model.lr_scheduler.init_args.rounds",
        "participation.",
    ),
    *OF_A_MACHINE,
)
"""Beginnings of options that change no result, say where it is kept, or follow from others."""
SAME = ("lr", "backend", "memory", "directions_per_forward")
"""Options of a method that make it no other one: they change nothing but rounding, or are told by themselves."""
LENGTH = ("trainer.max_steps", "trainer.val_check_interval")
"""Options with which runs are compared all the same; the first tells runs apart where nothing else does."""
ROOMS = ("hiso_pl.zeroth_order.", "hiso_pl.first_order.", "hiso_pl.federation.")
"""Where methods and their parts are; nothing else is imported because a file names it."""
LONGEST = 200


def matters(key: str) -> bool:
    """Whether an option may make a difference between runs of one method, rate and seed."""
    return key not in (*OWN, *LENGTH) and not key.startswith((*BESIDE, METHOD))


def labelled(runs: Sequence[RunData]) -> list[RunData]:
    """The same runs, those called that no study has named: by method, and by what else differs as the setting."""
    own = {id(run) for run in runs if not run.method}
    all_keys = differing([run.options for run in runs if run.options])
    named = _named(runs, own, [key for key in all_keys if matters(key)])
    alike = Counter((run.method, run.setting, run.lr, run.seed) for run in named)
    lengths = [key for key in all_keys if key in LENGTH[:1]]
    if own and lengths and max(alike.values()) > 1:
        named = _named(runs, own, [key for key in all_keys if matters(key) or key in lengths])
    return named


def _named(runs: Sequence[RunData], own: Collection[int], keys: Sequence[str]) -> list[RunData]:
    foreign = [_of_method(run.options) for run in runs if id(run) in own and not method_name(run.options)]
    apart = [key for key in differing(foreign) if key not in OWN]
    made = []
    for run in runs:
        if id(run) in own:
            kind = run.options.get(f"{METHOD}class_path", "").strip("'").rpartition(".")[2] or run.folder.name
            method = method_name(run.options) or ", ".join(filter(None, (kind, in_words(apart, run.options))))
            setting = run.setting or in_words(keys, run.options)
            run = replace(run, method=one_line(method, LONGEST), setting=one_line(setting, LONGEST))
        made.append(run)
    return made


def differing(all_options: Sequence[Mapping[str, str]]) -> list[str]:
    """The options whose values are not the same everywhere.

    One that some do not have, as their class is another, differs only if those who have it do not agree.
    """
    found = []
    keys = dict.fromkeys(key for options in all_options for key in options)
    classes = [key for key in keys if key.endswith("class_path") and _values(key, all_options) > 1]
    owners = tuple(f"{key.removesuffix('class_path')}init_args" for key in classes)
    for key in keys:
        everywhere = all(key in options for options in all_options)
        if _values(key, all_options) > 1 or not (everywhere or key.startswith(owners)):
            found.append(key)
    return found


def _values(key: str, all_options: Sequence[Mapping[str, str]]) -> int:
    return len({options[key] for options in all_options if key in options})


def in_words(keys: Sequence[str], options: Mapping[str, str]) -> str:
    """Options and their values, each by the last word of its name if that is enough."""
    names = {key: _short(key) for key in keys}
    counted = list(names.values())
    long = {key: key.replace("init_args.", "") if counted.count(name) > 1 else name for key, name in names.items()}
    return ", ".join(f"{long[key]}={_plain(options[key])}" for key in keys if key in options)


def _short(key: str) -> str:
    return key.removesuffix(".class_path").removesuffix(".init_args").rpartition(".")[2]


def _plain(value: str) -> str:
    """A value as it is typed; of a class its own name."""
    text = value.strip("'\"")
    return text.rpartition(".")[2] if text.replace(".", "").replace("_", "").isalnum() and text[:1].isalpha() else text


def method_name(options: Mapping[str, str]) -> str:
    """The preset that a configuration's method is, whatever its learning rate, and the options in which it is not.

    Returns:
        Nothing for a method from elsewhere.
    """
    mine = _description(_tree(_of_method(options)))
    if "class_path" not in mine:
        return ""

    def apart(name: str) -> list[str]:
        theirs = _preset(name)
        return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]

    rooms = [name for name in presets.names() if name.startswith("method/")]
    alike = {name: apart(name) for name in rooms if _preset(name).get("class_path") == mine["class_path"]}
    if not alike:
        return mine["class_path"]
    nearest = min(alike, key=lambda name: (len(alike[name]), "hiso" not in name, len(name), name))
    return ", ".join([presets.label(nearest), *(f"{key}={mine[key]}" for key in alike[nearest] if key in mine)])


@functools.cache
def _preset(name: str) -> dict[str, str]:
    tree = yaml.safe_load(presets.text(name))
    return _description(tree.get("model", {}).get("method"))


def _of_method(options: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key.startswith(METHOD)}


def _tree(flat: Mapping[str, str]) -> Any:
    """The method of a configuration as nested mappings again."""
    tree: dict[str, Any] = {}
    for key, text in flat.items():
        *above, last = key.removeprefix(METHOD).split(".")
        node = tree
        for word in above:
            node = node.setdefault(word, {})
            if not isinstance(node, dict):
                return None
        try:
            node[last] = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            node[last] = text
    return tree


def _description(tree: Any) -> dict[str, str]:
    """All that makes a method what it is, defaults included, as text under dotted names; nothing of a foreign one."""
    try:
        return {key: value for key, value in _leaves("", _built(tree)).items() if key.partition(".")[0] not in SAME}
    except (TypeError, ValueError, AttributeError, ImportError, RecursionError):
        return {}


def _built(value: Any) -> Any:
    """The object that a part of a configuration describes; of this package's classes only, as others' run as code."""
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    module, _, name = str(value["class_path"]).rpartition(".")
    if not f"{module}.".startswith(ROOMS):
        raise ValueError(f"{module} is not this package's")
    kind = getattr(importlib.import_module(module), name)
    if not inspect.isclass(kind) or not {"Part", "MethodBase"} & {base.__name__ for base in kind.__mro__}:
        raise ValueError(f"{name} is no part of a method")
    return kind(**{key: _built(inner) for key, inner in (value.get("init_args") or {}).items()})


def _leaves(prefix: str, value: Any) -> dict[str, str]:
    if not {"Part", "MethodBase"} & {base.__name__ for base in type(value).__mro__}:
        return {prefix: str(value)}
    found = {prefix or "class_path": type(value).__name__}
    plain = type(value).__init__ is object.__init__
    for name in () if plain else inspect.signature(type(value)).parameters:
        found |= _leaves(f"{prefix}.{name}" if prefix else name, getattr(value, name))
    return found
