"""The measurement for people: aligned lines, each a name, a value and what it is to be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Line = tuple[str, str, str]


def table(found: Mapping[str, Any]) -> str:
    """The result of :func:`hiso_pl.bench.measure.measure` as text that ends with a newline."""
    parts = (_times, _split, _kernels, _memory, _stages, _amounts, _sweep)
    sections = [part(found) for part in parts]
    lines = [line for section in sections for line in section]
    widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
    body = [
        "\n".join(f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for name, value, note in section)
        for section in sections
        if section
    ]
    return "\n\n".join([_head(found), *body]) + "\n"


def _head(found: Mapping[str, Any]) -> str:
    settings, model, machine = found["settings"], found["model"], found["machine"]
    method = settings["method"]
    cut = settings.get("stages")
    stages = f", {cut['count']} stages on {cut['on']}" if cut else ""
    what = "reduced logits" if model["reduced_logits"] else "full logits"
    return (
        f"{model['name']}: {model['trainable']:,} trainable of {model['parameters']:,} parameters, {what}\n"
        f"batch {settings['batch_size']} x {settings['tokens']} tokens, "
        f"P = {method['num_directions']} {method.get('directions', 'shared')}, tau = {method['local_steps']}, "
        f"cohort {settings['clients']}, {method['difference']} differences, {method['distribution']}, "
        f"{', '.join(method['preconditioner'])}\n"
        f"{method['compute_dtype']}, memory {settings['memory']}, "
        f"directions per forward {method['directions_per_forward']}{stages}\n"
        f"{machine['gpu'] or machine['cpu']}; {machine['ranks']} rank(s) of {machine['threads']} thread(s), "
        f"{machine['cores']} cores; torch {found['versions']['torch']}"
    )


def _times(found: Mapping[str, Any]) -> list[Line]:
    seconds = found["seconds"]
    lines = [
        (f"{found['forwards']['per_round']} plain forwards", *_summary(seconds["forwards"])),
        ("a round", *_summary(seconds["round"])),
        ("round / forwards", *_within(found["ratio"])),
    ]
    if found["settings"]["usual"]:
        lines.append(("a round, the usual way", *_summary(seconds["usual"])))
        lines.append(("usual way / round", *_within(found["usual_ratio"])))
    return lines


def _split(found: Mapping[str, Any]) -> list[Line]:
    split, whole = found["split"], found["seconds"]["round"]["median"]
    plain = found["seconds"]["forwards"]["median"]
    notes = {
        "forwards_s": f"; {split['forwards_s'] / plain:.3f} of plain ones",
        "displace_s": f"; {split['displacements']} displacements",
        "exchange_s": f"; alone {_seconds(split['exchange_alone_s']['median'])}",
    }
    names = {
        "probe_s": "probe",
        "displace_s": "  displacements in it",
        "forwards_s": "  all else in it, forwards",
        "exchange_s": "exchange",
        "update_s": "update",
        "rest_s": "the rest",
    }
    lines = []
    for key, label in names.items():
        apart = ", measured apart" if key in split["measured_apart"] else ""
        share = f"{split[key] / whole:.1%} of a round{notes.get(key, '')}"
        lines.append((f"{label}{apart}", _seconds(split[key]), share))
    return lines


def _kernels(found: Mapping[str, Any]) -> list[Line]:
    kernels = found["kernels"]
    if kernels is None:
        return []
    bandwidth = f"{kernels['copy_bytes_per_second'] / 1e9:.1f} GB/s"
    lines = [(f"kernels, {kernels['elements']:,} elements: copy", bandwidth, "read and written")]
    for name, label in (("displace", "displacement"), ("update", f"update of {kernels['directions']} directions")):
        one = kernels[name]
        note = f"{one['ns_per_element_and_direction']:.2f} ns an element and direction, "
        note += f"{one['bytes_per_second'] / 1e9:.1f} GB/s, {one['times_floor']:.2f} times the memory floor"
        lines.append((label, _seconds(one["seconds"]["median"]), note))
    for name, label in (("published", "as published"), ("careful", "drawn once, in place")):
        usual = kernels["usual_update"][name]
        note = f"{usual['times_ours']:.1f} times ours"
        lines.append((f"update by torch.randn, {label}", _seconds(usual["seconds"]["median"]), note))
    return lines


def _memory(found: Mapping[str, Any]) -> list[Line]:
    memory = found["memory"]
    if memory is None:
        return []
    relative = f"{memory['relative']:.3f} of inference + H + largest block"
    return [
        ("peak memory of inference", _bytes(memory["inference"]), f"{_bytes(memory['resident'])} there before"),
        ("H", _bytes(memory["hessian"]), f"largest block {_bytes(memory['largest_block'])}"),
        ("peak memory of a round", _bytes(memory["round"]), relative),
    ]


def _stages(found: Mapping[str, Any]) -> list[Line]:
    lines = []
    for rank, one in enumerate(found.get("stages") or []):
        peak = "" if one["peak_bytes"] is None else f"; peak memory of a round {_bytes(one['peak_bytes'])}"
        note = f"of parameters{peak}; {_bytes(one['sent_bytes'])} a round to the next stage"
        lines.append(
            (f"rank {rank}: group {one['group']}, stage {one['stage']}", _bytes(one["parameters_bytes"]), note)
        )
    return lines


def _amounts(found: Mapping[str, Any]) -> list[Line]:
    speed, sent = found["throughput"], found["bytes"]
    up = f"{sent['client_up']} of them up; a rank hands over {sent['payload']}"
    plain = f"plain {speed['plain_forwards_per_second']:.2f}"
    return [
        ("forwards a second", f"{speed['forwards_per_second']:.2f}", plain),
        ("tokens a second", f"{speed['tokens_per_second']:,.0f}", ""),
        ("a client's bytes a round", f"{sent['client_paper']}", up),
    ]


def _sweep(found: Mapping[str, Any]) -> list[Line]:
    sweep = found["sweep"]
    points = sweep["points"]
    if len(points) < 2:
        return []
    lines = [
        (
            f"{point['tokens_per_batch']} tokens a batch ({point['tokens']} an example)",
            f"{point['ratio']:.3f}",
            f"{_seconds(point['round_s'])} for {_seconds(point['forwards_s'])} of forwards",
        )
        for point in points
    ]
    if sweep["crossing"] is not None:
        where = f"{sweep['crossing']:.0f}"
    elif points[-1]["ratio"] > sweep["target"]:
        where = f"> {points[-1]['tokens_per_batch']}"
    else:
        where = f"< {points[0]['tokens_per_batch']}"
    return [*lines, (f"tokens a batch from which on the ratio is {sweep['target']}", where, "")]


def _summary(summary: Mapping[str, Any]) -> tuple[str, str]:
    return _seconds(summary["median"]), f"quartiles {_seconds(summary['q1'])} to {_seconds(summary['q3'])}"


def _within(ratio: Mapping[str, Any]) -> tuple[str, str]:
    of_medians, median, q1, q3 = (f"{ratio[key]:.3f}" for key in ("of_medians", "median", "q1", "q3"))
    return of_medians, f"of the medians; within a repetition {median}, quartiles {q1} to {q3}"


def _seconds(value: float) -> str:
    if value >= 1.0:
        return f"{value:.3f} s"
    return f"{1e3 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.1f} us"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.3f} GB" if value >= 1e9 else f"{value / 1e6:.2f} MB"
