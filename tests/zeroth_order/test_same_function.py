"""Promise 8: all probes see the same function, and the optimizer itself holds to it, in a plain loop too."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import Slots
from hiso_pl.zeroth_order.watching import uncompiled

WAYS = [("fast", False), ("fast", True), ("low", False), ("low", True)]
SAME = "but all probes must see the same function: call eval"
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


class Network(nn.Module):
    """A layer, a norm over the batch, and what kinds of networks are made of."""

    def __init__(self):
        super().__init__()
        self.l, self.b, self.d = nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Dropout(0.1)

    def forward(self, x):
        return self.d(self.b(self.l(x).float()))


class FunctionalDropout(Network):
    def forward(self, x):
        return F.dropout(self.l(x), 0.1)


class FunctionalNorm(Network):
    def forward(self, x):
        return F.batch_norm(self.l(x), self.b.running_mean, self.b.running_var, training=True)


class Noisy(Network):
    def forward(self, x):
        return self.l(x) + 1e-3 * torch.randn(6)


class Averaging(Network):
    """Moves a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.average = torch.zeros(6)

    def forward(self, x):
        y = self.l(x)
        self.average.mul_(0.9).add_(y.mean(0) * 0.1)
        return y


class Observing(Network):
    """Remembers the largest activation, which is the same when one point is evaluated twice in a row."""

    def __init__(self):
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x):
        y = self.l(x)
        self.largest.copy_(torch.maximum(self.largest, y.abs().max()))
        return y


class Replacing(Observing):
    def forward(self, x):
        self.largest = self.largest + 1
        return self.l(x)


class Innocent(Network):
    """Writes to a good many things, and is the same function all the same."""

    def __init__(self):
        super().__init__()
        self.cache, self.calls, self.made = torch.zeros(8, 6), 0, None
        self.register_buffer("table", torch.full((9, 6), float("nan")))
        self.register_buffer("later", None)
        self.register_buffer("sparse", torch.eye(5).to_sparse())

    def forward(self, x):
        self.calls += 1
        y = torch.relu_(self.b(self.l(x).float())).add_(0.5)
        self.cache[: len(x)] = y  # keys and values, whose place is kept
        self.table[2 : 2 + len(x)].copy_(y)
        if self.made is None:  # at first use
            self.made = torch.ones(6)
            self.later = torch.arange(6.0)
        torch.from_numpy(np.zeros(3)).add_(1.0)
        torch.rand(3)  # drawn, but without effect
        noise = torch.randn(6, generator=torch.Generator().manual_seed(0))
        y = torch.sparse.mm(self.sparse, self.cache[: len(x)] + self.table[2 : 2 + len(x)])
        return (y + noise) * self.made + self.later


def optimizer_of(network, memory="fast", known=False, **options):
    told = {"network": network} if known else {}
    chosen = {"lr": 1e-2, "mu": 0.1, "num_directions": 5, "seed": 5, "memory": memory, **told, **options}
    return ZerothOrderOptimizer(network.named_parameters(), **chosen)


def loss_of(network, calls=None):
    def loss(k=0):
        if calls is not None:
            calls.append(k)
        x = X.roll(k, 0).to(next(network.parameters()).dtype)
        return network(x).float().mul(torch.arange(6) - 2.0).square().mean()

    return loss


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_known_network_in_training_mode_is_refused_in_every_round(memory):
    network, calls = made(Network), []
    optimizer = optimizer_of(network, memory, known=True)
    before = digest(optimizer)
    for module, name in ((network, r"the network \(Network\)"), (network.d, r"module 'd' \(Dropout\)")):
        module.training = True
        with pytest.raises(RuntimeError, match=f"{name} is in training mode, {SAME}"):
            optimizer.step(loss_of(network, calls))
        with pytest.raises(RuntimeError, match="in training mode"):  # on a process that has no loss in this round too
            optimizer.step(losses=[], slots=Slots(1, (), (0,), (1.0,)))
        module.training = False
    assert not calls
    assert digest(optimizer) == before
    optimizer.step(loss_of(network))
    network.b.train()
    with pytest.raises(RuntimeError, match=r"module 'b' \(BatchNorm1d\)"):
        optimizer.step(loss_of(network))


class Drawn(Network):
    """Dropout alone, which leaves no trace but the loss."""

    def forward(self, x):
        return self.d(self.l(x))


OTHER = rf"^the loss of one minibatch at x is \d.* and then \d.*, {SAME}.* random \(aten\.{{}}.* may be\)"
MOVED = rf"^the forward pass moves {{}}.*, {SAME}"


@pytest.mark.parametrize("options", [{}, {"difference": "central"}, {"local_steps": 2, "compute_dtype": "bfloat16"}])
@pytest.mark.parametrize(
    ("kind", "training", "message", "of_known"),
    [
        (Network, True, MOVED.format(r"a tensor of shape \(\) by aten\.add_.*by aten\.batch_norm"), None),
        (Drawn, True, OTHER.format("dropout"), None),
        (FunctionalDropout, False, OTHER.format("dropout"), OTHER.format("dropout")),
        (FunctionalNorm, False, MOVED.format(r"a tensor .*batch_norm"), MOVED.format(r"buffer 'b\.running_mean'")),
        (Noisy, False, OTHER.format("randn"), OTHER.format("randn")),
        (Averaging, False, MOVED.format(r"a tensor of shape \(6,\) by aten\.mul_"), MOVED.format("a tensor")),
        (Observing, False, MOVED.format(r"a tensor of shape \(\) by aten\.copy_"), MOVED.format("buffer 'largest'")),
        (Replacing, False, None, MOVED.format("buffer 'largest'")),
    ],
)
def test_what_is_not_the_same_function_is_refused_and_named(kind, training, message, of_known, options):
    for memory, known in WAYS:
        expected = of_known if known else message
        if expected is None:  # refused before, or of no effect on the loss and nobody's
            continue
        network = made(kind).train(training)
        optimizer = optimizer_of(network, memory, known, **options)
        before = digest(optimizer)
        with pytest.raises(ValueError, match=expected):
            optimizer.step(losses=[loss_of(network)])
        assert digest(optimizer) == before
        assert optimizer.round == 0


def test_another_minibatch_at_every_call_is_refused():
    network, batches = made(Network), iter(torch.randn(99, 5, 4))
    with pytest.raises(ValueError, match=f"^the loss of one minibatch at x is .* and then .*, {SAME}"):
        optimizer_of(network).step(lambda: network(next(batches)).square().mean())


@pytest.mark.parametrize("options", [{}, {"difference": "central"}, {"local_steps": 2}, {"compute_dtype": "bfloat16"}])
def test_what_comes_out_the_same_is_not_refused(options):
    results = []
    for memory, known in WAYS:
        network = made(Innocent)
        optimizer = optimizer_of(network, memory, known, **options)
        for _ in range(3):
            optimizer.step(losses=[loss_of(network)])
        results.append(digest(optimizer))
    assert results[1:] == results[:1] * 3


@pytest.mark.parametrize(("memory", "known"), WAYS)
@pytest.mark.parametrize("difference", ["forward", "central"])
def test_it_is_looked_at_once_a_run_and_not_counted(memory, known, difference):
    network, calls = made(Innocent), []
    optimizer = optimizer_of(network, memory, known, difference=difference, local_steps=2)
    for looks in (3, 0, 0):
        calls.clear()
        optimizer.step(losses=[loss_of(network, calls), loss_of(network)])
        assert 2 * len(calls) == optimizer.report.forwards + 2 * looks


def test_a_loss_that_is_not_finite_is_the_same_as_itself():
    network = made(Network)
    good = loss_of(network)
    optimizer = optimizer_of(network)
    optimizer.step(losses=[lambda k: good(k) * float("nan"), good])
    assert optimizer.report.dropped == (0,)


def test_several_points_in_a_forward_pass_are_no_exception():
    for kind in (FunctionalDropout, Averaging):
        network = made(kind)
        optimizer = optimizer_of(network, known=True, directions_per_forward=2)
        with pytest.raises(ValueError, match="directions_per_forward=2 must be 1 for this network"):
            optimizer.step(losses=[loss_of(network)])


@pytest.mark.parametrize("slots", [Slots(1, (0,), (0,), (1.0,), ((1, 3),)), Slots(2, (1,), (0, 1), (1.0, 1.0))])
def test_processes_that_evaluate_a_part_of_a_round_look_too(slots):
    for kind, refused in ((Innocent, False), (FunctionalDropout, True)):
        network, calls = made(kind), []
        optimizer = optimizer_of(network)
        optimizer.step(losses=[], slots=Slots(1, (), (0,), (1.0,)))  # without a slot there is nothing to look at
        if refused:
            with pytest.raises(ValueError, match=SAME):
                optimizer.step(losses=[loss_of(network, calls)], slots=slots)
        else:
            optimizer.step(losses=[loss_of(network, calls)], slots=slots)
            assert len(calls) == 3 + (2 if slots.shares else 6)


@pytest.mark.parametrize("known", [False, True])
def test_a_compiled_network_stays_compiled_and_is_looked_at_from_outside(known):
    torch._dynamo.reset()
    ran = []

    def backend(graph, example):
        def run(*inputs):
            ran.append(1)
            return graph.forward(*inputs)

        return run

    network = made(Network)
    compiled = torch.compile(network, backend=backend)
    optimizer = ZerothOrderOptimizer(network.named_parameters(), network=compiled if known else None)
    for _ in range(2):
        optimizer.step(loss_of(compiled))
    assert len(ran) == 2 + 2 * 6
    torch._dynamo.reset()

    moving = made(Averaging if not known else Observing)
    compiled = torch.compile(moving, backend=backend)
    optimizer = ZerothOrderOptimizer(moving.named_parameters(), network=compiled if known else None)
    with pytest.raises(ValueError, match=f"moves .*{SAME}"):
        optimizer.step(loss_of(compiled))
    torch._dynamo.reset()


def test_threads_that_look_one_beside_another_leave_compiled_code_compiled():
    torch._dynamo.reset()
    ran = []
    compiled = torch.compile(nn.Linear(4, 2), backend=lambda graph, example: lambda *x: ran.append(1) or graph(*x))
    first, second = uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    compiled(X)
    assert ran == []
    second.__exit__(None, None, None)
    compiled(X)
    assert ran == [1]
    torch._dynamo.reset()
