"""Stages brought from host memory to a device give the bits of the network uncut.

Here the device is the CPU: stages are copied to memory of their own there, and back. What operators take is looked at,
so that nothing goes by where the parameters live.
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hiso_pl.models import CausalLM, SequenceClassifier
from hiso_pl.stages import Stages
from hiso_pl.stages.carrier import Carrier
from hiso_pl.zeroth_order import Block, Diagonal, Identity, PerTensor, Scalar, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import Slots
from hiso_pl.zeroth_order.precision import cast_frozen
from hiso_pl.zeroth_order.substitution import leaves
from hiso_pl.zeroth_order.update_rule import Adam, Momentum, Normalized, Sgd

CPU = torch.device("cpu")
SETTINGS = {"lr": 0.05, "mu": 1e-2, "num_directions": 3}
BRINGS = {"copy_", "to", "index", "view", "detach", "alias", "empty_like"}


class Looks(TorchDispatchMode):
    """Refuses operators that take what lives in host memory, but for those that bring it."""

    def __init__(self, hosts) -> None:
        super().__init__()
        self._hosts = {t.untyped_storage().data_ptr() for t in hosts if t.numel()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [a for a in leaves(args, kwargs) if isinstance(a, torch.Tensor) and a.device.type == "cpu"]
        taken = [t for t in tensors if t.numel() and t.untyped_storage().data_ptr() in self._hosts]
        assert not taken or func.overloadpacket.__name__ in BRINGS, func
        return func(*args, **(kwargs or {}))


@pytest.fixture
def run(batch, to_left):
    """Runs three rounds of two clients and evaluates; gives the digest, the losses and the evaluation."""

    def run(network, stages=None, batches=None, **options):
        batches = batches or [batch, to_left(batch)]
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        settings, told = {**SETTINGS, **options}, {}
        if settings.get("compute_dtype"):
            cast_frozen(network, torch.bfloat16)
        if stages is not None:
            cut, told = stages.carried(network, [p for _, p in trained], CPU)
            cut.settle_in()
        optimizer = ZerothOrderOptimizer(trained, network=network, **told, **settings)
        found = []
        for r in range(3):
            slots = Slots(len(batches), tuple(range(len(batches))), tuple(range(len(batches))))
            losses = [lambda k, b=b: network.loss(b) for b in batches]
            found.append(float(optimizer.step(losses=losses, slots=slots)))
            if r == 1:
                found.append(optimizer.at_base(lambda: network.evaluate(batches[0])).loss.tolist())
        return digest(optimizer), found

    return run


@pytest.mark.parametrize("family", ["opt", "opt-plain", "gpt2", "llama", "qwen3", "gemma2"])
def test_stages_give_the_bits_of_the_network_uncut(folder, run, family):
    path = folder(family, blocks=4)
    uncut = run(CausalLM(path))
    for count in (2, 3, 4):
        assert run(CausalLM(path), Stages(count)) == uncut


@pytest.mark.parametrize(
    "options",
    [
        {"local_steps": 3},
        {"directions": "client", "local_steps": 2},
        {"difference": "central"},
        {"distribution": "low_rank", "rank": 2},
        {"memory": "low"},
        {"compute_dtype": "bfloat16", "mu": 0.1},
        {"preconditioner": Scalar()},
        {"preconditioner": PerTensor()},
        {"preconditioner": Identity()},
        {"preconditioner": Diagonal(normalize="trace")},
        {"update_rule": Adam()},
        {"update_rule": Momentum()},
        {"update_rule": Normalized()},
    ],
    ids=str,
)
def test_so_does_every_method(folder, run, options):
    path = folder("opt", blocks=4)
    assert run(CausalLM(path), Stages(3), **options) == run(CausalLM(path), **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory", ["fast", "low"])
def test_frozen_weights_are_brought_with_their_blocks(folder, run, dtype, memory):
    def network():
        torch.manual_seed(0)
        return CausalLM(folder("llama", blocks=4), peft={"peft_type": "LORA", "r": 2})

    options = {"memory": memory, **({"compute_dtype": dtype, "mu": 0.1} if dtype != "float32" else {})}
    assert run(network(), Stages(2), **options) == run(network(), **options)


def test_a_tied_head_is_brought_at_both_ends(folder, run):
    path = folder("opt-plain", blocks=2)
    uncut = run(CausalLM(path, loss="full_vocabulary"))
    assert run(CausalLM(path, loss="full_vocabulary"), Stages(2)) == uncut


def test_classifiers_are_brought_in_stages(folder, run, batch):
    def network():
        torch.manual_seed(0)
        return SequenceClassifier(folder("bert", blocks=3))

    assert run(network(), Stages(3), [batch]) == run(network(), None, [batch])


@pytest.mark.parametrize("rule", [Sgd(), Adam(), Momentum()], ids=str)
def test_nothing_goes_by_where_the_parameters_live(folder, batch, rule):
    """Forward passes, updates and the trial take what was brought."""
    network = CausalLM(folder("llama", blocks=4), peft={"peft_type": "LORA", "r": 2})
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    cut, told = Stages(2).carried(network, [p for _, p in trained], CPU)
    stay = cut.settle_in()
    blocks = network.get_submodule(cut._name)
    assert {id(p) for p in stay} >= {id(p) for p in blocks.parameters()}
    optimizer = ZerothOrderOptimizer(trained, network=network, update_rule=rule, **told, **SETTINGS)
    hosts = [*(p.data for p in stay), *(kept for p in optimizer.parameters for kept in optimizer.state[p].values())]

    with Looks(hosts):
        for _ in range(2):
            optimizer.step(losses=[lambda k: network.loss(batch)])
        optimizer.at_base(lambda: network.loss(batch))


def test_each_stage_is_brought_once_a_round(folder, batch):
    network = CausalLM(folder("llama", blocks=4))
    trained = list(network.named_parameters())
    cut, told = Stages(4).carried(network, [p for _, p in trained], CPU)
    optimizer = ZerothOrderOptimizer(trained, network=network, **told, **SETTINGS)
    brought = []
    for _ in range(3):
        optimizer.step(losses=[lambda k: network.loss(batch)])
        brought.append(cut.carrier.bytes)
    each = sum(8 * p.numel() for _, p in trained)
    assert brought[2] - brought[1] == each
    assert sum(space.numel() for space in cut.carrier._spaces) < 0.8 * each


def test_a_structured_preconditioner_is_refused(folder):
    network = CausalLM(folder("llama", blocks=4))
    trained = list(network.named_parameters())
    _, told = Stages(4).carried(network, [p for _, p in trained], CPU)
    with pytest.raises(ValueError, match=r"Block\(.*\) must divide elementwise where stages are brought"):
        ZerothOrderOptimizer(trained, network=network, preconditioner=Block(4), **told, **SETTINGS)


# The carrier itself


def test_groups_are_at_hand_in_turn_and_follow_what_was_done_to_them():
    carrier = Carrier(CPU)
    a, b, c = torch.arange(6.0).reshape(2, 3).T, torch.ones(4, dtype=torch.bfloat16), torch.zeros(0)
    groups = [[a, b], [b, c], [a, a]]
    seen = []
    for i, _ in enumerate(carrier.through(groups)):
        for tensor in groups[i]:
            here = carrier.at_hand(tensor)
            assert here.shape == tensor.shape
            assert here.stride() == tensor.stride()
            assert here.numel() == 0 or here.data_ptr() != tensor.data_ptr()
        here = carrier.at_hand(groups[i][0])
        here += 1
        carrier.moved(groups[i][:1])
        seen.append(carrier.at_hand(groups[i][0]).float().sum().item())
    assert seen == [21.0, 8.0, 27.0]
    assert a.sum() == 27.0
    assert b.float().sum() == 8.0
    assert carrier.at_hand(a, torch.tensor([1])).tolist() == [[3.0, 6.0]]


def test_what_two_groups_share_is_taken_over_with_what_was_done_to_it():
    carrier, shared = Carrier(CPU), torch.zeros(3)
    for _ in carrier.through([[shared], [shared], [shared]]):
        carrier.at_hand(shared).add_(1)
        carrier.moved([shared])
    assert shared.tolist() == [3.0] * 3


def test_a_way_broken_off_leaves_nothing_at_hand():
    carrier, a = Carrier(CPU), torch.zeros(3)
    way = carrier.through([[a], [a]])
    next(way)
    carrier.at_hand(a).add_(1)
    assert carrier.at_hand(a).tolist() == [1.0] * 3
    way.close()
    assert carrier.at_hand(a).tolist() == [0.0] * 3


# What is asynchronous on a GPU: each access happens after those that it must not overtake


class Races(Carrier):
    """Notes what each stream does, and finds accesses to the same memory of which no one must come first.

    Args:
        left_out: Which of the waits, counted by where it stands in the code, is not made.
    """

    def __init__(self, left_out: int | None = None) -> None:
        super().__init__(CPU)
        self._into, self._back = "into", "back"
        self.waits: list[int] = []
        self._left_out = left_out
        self._clocks: dict[str, Counter[str]] = {name: Counter() for name in ("host", "work", "into", "back")}
        self._done: list[tuple[str, Counter[str], set, set]] = []

    def does(self, stream: str, reads=(), writes=()) -> None:
        clock = self._clocks[stream]
        if stream != "host":  # which gave it to the stream
            clock |= self._clocks["host"]
        clock[stream] += 1
        places = [{(t.untyped_storage().data_ptr(), t.storage_offset()) for t in some} for some in (reads, writes)]
        self._done.append((stream, Counter(clock), *places))

    def _copy(self, stream, to, values):
        self.does(stream or "work", [values], [to])
        super()._copy(None, to, values)

    def _wait(self, waits, ends):
        line = sys._getframe(1).f_lineno
        self.waits.append(line)
        if line != self._left_out:
            self._clocks[waits or "work"] |= self._clocks[ends or "work"]

    def finish(self):
        line = sys._getframe(1).f_lineno
        self.waits.append(line)
        if line != self._left_out:
            self._clocks["host"] |= self._clocks["back"]

    def races(self) -> list[tuple[str, str]]:
        found = []
        for i, (first, clock, reads, writes) in enumerate(self._done):
            for second, later, reads_too, writes_too in self._done[i + 1 :]:
                if (writes & (reads_too | writes_too) or reads & writes_too) and later[first] < clock[first]:
                    found.append((first, second))
        return found


def rounds_of(carrier: Races) -> Races:
    """Two rounds of four stages, the first and the last of which share a tensor, and a look at the state."""
    shared, *own = (torch.zeros(64 * (i + 1)) for i in range(5))
    groups = [[shared, own[0]], [own[1]], [own[2], own[1]], [own[3], shared]]
    left = {id(t) for group in groups for t in group}
    for _ in range(2):
        left = {id(t) for group in groups for t in group}
        for i, _ in enumerate(carrier.through(groups)):
            moves = [t for t in groups[i] if id(t) in left]
            carrier.does("work", [], [carrier.at_hand(t) for t in moves])
            carrier.moved(moves)
            left -= {id(t) for t in moves}
            carrier.does("work", [carrier.at_hand(t) for t in groups[i]])
    carrier.finish()
    carrier.does("host", [shared, *own], [shared])
    for _ in carrier.through(groups[:1]):
        carrier.does("work", [carrier.at_hand(t) for t in groups[0]])
    return carrier


def test_no_stream_overtakes_another():
    assert rounds_of(Races()).races() == []


def test_each_wait_is_needed():
    for line in set(rounds_of(Races()).waits):
        assert rounds_of(Races(line)).races(), line
