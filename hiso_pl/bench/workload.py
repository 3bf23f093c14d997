"""What is measured: the network, its optimizer and a cohort's minibatches, as a run would have them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from hiso_pl.bench.settings import Settings
from hiso_pl.bench.shapes import build_network
from hiso_pl.bench.usual import Noise, UsualWay
from hiso_pl.data.tokenized import TokenizedExamples
from hiso_pl.federation import AllReduceExchange, own_slots, resolve_hosting
from hiso_pl.models import CausalLM
from hiso_pl.ranks import environment
from hiso_pl.stages import Stages
from hiso_pl.stages.group import StageGroup
from hiso_pl.stages.held import move_absent
from hiso_pl.stages.options import made_in_place
from hiso_pl.stages.ways import groups_of
from hiso_pl.zeroth_order import Exchange, LocalExchange, RoundReport, Slots, ZerothOrderOptimizer
from hiso_pl.zeroth_order.losses import Loss
from hiso_pl.zeroth_order.precision import CastView, cast_frozen

Batches = list[list[dict[str, Tensor]]]
"""Minibatches of the clients hosted here, by client and local step."""


def build_optimizer(
    settings: Settings, network: nn.Module, exchange: Exchange, group: StageGroup | None = None
) -> ZerothOrderOptimizer:
    """The optimizer of a run with these settings; made anew it starts at H = 1."""
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    stages, told = settings.stages, {}
    if stages is not None:
        told = stages.told(network, [p for _, p in trained]) if group is None else stages.told_of(group, network)
    return ZerothOrderOptimizer(
        trained, settings.method, seed=settings.seed, exchange=exchange, network=network, **told
    )


def build_batches(settings: Settings, network: CausalLM, slots: Slots, tokens: int) -> Batches:
    """Minibatches of random examples of ``tokens`` tokens without padding, by client hosted here and local step.

    Raises:
        ValueError: If the examples are longer than the network takes.
    """
    limit, vocabulary = network.max_positions, cast(int, network.vocabulary_size)
    if limit is not None and tokens > limit:
        raise ValueError(f"tokens={tokens} must be at most {limit}, the positions of model={settings.model!r}")
    device = next(network.parameters()).device
    label_words = np.random.default_rng(settings.seed).choice(vocabulary, 2, replace=False).tolist()
    batches: Batches = []
    for slot in slots.own:
        draw = np.random.default_rng([settings.seed, slot, tokens])
        count = settings.method.local_steps * settings.batch_size
        examples = TokenizedExamples(
            draw.integers(vocabulary, size=(count, tokens)).tolist(),
            draw.integers(2, size=count).tolist(),
            classes=("first", "second"),
            padding=0,
            label_words=label_words,
        )
        steps = np.arange(count).reshape(settings.method.local_steps, settings.batch_size)
        batches.append([{name: v.to(device) for name, v in examples.collate(s).items()} for s in steps])
    return batches


@dataclass
class Workload:
    """A cohort's round, and what it is compared with.

    Attributes:
        slots: The cohort's slots and those hosted here.
        batches: The minibatches hosted here.
        reports: The report of every round run so far.
        group: The ranks that hold the network together; None where it is whole.
    """

    settings: Settings
    network: CausalLM
    optimizer: ZerothOrderOptimizer
    slots: Slots
    batches: Batches
    reports: list[RoundReport]
    group: StageGroup | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.optimizer.parameters[0].device

    def at_base(self) -> AbstractContextManager[None]:
        """Inside, plain forward passes compute what the base evaluation of a round computes, bit for bit.

        Trained weights stand there in the compute dtype, cast on entry: plain inference has none of the work that a
        round does to get them so.
        """
        return CastView(self.optimizer.parameters, self.settings.dtype).active()

    def forwards(self) -> None:
        """As many plain forward passes as a round has, at weights that are not touched; run inside :meth:`at_base`.

        A local step's losses go to the host together, as those of probes do; through stages on ranks go all, one behind
        another.
        """
        with torch.inference_mode():
            if self.group is not None:
                each = [partial(self.network.loss, batch) for client in self.batches for batch in client]
                self.group.through(each * self.settings.forwards_per_step)
                return
            for client in self.batches:
                for batch in client:
                    losses = [self.network.loss(batch) for _ in range(self.settings.forwards_per_step)]
                    torch.stack(losses).cpu()

    def one_forward(self) -> None:
        """A single plain forward pass; run inside :meth:`at_base`."""
        with torch.inference_mode():
            one = partial(self.network.loss, self.batches[0][0])
            if self.group is None:
                one()
            else:
                self.group.through([one])

    def round(self) -> None:
        """A round, as of :func:`run_round`."""
        run_round(self.optimizer, self.losses(), self.slots)
        assert self.optimizer.report is not None
        self.reports.append(self.optimizer.report)

    def losses(self) -> list[Loss]:
        """The losses of the clients hosted here."""
        return [partial(_loss, self.network, client) for client in self.batches]

    def usual_way(self) -> UsualWay:
        """The usual way of the same round, on the same weights and H; without one that is structured."""
        # the usual way has no H but one that divides elementwise
        structured = self.settings.method.preconditioner.structured
        hessians = [None if structured else hessian for hessian in self.optimizer.hessians]
        noise = Noise([p.data for p in self.optimizer.parameters], hessians, self.settings.seed)
        return UsualWay(self.network, noise, self.settings.method)


def run_round(optimizer: ZerothOrderOptimizer, losses: list[Loss], slots: Slots) -> None:
    """A round of an optimizer.

    Raises:
        RuntimeError: If a client was dropped: then a round does not do all its work.
    """
    optimizer.step(losses=losses, slots=slots)
    if optimizer.report is not None and optimizer.report.dropped:
        raise RuntimeError(
            f"the losses of {len(optimizer.report.dropped)} of {slots.size} clients were not finite, so a round "
            "leaves work out: take another compute_dtype or a smaller mu"
        )


def _loss(network: CausalLM, batches: list[dict[str, Tensor]], k: int) -> Tensor:
    return network.loss(batches[k])


def build_workload(settings: Settings, device: torch.device) -> Workload:
    """Builds everything on this rank's device.

    Raises:
        ValueError: If there is no such model, or the settings do not fit it or the launch.
    """
    if settings.stages is not None and settings.stages.carries(device):
        raise ValueError(
            "stages.on=host must be ranks on a GPU, or device cpu: a fit brings stages there, a bench does not"
        )
    world, rank = environment.world_size(), environment.rank()
    hosts = groups_of(world, settings.ranks)
    hosting = resolve_hosting("auto", settings.clients, hosts)
    cohort = tuple(range(settings.clients))
    own = own_slots(hosting, cohort, 0, rank // settings.ranks, hosts)
    slots = Slots(settings.clients, own, cohort, (1.0,) * settings.clients)
    exchange: Exchange = AllReduceExchange() if world > 1 else LocalExchange()
    held = settings.stages if settings.ranks > 1 else None
    place = device if held is None else torch.device("cpu")
    with made_in_place(held):
        network = build_network(settings.model, place, settings.seed, settings.peft, settings.attention)
    if settings.dtype != torch.float32:
        cast_frozen(network, settings.dtype)
    group = None if held is None else _settled(held, settings, network, world)
    if group is not None:
        move_absent(network, device)
        network.to(device)
        exchange.silent = not group.last  # type: ignore[attr-defined]
    batches = build_batches(settings, network, slots, settings.tokens)
    return Workload(settings, network, build_optimizer(settings, network, exchange, group), slots, batches, [], group)


def _settled(stages: Stages, settings: Settings, network: CausalLM, world: int) -> StageGroup:
    """The ranks that hold the network together, each with what is its own."""
    [[example, *_]] = build_batches(replace(settings, batch_size=1), network, Slots(1, (0,), (0,)), settings.tokens)
    group, loss = stages.group(network), partial(network.loss, example)
    group.settle(loss, loss, world)
    return group
