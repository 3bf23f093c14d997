"""Runs networks uncut and in stages on the ranks of one launch, since starting processes is what costs.

Usage: stages_over_ranks.py BATCHES.pt JOBS.json OUTCOMES

JOBS.json is a list of [name, folder, count, task options, method options]. ``OUTCOMES.RANK`` becomes a JSON object by
name: digest and losses uncut and in stages, or the refusal, and bytes of the parameters here as loaded and in all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hiso_pl.federation.exchange import AllReduceExchange
from hiso_pl.models import CausalLM, SequenceClassifier, TaskModel
from hiso_pl.stages import Stages
from hiso_pl.stages.options import made_in_place
from hiso_pl.zeroth_order import Identity, PerTensor, Scalar, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import Slots

PARTS = {"Scalar": Scalar, "PerTensor": PerTensor, "Identity": Identity}


def built(folder: str, task: dict[str, Any]) -> TaskModel:
    torch.manual_seed(0)
    kind = SequenceClassifier if task.pop("classifier", False) else CausalLM
    network: TaskModel = kind(folder, **task)
    return network.eval()


def rounds(
    network: TaskModel, batches: list[Any], stages: Stages | None, options: dict[str, Any]
) -> tuple[str, list[float]]:
    told: dict[str, Any] = {}
    own: tuple[int, ...] = tuple(range(len(batches)))
    if stages is not None:
        group = stages.group(network)
        group.settle(lambda: network.loss(batches[0]), lambda: network.evaluate(batches[0]), dist.get_world_size())
        told = {**stages.told_of(group, network), "exchange": AllReduceExchange()}
        told["exchange"].silent = not group.last
        if dist.get_world_size() > stages.count:  # a group a slot
            own = (dist.get_rank() // stages.count,)
    parameters = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    settings = {"lr": 0.05, "mu": 1e-2, "num_directions": 3, **options}
    optimizer = ZerothOrderOptimizer(parameters, network=network, **told, **settings)
    found = []
    for _ in range(3):
        slots = Slots(len(batches), own, tuple(range(len(batches))))
        losses = [lambda k, b=batches[i]: network.loss(b) for i in own]
        found.append(float(optimizer.step(losses=losses, slots=slots)))
    return digest(optimizer), found


def main() -> None:
    batches, jobs, outcomes = (*sys.argv[1:3], Path(sys.argv[3]))
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    every = torch.load(batches)
    found = {}
    for name, folder, count, task, options in json.loads(Path(jobs).read_text()):
        if "preconditioner" in options:
            options["preconditioner"] = PARTS[options["preconditioner"]]()
        alike = every[:1] if task.get("classifier") else every
        uncut = rounds(built(folder, dict(task)), alike, None, options)
        stages = Stages(count, on="ranks")
        with made_in_place(stages):
            network = built(folder, dict(task))
        loaded = sum(p.untyped_storage().nbytes() for p in network.parameters())
        whole = sum(p.numel() * p.element_size() for p in network.parameters())
        try:
            cut: Any = rounds(network, alike, stages, options)
        except ValueError as error:
            cut = str(error)
        held = sum(p.untyped_storage().nbytes() for p in network.parameters())
        found[name] = {"uncut": uncut, "cut": cut, "loaded": loaded, "held": held, "whole": whole}
        outcomes.with_name(f"{outcomes.name}.{dist.get_rank()}").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
