"""An update that waits until its stage is next brought gives the bits of one done at once."""

from __future__ import annotations

import pytest
import torch

from hiso_pl.models import CausalLM
from hiso_pl.stages import Stages
from hiso_pl.zeroth_order import Block, Diagonal, PerTensor, Scalar, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.tensors import NotFiniteError
from hiso_pl.zeroth_order.update import Update
from hiso_pl.zeroth_order.update_rule import Adam

SETTINGS = {"lr": 0.05, "mu": 1e-2, "num_directions": 3}


@pytest.fixture
def waiting(folder, batch):
    """An optimizer whose updates may wait, its loss, and the network."""

    def waiting(deferred: bool = True, family: str = "opt-plain", **options):
        network = CausalLM(folder(family, blocks=3))
        pairs = list(network.named_parameters())
        told = Stages(3).told(network, [p for _, p in pairs])
        told["deferred"] = deferred
        optimizer = ZerothOrderOptimizer(pairs, network=network, **told, **{**SETTINGS, **options})
        return optimizer, lambda k: network.loss(batch), network

    return waiting


def values(optimizer):
    return [p.detach().clone() for p in optimizer.parameters]


def test_an_update_is_done_as_its_stage_is_come_to(waiting, monkeypatch):
    optimizer, loss, _ = waiting()
    optimizer.step(losses=[loss])
    start, cut = values(optimizer), optimizer.stages
    moved, run = [], Update.run
    monkeypatch.setattr(
        Update, "run", lambda self, tensors: moved.append({t.target.position for t in tensors}) or run(self, tensors)
    )
    optimizer.step(losses=[loss])
    # each tensor once, with the first of the stages that read it: the tied embedding with the first of all
    done: set[int] = set()
    for stage, part in enumerate(cut.parts):
        assert moved[stage] == part - done
        done |= part
    assert len(moved) == 3
    assert moved[2]
    assert not all(map(torch.equal, values(optimizer), start))
    assert optimizer.report.update_s > 0.0


def test_what_is_told_of_the_state_is_complete(waiting):
    at_once, loss, _ = waiting(deferred=False)
    for _ in range(3):
        at_once.step(losses=[loss])
    for look in (
        digest,
        lambda o: (o.state_dict(), digest(o))[1],
        lambda o: (o.hessians, o.shown_hessians(), digest(o))[2],
        lambda o: (o.complete(), values(o), digest(o))[2],
    ):
        optimizer, loss, _ = waiting()
        for _ in range(3):
            optimizer.step(losses=[loss])
        assert look(optimizer) == digest(at_once)


def test_who_reads_the_weights_asks_for_the_update_first(waiting):
    optimizer, loss, _ = waiting()
    before = values(optimizer)
    optimizer.step(losses=[loss])
    assert all(map(torch.equal, values(optimizer), before))
    optimizer.complete()
    assert not any(map(torch.equal, values(optimizer)[1:3], before[1:3]))
    done = values(optimizer)
    optimizer.complete()
    assert all(map(torch.equal, values(optimizer), done))


@pytest.mark.parametrize(
    "options",
    [
        {"preconditioner": Scalar()},
        {"preconditioner": PerTensor()},
        {"preconditioner": Block(4)},
        {"preconditioner": Diagonal(normalize="trace")},
    ],
    ids=str,
)
def test_where_tensors_depend_on_each_other_none_waits(waiting, options):
    optimizer, loss, _ = waiting(**options)
    before = values(optimizer)
    optimizer.step(losses=[loss])
    assert not any(map(torch.equal, values(optimizer)[1:3], before[1:3]))


@pytest.mark.parametrize("options", [{"update_rule": Adam()}, {"local_steps": 2}, {"directions": "client"}], ids=str)
def test_the_bits_are_those_of_updates_at_once(waiting, options):
    found = []
    for deferred in (True, False):
        optimizer, loss, _ = waiting(deferred, **options)
        losses = [float(optimizer.step(losses=[loss, loss])) for _ in range(3)]
        found.append((losses, digest(optimizer)))
    assert found[0] == found[1]


def test_what_is_not_finite_is_told_of_the_round_that_decided_it(waiting):
    optimizer, loss, _ = waiting(lr=3e38)
    optimizer.step(losses=[loss])
    with pytest.raises(NotFiniteError, match=r"round 0: '.*' is not finite after the update") as caught:
        optimizer.step(losses=[loss])
    assert caught.value.round == 0
    with pytest.raises(RuntimeError, match="the update of round 0 was broken off"):
        optimizer.state_dict()


def test_an_update_broken_off_in_the_middle_is_of_no_round(waiting, monkeypatch):
    optimizer, loss, _ = waiting()
    optimizer.step(losses=[loss])
    run, calls = Update.run, []

    def broken(self, tensors):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(self, tensors)

    monkeypatch.setattr(Update, "run", broken)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(losses=[loss])
    for look in (optimizer.state_dict, optimizer.complete, optimizer.tensors):
        with pytest.raises(RuntimeError, match="the update of round 0 was broken off"):
            look()


def test_a_state_that_is_loaded_leaves_nothing_to_be_done(waiting):
    optimizer, loss, _ = waiting()
    optimizer.step(losses=[loss])
    saved = optimizer.state_dict()
    weights, found = values(optimizer), digest(optimizer)
    saved = torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, saved)
    optimizer.step(losses=[loss])
    optimizer.load_state_dict(saved)
    for p, value in zip(optimizer.parameters, weights, strict=True):
        p.data.copy_(value)
    assert digest(optimizer) == found
