"""A transform's state: advanced by records alone, in digest and checkpoint, handed to the transform, replayed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from hiso_pl.federation import Quantize
from hiso_pl.zeroth_order import Method, Momentum, RoundRecord, Sgd, Slots, Transform
from hiso_pl.zeroth_order.digest import checksums, digest
from hiso_pl.zeroth_order.tensors import NotFiniteError


class Counting(Transform):
    """Keeps the sum of all records, and adds a part of it to what is sent; notes what it was told."""

    def __init__(self):
        self.told, self.averaged = [], []

    def __call__(self, scalars, departure):
        self.told.append({name: value.copy() for name, value in departure.state.items()})
        departure.state["sum"][:] = np.nan  # a copy, which no other slot sees
        return scalars + np.float32(1e-3) * self.told[-1]["sum"][0]

    def initial(self):
        return {"sum": np.zeros(1, np.float32), "a": np.ones((2, 2), np.float32)}

    def advance(self, state, record, averaged):
        self.averaged.append(averaged)
        state["sum"][0] += np.float32(record.scalars.sum(dtype=np.float64))


@pytest.fixture
def started(optimizer_of, fixed):
    def started(**options):
        tensors = [("x", fixed((5, 3), 0)), ("y", fixed((4,), 1))]
        return optimizer_of(tensors, **{"lr": 0.05, "seed": 3, "num_directions": 3, **options})

    return started


def losses(optimizer, bad=(), slots=3):
    x, y = optimizer.parameters
    return [
        (lambda k: torch.tensor(float("nan"))) if i in bad else (lambda k, i=i: ((x - i) ** 2).mean() + (y**2).sum())
        for i in range(slots)
    ]


def kept(optimizer):
    return [(t.name, t.kind) for t in optimizer.tensors() if t.kind not in ("x", "hessian")]


def test_it_is_a_tensor_of_the_digest_and_a_method_without_it_has_none(started):
    plain, counting = started(), started(transform=Counting())
    assert kept(plain) == []
    assert kept(counting) == [("x", "transform.a"), ("x", "transform.sum")]
    names, sums = checksums(counting)
    assert names[-1] == "x (transform.sum)"
    before = digest(counting)
    counting.tensors()[-1].value[0] = 1e-30
    assert digest(counting) != before
    assert checksums(counting)[1][-1] != sums[-1]
    assert kept(started(transform=Counting(), update_rule=Momentum())) == [
        ("x", "momentum"),
        ("x", "transform.a"),
        ("x", "transform.sum"),
        ("y", "momentum"),
    ]


def test_a_transform_is_handed_what_the_records_before_made_of_it(started):
    counting = Counting()
    optimizer = started(transform=counting)
    total = np.float32(0.0)
    for bad in ((), (1,), (0, 1, 2), ()):
        before = len(counting.told)
        optimizer.step(losses=losses(optimizer, bad))
        assert [told["sum"].tolist() for told in counting.told[before:]] == [[total]] * (3 - len(bad))
        state = optimizer.transform_state
        if len(bad) < 3:
            total += np.float32(optimizer.record.scalars.sum(dtype=np.float64))
        assert state["sum"].tolist() == [total]  # left as it is by a round without anybody
    assert counting.averaged == [3, 2, 3]
    assert total != 0.0


def test_along_own_directions_nothing_is_averaged(started):
    counting = Counting()
    optimizer = started(transform=counting, directions="client")
    optimizer.step(losses=losses(optimizer, (1,)))
    assert counting.averaged == [1]


@pytest.mark.parametrize("directions", ["shared", "client"])
@pytest.mark.parametrize("tau", [1, 3])
def test_a_run_goes_on_from_a_checkpoint_in_its_middle(started, directions, tau):
    """Promise 5: the same digest as without the stop."""
    options = {"transform": Quantize(3, scale="shared"), "local_steps": tau, "directions": directions}
    straight = started(**options)
    for _ in range(4):
        straight.step(losses=losses(straight))
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    late = started(**options)
    with torch.no_grad():
        for p, q in zip(late.parameters, straight.parameters, strict=True):
            p.copy_(q)
    late.load_state_dict(torch.load(file, weights_only=True))
    assert digest(late) == digest(straight)
    for _ in range(3):
        straight.step(losses=losses(straight))
        late.step(losses=losses(late))
    assert digest(late) == digest(straight)
    assert straight.transform_state["scale"][0] != np.float32(0.1)


def test_a_saved_state_of_another_transform_is_refused(started):
    saved = started(transform=Quantize(3, scale="shared")).state_dict()
    with pytest.raises(ValueError, match=r"holds .*transform.scale \(1,\); this configuration keeps hessian \(5, 3\)$"):
        started().load_state_dict(saved)
    saved["state"][0]["transform.scale"][0] = float("nan")
    with pytest.raises(ValueError, match=r"holds transform.scale with values that are not finite"):
        started(transform=Quantize(3, scale="shared")).load_state_dict(saved)


@pytest.mark.parametrize("scale", ["client", "shared"])
def test_scalars_of_zero_are_no_end(started, scale):
    """The first rounds on a flat loss send zeros, or nearly; what comes after them is found again."""
    optimizer = started(transform=Quantize(4, scale=scale, **({"floor": 1e-4} if scale == "shared" else {})))
    start = [p.clone() for p in optimizer.parameters]
    for _ in range(60):
        optimizer.step(losses=[lambda k: torch.tensor(1.0)] * 3)
        assert np.isfinite(optimizer.record.scalars).all()
        assert scale == "shared" or not optimizer.record.scalars.any()
    assert (scale == "client") == all(torch.equal(p, q) for p, q in zip(optimizer.parameters, start, strict=True))
    for _ in range(60):
        optimizer.step(losses=losses(optimizer))
    size = np.abs(optimizer.report.sent).max()
    assert size > 0.1


@pytest.mark.parametrize("transform", [Quantize(2), Quantize(5, scale="shared"), Quantize(8)], ids=repr)
@pytest.mark.parametrize("tau", [1, 2])
def test_what_is_sent_does_not_depend_on_who_computes_it(started, transform, tau):
    """Promise 2: with the probes of a slot shared among processes all of them transform every slot."""
    alone, shared = (started(transform=transform, local_steps=tau) for _ in range(2))
    slots = Slots(3, (0, 1, 2), (7, 2, 5))
    for bad in ((), (2,), ()):
        alone.step(losses=losses(alone, bad), slots=slots)
        shared.step(losses=losses(shared, bad), slots=slots._replace(shares=((0, 1),) * 3))
        assert alone.record.dropped == shared.record.dropped == bad
        assert alone.report.sent.tobytes() == shared.report.sent.tobytes()
    assert digest(alone) == digest(shared)


def test_a_zero_has_no_sign_whoever_computes_it(started):
    class Negated(Transform):
        withholds_losses = False

        def __call__(self, scalars, departure):
            assert not np.signbit(scalars[scalars == 0]).any()
            return -np.abs(scalars) * np.float32(0.0)

    for shares in ((), ((0, 1),)):
        optimizer = started(transform=Negated())
        optimizer.step(losses=[lambda k: torch.tensor(1.0)], slots=Slots(1, (0,), (0,), None, shares))
        assert not np.signbit(optimizer.report.sent).any()


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        (lambda: {"s": np.zeros(1)}, r"initial\(\) gave torch.float64 of shape \(1,\) as 'transform.s' for 'x'"),
        (lambda: {"s": 1.0}, r"initial\(\) gave float as 's', must give float32 arrays by name"),
        (lambda: [1.0], r"initial\(\) gave list, must give float32 arrays by name"),
        (lambda: {"s": np.zeros(1 << 17, np.float32)}, r"initial\(\) gave 131072 numbers, must give at most 65536"),
    ],
)
def test_a_state_that_cannot_be_is_refused(started, initial, message):
    class Odd(Counting):
        pass

    Odd.initial = lambda self: initial()
    with pytest.raises(ValueError, match=rf"transform=Odd\(\): {message}"):
        started(transform=Odd())


def test_a_state_that_is_not_advanced_in_place_is_refused(started):
    class Gives(Counting):
        def advance(self, state, record, averaged):
            return {"sum": state["sum"] + 1}

    class Replaces(Counting):
        def advance(self, state, record, averaged):
            state["sum"] = state["sum"] + 1

    for transform in (Gives(), Replaces()):
        optimizer = started(transform=transform)
        with pytest.raises(ValueError, match=r"must advance its state in place: what advance\(\) gives is lost"):
            optimizer.step(losses=losses(optimizer))

    class Named(Sgd):
        fused = False

        def initial(self, parameter, target):
            return {"transform.scale": torch.ones(1)}

    with pytest.raises(ValueError, match=r"update_rule=Named\(\) must not call its state"):
        started(update_rule=Named())


def test_a_state_that_is_not_finite_ends_the_run(started):
    class Exploding(Counting):
        def advance(self, state, record, averaged):
            state["sum"][0] = np.inf

    optimizer = started(transform=Exploding())
    with pytest.raises(NotFiniteError, match=r"transform\.sum"):
        optimizer.step(losses=losses(optimizer))


def test_only_a_transform_with_state_is_told_of_in_files():
    """What there is without it has the header that it always had."""
    names = {"stateful_transform", "counted_by_parts"}
    assert not names & set(Method().as_data())
    assert names & set(Method(transform=Counting()).as_data()) == {"stateful_transform"}
    assert names & set(Method(transform=Quantize(4)).as_data()) == {"counted_by_parts"}
    shared = Method(transform=Quantize(4, scale="shared"), directions="client")
    data = shared.as_data()
    assert names & set(data) == names
    Method.check_data(data)
    back = Method.applying(data)
    assert (back.transform, back.directions) == (shared.transform, "client")
    assert Method.applying(Method(transform=Quantize(4)).as_data()).transform is None
    with pytest.raises(ValueError, match=r"'stateful_transform', which this version does not know"):
        Method.check_data({**data, "stateful_transform": "yes"})
    assert "transform is {'Quantize': {'bits': 4" in Method(directions="client").differing(data)
    assert "there and {'Quantize'" in shared.differing(Method(directions="client").as_data())
    other = Method(transform=Quantize(5, scale="shared"), directions="client")
    assert "transform is" in other.differing(data)
    assert "directions is client there" in Method(transform=Quantize(4, scale="shared")).differing(data)
    assert Method(transform=Quantize(4)).differing(Method(transform=Quantize(8)).as_data()) is None


def test_records_alone_lead_to_the_state(started):
    run, again = (started(transform=Quantize(4, scale="shared")) for _ in range(2))
    for bad in ((), (1,), (0, 1, 2), ()):
        run.step(losses=losses(run, bad))
        again.apply(RoundRecord.of_data(run.record.as_data()))
        assert digest(again) == digest(run)
