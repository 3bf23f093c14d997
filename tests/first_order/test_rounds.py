"""A round of differences: x, ranks, who is left out, what is told and saved, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl.first_order import DifferenceMethod, DifferenceOptimizer, FedAdam, FedAvg, FedYogi, FedZO, Work
from hiso_pl.first_order import differences as room
from hiso_pl.zeroth_order import Method, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import Slots, new_optimizer
from hiso_pl.zeroth_order.tensors import NotFiniteError

CLIENTS = (4, 1, 6, 3, 9)
WEIGHTS = (5.0, 1.0, 2.0, 3.0, 11.0)
NUMBERS = 4 * 3 + 5 + 8
METHODS = {
    "FedAvg": FedAvg(lr=0.1, local_steps=2, weighted=True),
    "FedAdam": FedAdam(lr=0.1, server_lr=0.05, local_steps=2, momentum=0.5),
    "FedZO": FedZO(lr=0.01, local_steps=2, num_directions=2, backend="reference"),
}


def dealt(rank, ranks, round):
    return Slots(5, tuple(s for s in range(5) if (s + round) % ranks == rank), CLIENTS, WEIGHTS)


def rounds_on(problem, method, ranks, rank, exchange, count=3):
    optimizer = problem.optimizer(method, seed=5, exchange=exchange)
    for r in range(count):
        problem.round(optimizer, dealt(rank, ranks, r), r)
    return optimizer


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("piece", [1 << 22, 40])
def test_every_number_of_ranks_gives_the_same_bits(problem, on_ranks, monkeypatch, name, piece):
    alone = rounds_on(problem, METHODS[name], 1, 0, None)
    monkeypatch.setattr(room, "PIECE", piece)  # pieces of all at once, and of 8 numbers, which cut tensors
    for ranks in (1, 2, 3, 4):
        found = on_ranks(ranks, lambda rank, x, n=ranks: rounds_on(problem, METHODS[name], n, rank, x))
        assert {digest(optimizer) for optimizer in found} == {digest(alone)}
        for optimizer in found:
            assert optimizer.report.loss == alone.report.loss
            assert optimizer.report.figures == pytest.approx(alone.report.figures)


def test_the_sum_is_taken_in_slot_order(on_ranks):
    """In another order, or in pairs, something else than 1 would be left of these numbers."""
    numbers = [1e16, 1.0, -1e16, 1.0]
    for ranks in (1, 2, 3):

        def mean(rank, exchange, ranks=ranks):
            slots = Slots(4, tuple(s for s in range(4) if (s + 1) % ranks == rank), (0, 1, 2, 3))
            found = room.Differences([1], slots, exchange, (1.0,) * 4)
            for slot in slots.own:
                found.add(slot, [torch.tensor([numbers[slot]])], 0.0)
            found.meet()
            [(spans, delta)] = found.means(torch.device("cpu"))
            return spans, float(delta)

        assert on_ranks(ranks, mean) == [([(0, 0, 1)], 0.25)] * ranks


def test_the_bytes_handed_over_are_those_of_all_slots_and_of_who_is_there(problem, on_ranks):
    found = on_ranks(2, lambda rank, x: rounds_on(problem, METHODS["FedAvg"], 2, rank, x, count=1))
    for optimizer in found:
        assert optimizer.exchange.bytes == 4 * 5 * (NUMBERS + 3)
        assert optimizer.report.bits == (32 * NUMBERS, 32 * NUMBERS, False)


def test_memory_is_the_parameters_own_and_gradients_are_left_alone(problem):
    optimizer = problem.optimizer(FedAvg(lr=0.1, local_steps=3))
    before = [p.data_ptr() for p in optimizer.parameters]
    problem.round(optimizer, Slots(2, (0, 1), (0, 1)))
    assert [p.data_ptr() for p in optimizer.parameters] == before
    assert all(p.grad is None for p in optimizer.parameters)


def test_each_client_starts_from_the_same_bits_and_x_stands_still_till_all_are_done(problem):
    seen = []

    class Looking(FedAvg):
        def work(self, parameters, seed, network):
            inner = super().work(parameters, seed, network)

            class Looked(Work):
                def __call__(self, task):
                    seen.append(([v.clone() for v in task.values], [p.data_ptr() for p in parameters]))
                    return inner(task)

            return Looked()

    optimizer = problem.optimizer(Looking(lr=0.5, local_steps=2))
    x = [p.detach().clone() for p in optimizer.parameters]
    own = [p.data_ptr() for p in optimizer.parameters]
    problem.round(optimizer, Slots(3, (0, 1, 2), (0, 1, 2)))
    assert len(seen) == 3
    for values, places in seen:
        assert all(torch.equal(a, b) for a, b in zip(values, x, strict=True))
        assert not set(places) & set(own)


def test_the_order_in_which_a_process_lists_its_slots_is_of_no_matter():
    slopes = [1e16, 1.0, -1e16]  # whose sum is another in another order
    for own in ((0, 1, 2), (0, 2, 1)):
        w = nn.Parameter(torch.zeros(1))
        losses = [lambda k, w=w, slot=slot: (w * slopes[slot]).sum() for slot in own]
        DifferenceOptimizer([("w", w)], FedAvg(lr=1.0)).step(losses=losses, slots=Slots(3, own, (4, 1, 6)))
        assert float(w.detach()) == 0.0


def test_tensors_that_do_not_lie_row_by_row(problem):
    plain, odd = problem.optimizer(FedAdam(lr=0.1)), problem.optimizer(FedAdam(lr=0.1))
    odd.parameters[0].data = odd.parameters[0].data.t().contiguous().t()
    assert not odd.parameters[0].is_contiguous()
    for optimizer in (plain, odd):
        problem.round(optimizer, Slots(2, (0, 1), (4, 1)))
    assert digest(plain) == digest(odd)


# Who is left out


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("broken", ["loss", "gradient", "later loss"])
def test_a_client_that_is_not_finite_is_left_out_and_nothing_else_happens(problem, on_ranks, ranks, broken):
    def run(rank, exchange):
        optimizer = problem.optimizer(FedAdam(lr=0.1, local_steps=2), exchange=exchange)

        def of(slot):
            def loss(k):
                plain = problem.loss(optimizer.parameters, CLIENTS[slot], k)
                if slot != 1 or (broken == "later loss" and k == 0):
                    return plain
                if broken == "gradient":
                    return plain + (0.0 * optimizer.parameters[1]).sqrt().sum()  # infinite slope at 0
                return plain * torch.nan

            return loss

        slots = dealt(rank, ranks, 0)
        optimizer.step(losses=[of(slot) for slot in slots.own], slots=slots)
        return optimizer

    rest = (0, 2, 3, 4)
    without = problem.optimizer(FedAdam(lr=0.1, local_steps=2))
    problem.round(without, Slots(4, (0, 1, 2, 3), tuple(CLIENTS[s] for s in rest)))
    for optimizer in on_ranks(ranks, run):
        assert optimizer.report.dropped == (1,)
        assert digest(optimizer) == digest(without)
        assert optimizer.report.loss == without.report.loss


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("absent", [(1, 4), (0, 1, 2, 4)])
def test_slots_whose_client_does_not_answer_are_no_part_of_the_mean(problem, on_ranks, name, absent):
    """Nor does anybody wait for the other ranks' where one rank evaluates all that are there."""
    there = tuple(slot for slot in range(5) if slot not in absent)

    def run(rank, exchange, ranks):
        optimizer = problem.optimizer(METHODS[name], seed=5, exchange=exchange)
        own = tuple(slot for i, slot in enumerate(there) if i % ranks == rank)
        problem.round(optimizer, Slots(5, own, CLIENTS, WEIGHTS, absent=absent))
        return optimizer

    alone, whole = run(0, None, 1), rounds_on(problem, METHODS[name], 1, 0, None, count=1)
    assert alone.report.dropped == alone.report.absent == absent
    assert alone.report.faults == ()
    assert np.isnan(alone.report.slot_losses).tolist() == [slot in absent for slot in range(5)]
    assert alone.report.forwards == whole.report.forwards * len(there) // 5
    assert digest(alone) != digest(whole)
    if name != "FedZO":  # which draws by slot
        without = problem.optimizer(METHODS[name], seed=5)
        clients, weights = (tuple(of[slot] for slot in there) for of in (CLIENTS, WEIGHTS))
        problem.round(without, Slots(len(there), tuple(range(len(there))), clients, weights))
        assert digest(alone) == digest(without)
    for ranks in (1, 2, 3):
        found = on_ranks(ranks, lambda rank, exchange, n=ranks: run(rank, exchange, n))
        assert {digest(optimizer) for optimizer in found} == {digest(alone)}


def test_a_round_without_anybody_leaves_all_as_it_is(problem):
    optimizer = problem.optimizer(FedAdam(lr=0.1))
    before = digest(optimizer)
    loss = optimizer.step(lambda: problem.loss(optimizer.parameters, 0, 0) * torch.inf)
    assert (optimizer.round, optimizer.report.dropped, optimizer.report.loss) == (1, (0,), None)
    assert digest(optimizer) == before
    assert torch.isnan(loss)
    assert optimizer.report.figures == {}


def test_a_state_that_is_not_finite_is_never_saved(problem):
    optimizer = problem.optimizer(FedAvg(lr=1.0, server_lr=1e38))
    with pytest.raises(
        NotFiniteError, match=r"round 0: 'w0' is not finite after the update with lr=1, server_lr=1e\+38"
    ):
        optimizer.step(lambda: problem.loss(optimizer.parameters, 0, 0) * 100.0)
    with pytest.raises(RuntimeError, match="broken off"):
        optimizer.state_dict()


# What is told and saved


def test_a_report_says_none_of_what_there_is_not(problem):
    optimizer = problem.optimizer(FedAvg(lr=0.1, local_steps=3))
    problem.round(optimizer, Slots(2, (0, 1), (7, 3)))
    report = optimizer.report
    assert (report.scalars, report.sent, report.mu, report.num_directions) == (None, None, None, None)
    assert (report.round, report.clients, report.lr, report.forwards, optimizer.record) == (0, (7, 3), 0.1, 6, None)
    assert report.backwards == 6
    first = [float(problem.loss(problem.start, client, 0)) for client in (7, 3)]
    assert report.slot_losses.tolist() == first
    assert report.figures["difference/norm"] < report.figures["difference/client_norm"]


def test_a_saved_state_goes_on_to_the_same_bits(problem):
    straight = rounds_on(problem, METHODS["FedAdam"], 1, 0, None, count=6)
    first = rounds_on(problem, METHODS["FedAdam"], 1, 0, None, count=3)
    saved = copy.deepcopy(first.state_dict())
    assert {state.kind for state in first.tensors()} == {"x", "first_moment", "second_moment"}
    second = problem.optimizer(METHODS["FedAdam"], seed=5)
    with torch.no_grad():
        for p, q in zip(second.parameters, first.parameters, strict=True):
            p.copy_(q)
    second.load_state_dict(saved)
    assert digest(second) == digest(first)
    for r in range(3, 6):
        problem.round(second, dealt(0, 1, r), r)
    assert digest(second) == digest(straight)
    for key, value, message in [
        ("seed", 6, "seed=5 configured"),
        ("round", -1, "round=-1 of a saved state"),
        ("lr", float("nan"), "lr=nan of a saved state"),
    ]:
        with pytest.raises(ValueError, match=message):
            second.load_state_dict({**saved, "param_groups": [{**saved["param_groups"][0], key: value}]})
    kept = saved["state"]
    for state, message in [
        ({**kept, 0: {}}, r"state of 'w0' holds nothing; this configuration keeps first_moment \(4, 3\)"),
        ({**kept, 7: {}}, "must be of tensors 0 to 2"),
        ({**kept, 0: {**kept[0], "first_moment": kept[0]["first_moment"] * torch.nan}}, "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            second.load_state_dict({**saved, "state": state})


def test_a_method_of_ones_own(problem):
    class Halved(FedAvg):
        def serve(self, x, delta, state, server_lr):
            x.copy_(x.double() + 0.5 * delta)

    optimizer = new_optimizer(Halved(lr=0.1), [("w", nn.Parameter(torch.ones(3)))], seed=1)
    assert isinstance(optimizer, DifferenceOptimizer)
    optimizer.step(lambda: optimizer.parameters[0].sum())
    assert np.allclose(optimizer.parameters[0].detach(), 0.95)


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedAvg(lr=-1), "lr=-1.0 must be finite and not negative"),
        (lambda: FedAvg(server_lr=float("inf")), "server_lr=inf must be"),
        (lambda: FedAvg(momentum=1.0), r"momentum=1.0 must be in \[0, 1\)"),
        (lambda: FedAvg(weight_decay=float("nan")), "weight_decay=nan must be"),
        (lambda: FedAvg(local_steps=0), r"local_steps=0 must be an integer in \[1, "),
        (lambda: FedAvg(local_epochs=-1), r"local_epochs=-1 must be an integer in \[0, "),
        (lambda: FedAvg(local_epochs=2, local_steps=3), "local_steps=3 must be 1 with local_epochs=2"),
        (lambda: FedAdam(beta_1=1.0), r"beta_1=1.0 must be in \[0, 1\)"),
        (lambda: FedYogi(beta_2=1.5), r"beta_2=1.5 must be in \[0, 1\)"),
        (lambda: FedAdam(tau=0.0), "tau=0.0 must be above 0 with epsilon=0.0"),
        (lambda: FedZO(mu=0.0), "mu=0.0 must be finite and positive"),
        (lambda: FedZO(num_directions=0), "num_directions=0 must be"),
        (lambda: FedZO(distribution="uniform"), "distribution='uniform' must be one of"),
    ],
)
def test_options_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Odd(nn.Module):
    """A network with what a round refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1.0
        return self.layer(x)


def test_what_a_round_refuses(problem):
    optimizer = problem.optimizer(FedAvg(lr=0.1))

    def loss(k):
        return problem.loss(optimizer.parameters, 0, k)

    two = Slots(2, (0, 1), (0, 1))
    with pytest.raises(ValueError, match="1 losses given for 2 slots"):
        optimizer.step(losses=[loss], slots=two)
    with pytest.raises(
        ValueError, match=r"FedAvg has each slot worked on by one process: data.spare_ranks must be idle"
    ):
        optimizer.step(losses=[loss], slots=Slots(2, (0,), (0, 1), shares=((0, 2),)))
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
    with pytest.raises(ValueError, match="a loss has no gradient"):
        optimizer.step(losses=[lambda k: loss(k).detach()])
    with pytest.raises(ValueError, match="a loss must be one float32 number"):
        optimizer.step(losses=[lambda k: loss(k).double()])
    weighted = problem.optimizer(FedAvg(weighted=True))
    with pytest.raises(ValueError, match="weighted=True needs the examples of each client"):
        weighted.step(losses=[loss, loss], slots=two)
    with pytest.raises(ValueError, match="local_epochs=1 needs slots with the steps"):
        problem.optimizer(FedAvg(local_epochs=1)).step(losses=[loss, loss], slots=two)
    many = problem.optimizer(FedZO(num_directions=1 << 13, backend="reference"))
    with pytest.raises(ValueError, match=r"num_directions x cohort=8192 x 3=24576 must be"):
        many.step(losses=[loss] * 3, slots=Slots(3, (0, 1, 2), (0, 1, 2)))
    assert optimizer.round == 0


def test_a_network_that_is_not_one_function_is_refused():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = Odd(), torch.randn(3, 2)
    optimizer = DifferenceOptimizer(network.named_parameters(), FedAvg(), network=network)
    with pytest.raises(RuntimeError, match="is in training mode"):
        optimizer.step(lambda: network(x).square().mean())
    network.eval()
    with pytest.raises(ValueError, match="the forward pass moves buffer 'calls'"):
        optimizer.step(lambda: network(x).square().mean())
    noisy = DifferenceOptimizer(network.named_parameters(), FedAvg())
    with pytest.raises(ValueError, match="the loss of one minibatch at x is"):
        noisy.step(lambda: (network.layer(x) * torch.rand(())).square().mean())


def test_compiled_networks_and_other_methods_are_refused():
    network = nn.Linear(2, 2)
    FedAvg().check_network(network)
    network._compiled_call_impl = network.forward
    with pytest.raises(ValueError, match="compile=True must be false with FedAvg"):
        FedAvg().check_network(network)
    with pytest.raises(ValueError, match="must be a DifferenceMethod"):
        DifferenceOptimizer(network.named_parameters(), Method())
    with pytest.raises(ValueError, match="must be a Method"):
        ZerothOrderOptimizer(network.named_parameters(), FedAvg())
    half = [("w", nn.Parameter(torch.ones(2, dtype=torch.float16)))]
    with pytest.raises(ValueError, match="masters are fp32"):
        DifferenceOptimizer(half, FedAvg())


def test_numbers_without_a_point_are_the_same_numbers():
    method = FedAdam(lr=1, server_lr=1, tau=0, epsilon=1, momentum=0)
    assert repr(method) == repr(FedAdam(lr=1.0, server_lr=1.0, tau=0.0, epsilon=1.0, momentum=0.0))
    assert method.initial(torch.ones(2))["second_moment"].dtype == torch.float32


def test_what_a_method_keeps_must_be_keepable():
    class Scalar(FedAvg):
        def initial(self, parameter):
            return {"m": torch.zeros(1)}

    with pytest.raises(ValueError, match="must give 'w' tensors of its shape"):
        DifferenceOptimizer([("w", nn.Parameter(torch.ones(3)))], Scalar())
    assert not DifferenceMethod.scalar_only
    assert Method.scalar_only
