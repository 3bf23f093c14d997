"""A client's share of a round: what its local steps follow, what its transform is told, and the loss that is logged.

Once with a slot to a process, once with its probes shared among processes, here among one.
"""

import io

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import RoundRecord, Slots, Transform

CLIENTS = (11, 3)
TAU, DIRECTIONS = 3, 4
SHARES = {"alone": (), "shared": ((0, 1), (0, 1))}


class Halved(Transform):
    """Halves the scalars, and notes what it was told and given."""

    withholds_losses = False

    def __init__(self):
        self.told, self.given = [], []

    def __call__(self, scalars, departure):
        before = None if departure.before is None else departure.before.round
        self.told.append((departure.seed, departure.round, departure.client, before))
        self.given.append(scalars.copy())
        return scalars * np.float32(0.5)


@pytest.fixture
def rounds(optimizer_of, fixed):
    """Runs rounds of two slots on quadratics, each of a client and a local step; every loss is noted with its point."""

    def rounds(count, shares, **options):
        optimizer = optimizer_of(
            [("x", fixed((5, 3), 0))], **{"lr": 0.1, "mu": 0.01, "num_directions": DIRECTIONS, **options}
        )
        x = optimizer.tensors()[0].value
        seen = []

        def loss(slot):
            def at(k):
                value = ((x - 0.3 * CLIENTS[slot] - k) ** 2).mean()
                if k == 0:
                    seen[-1][slot][x.numpy().tobytes()] = value.item()
                return value

            return at

        slots = Slots(2, (0, 1), CLIENTS, (1.0, 1.0), SHARES[shares])
        for _ in range(count):
            seen.append([{}, {}])
            base = x.numpy().tobytes()
            returned = optimizer.step(losses=[loss(0), loss(1)], slots=slots).item()
        return optimizer, returned, base, seen[-1]

    return rounds


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("tau", [1, TAU])
def test_local_moves_follow_the_raw_scalars_and_transformed_ones_are_sent(rounds, shares, tau):
    raw, *_ = rounds(1, shares, local_steps=tau)
    halved = Halved()
    optimizer, *_ = rounds(1, shares, local_steps=tau, transform=halved)
    # given what a client without a transform comes to, at every k: so it moved as that one did
    assert np.array_equal(np.stack(halved.given), raw.report.sent)
    assert np.array_equal(optimizer.report.sent, raw.report.sent * np.float32(0.5))
    assert np.array_equal(optimizer.record.scalars, raw.record.scalars * np.float32(0.5))


@pytest.mark.parametrize("shares", SHARES)
def test_a_transform_is_told_the_round_and_the_client(rounds, shares):
    halved = Halved()
    rounds(3, shares, local_steps=2, transform=halved, seed=9)
    assert halved.told == [(9, r, client, r - 1 if r else None) for r in range(3) for client in CLIENTS]


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("tau", [1, TAU])
@pytest.mark.parametrize("difference", ["forward", "central"])
def test_the_loss_of_a_round_is_the_one_it_starts_from(rounds, shares, tau, difference):
    """At the base point with forward differences; with central ones the mean of all points of the first local step."""
    optimizer, returned, base, seen = rounds(3, shares, local_steps=tau, difference=difference)
    expected = []
    for losses in seen:
        displaced = [value for point, value in losses.items() if point != base]
        assert len(displaced) == (DIRECTIONS if difference == "forward" else 2 * DIRECTIONS)
        expected.append(losses[base] if difference == "forward" else np.mean(displaced))
    assert np.array_equal(optimizer.report.slot_losses, np.array(expected, dtype=np.float32))
    assert returned == pytest.approx(np.mean(expected), rel=1e-6)
    assert optimizer.report.loss == pytest.approx(returned, rel=1e-6)


def test_a_resumed_run_tells_its_transform_of_the_record_before(optimizer_of, fixed):
    """Promise 5: without it a transform that follows the records would send something else after a stop."""
    first = optimizer_of([("x", fixed((5, 3), 0))], seed=4)
    for _ in range(2):
        first.step(lambda: (first.parameters[0] ** 2).sum())
    state = first.state_dict()
    halved = Halved()
    late = optimizer_of([("x", first.parameters[0].clone())], seed=4, transform=halved)
    late.load_state_dict(torch.load(saved(state), weights_only=True))
    assert "record" not in late.param_groups[0]
    late.step(lambda: (late.parameters[0] ** 2).sum())
    assert halved.told == [(4, 2, 0, 1)]
    assert np.array_equal(first.record.scalars, RoundRecord.of_data(first.record.as_data()).scalars)


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
