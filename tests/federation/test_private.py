"""What private clients send: bounded, noised by entropy that nobody else has, and of no use to who knows all else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from torch import nn
from torch.nn import functional as F

from hiso_pl.federation import ClientPrivacy, ExamplePrivacy, Mean, Sign, WeightedMean, draw_secret_batch
from hiso_pl.federation.privacy import client as client_level
from hiso_pl.federation.privacy import example as example_level
from hiso_pl.federation.privacy.noise import clipped
from hiso_pl.zeroth_order import LocalExchange, Method, Slots, ZerothOrderOptimizer
from hiso_pl.zeroth_order.losses import no_examples

C, P, TAU = 0.7, 6, 3
RARE = 1e-7  # how often a test of chance may fail without cause


class Recorded(LocalExchange):
    """Keeps what leaves this process."""

    def __call__(self, rows, slots):
        self.rows = rows.numpy().copy()
        return super().__call__(rows, slots)


@pytest.fixture
def silent(monkeypatch):
    """Leaves the noise out, to see what it is added to."""
    for module in (client_level, example_level):
        monkeypatch.setattr(module, "gaussian", lambda shape, deviation: np.zeros(shape))


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


def examples(count: int, seed: int, size: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def sent(data: list[tuple[torch.Tensor, torch.Tensor]], seed: int = 4, expected: float = 4.0, **options) -> NDArray:
    """What clients with these examples send in a round, a row each."""
    model, exchange = network(), Recorded()
    method = Method(**{"lr": 0.1, "num_directions": P, **options})
    optimizer = ZerothOrderOptimizer(model.named_parameters(), method, seed=seed, exchange=exchange, network=model)
    reduction = "none" if method.per_example else "mean"
    losses = [
        (lambda k, x=x, y=y: F.cross_entropy(logits(model, x) + k, y, reduction=reduction)) if len(x) else no_examples
        for x, y in data
    ]
    m = len(data)
    slots = Slots(m, tuple(range(m)), tuple(range(m)), expected=(expected,) * m if method.per_example else ())
    optimizer.step(losses=losses, slots=slots)
    return exchange.rows.astype(np.float64)


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x.to(model[0].weight.dtype)).float()


def far_away(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Data of every kind that a client may have: small, huge, infinite, no numbers."""
    x, y = examples(3, seed, size=[1e-3, 1.0, 1e4, 1e30][seed % 4])
    x[:, 0] = [x[0, 0].item(), math.inf, math.nan][seed % 3]
    return x, y


# Bounds


@pytest.mark.parametrize("tau", [1, TAU])
@pytest.mark.usefixtures("silent")
def test_whatever_a_client_has_moves_what_it_sends_by_two_c_at_most(tau):
    private = ClientPrivacy(clip=C, noise_multiplier=1.0)
    others = [examples(4, 1), examples(4, 2)]
    base = sent([*others, examples(3, 0)], privacy=private, local_steps=tau)
    moved = []
    for seed in range(12):
        other = sent([*others, far_away(seed)], privacy=private, local_steps=tau)
        assert np.array_equal(other[:2], base[:2])
        assert np.linalg.norm(other[2]) <= C * (1 + 1e-6)
        moved.append(np.linalg.norm(other.mean(axis=0) - base.mean(axis=0)) * 3)
    assert C / 2 < max(moved) <= private.sensitivity * (1 + 1e-6)
    assert private.sensitivity == 2 * C


@pytest.mark.usefixtures("silent")
def test_whatever_an_example_is_moves_the_sum_by_c_at_most():
    private, expected = ExamplePrivacy(clip=C, noise_multiplier=1.0), 4.0
    x, y = examples(4, 1)
    without = sent([(x, y)], privacy=private)[0]
    moved = []
    for seed in range(12):
        more, label = far_away(seed)
        both = sent([(torch.cat([x, more[:1]]), torch.cat([y, label[:1]]))], privacy=private)[0]
        moved.append(np.linalg.norm(both - without) * expected)
        if more[0].isnan().any():
            assert moved[-1] == pytest.approx(0.0, abs=1e-6)
    assert C / 2 < max(moved) <= private.sensitivity * (1 + 1e-5)
    assert private.sensitivity == C


def test_a_clip_keeps_the_direction_and_what_is_short_and_hides_what_is_no_number():
    vector = np.array([[3.0, -4.0], [12.0, 0.0]])
    np.testing.assert_allclose(clipped(vector, 6.5), vector / 2, rtol=1e-15)
    assert np.array_equal(clipped(vector, 13.0), vector)
    assert not clipped(np.array([1.0, np.nan]), 1.0).any()
    assert not clipped(np.array([1.0, -np.inf]), 1.0).any()
    assert np.linalg.norm(clipped(np.full(7, 3e38, np.float32), 1.0)) == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"difference": "central"},
        {"memory": "low"},
        {"directions_per_forward": 4},
        {"directions": "client"},
        {"compute_dtype": "bfloat16", "mu": 0.1, "memory": "low"},
    ],
)
@pytest.mark.usefixtures("silent")
def test_examples_scalars_are_those_that_each_has_by_itself(options):
    """Also of slots that stand at the same points and have different numbers of examples."""
    data, big = [examples(5, 1), examples(0, 0), examples(2, 2)], ExamplePrivacy(clip=1e6, noise_multiplier=1.0)
    together = sent(data, privacy=big, **options)
    shared = options.get("directions") != "client"
    for i, (x, y) in enumerate(data):
        # as many slots, so that own directions are the same
        alone = [sent([(x[j : j + 1], y[j : j + 1])] * 3, **options)[:, :-1][i] for j in range(len(x))]
        assert not shared or np.array_equal(alone, [sent([(a, b)], **options)[0, :-1] for a, b in parts(x, y)])
        tolerance = 0.3 if "compute_dtype" in options else 2e-4
        np.testing.assert_allclose(together[i], sum(alone, np.zeros(P)) / 4.0, rtol=1e-3, atol=tolerance)
    assert not together[1].any()


def parts(x, y):
    return [(x[j : j + 1], y[j : j + 1]) for j in range(len(x))]


@pytest.mark.usefixtures("silent")
def test_local_moves_follow_raw_scalars_and_no_loss_leaves():
    data = [examples(4, 1), examples(4, 2)]
    raw = sent(data, local_steps=TAU)
    assert raw.shape == (2, TAU * P + 1)
    private = sent(data, local_steps=TAU, privacy=ClientPrivacy(clip=C, noise_multiplier=1.0))
    assert private.shape == (2, TAU * P)
    for there, here in zip(raw[:, :-1], private, strict=True):
        np.testing.assert_allclose(here, there * (C / np.linalg.norm(there)), rtol=1e-5)
    signs = sent(data, transform=Sign(), privacy=ClientPrivacy(clip=C, noise_multiplier=1.0))
    assert all(len(set(np.abs(row))) == 1 for row in signs)  # after the noise a transform is harmless


# Noise


@pytest.mark.parametrize("kind", [ClientPrivacy, ExamplePrivacy])
def test_the_noise_is_as_large_as_said(kind):
    draws, sigma, expected = 20_000, 1.3, 5.0
    private = kind(clip=C, noise_multiplier=sigma)
    found = private.leaving(np.zeros((1, draws), np.float32), expected).astype(np.float64)
    said = 2 * C * sigma if kind is ClientPrivacy else C * sigma / expected
    low, high = chi2.ppf([RARE, 1 - RARE], draws)
    assert low <= (found**2).sum() / said**2 <= high
    assert abs(found.sum()) <= norm.isf(RARE) * said * math.sqrt(draws)


@pytest.mark.parametrize("level", ["client", "example"])
def test_noise_is_new_for_each_client_round_and_run(level):
    private = ClientPrivacy(C, 1.0) if level == "client" else ExamplePrivacy(C, 1.0)
    data = [examples(4, 1)] * 3
    rows = np.concatenate([sent(data, privacy=private) for _ in range(2)])
    assert rows.shape == (6, P)
    assert len(np.unique(rows)) == rows.size
    assert np.isfinite(
        sent([far_away(2), examples(0, 1)] if level == "example" else [far_away(2)], privacy=private)
    ).all()


def test_a_minibatch_without_examples_takes_no_forward_pass(monkeypatch):
    monkeypatch.setattr(F, "cross_entropy", None)
    rows = sent([examples(0, 0)] * 2, privacy=ExamplePrivacy(C, 1.0))
    assert np.isfinite(rows).all()
    assert rows.all()


def test_examples_enter_minibatches_each_for_itself_at_their_rate():
    n, size, times = 40, 8, 3000
    entered = np.zeros((times, n))
    for row in entered:
        row[draw_secret_batch(n, size)] = 1.0
    q = size / n
    worst = norm.isf(RARE / n)
    assert np.abs(entered.mean(axis=0) - q).max() <= worst * math.sqrt(q * (1 - q) / times)
    pairs = np.corrcoef(entered.T) - np.eye(n)
    assert np.abs(pairs).max() <= norm.isf(RARE / n**2) / math.sqrt(times)
    sizes = entered.sum(axis=1)
    assert sizes.var() == pytest.approx(n * q * (1 - q), rel=0.2)  # a fixed size would have none
    assert np.array_equal(draw_secret_batch(5, 8), np.arange(5))
    assert np.array_equal(draw_secret_batch(5, 5), np.arange(5))


# An attacker who knows directions, x, the example and how it is clipped, and looks for it in what is released


def scalars_of(x: NDArray, y: float, directions: NDArray, weights: NDArray, mu: float = 1e-3) -> NDArray:
    """The scalars of one example of a logistic regression, forward differences along known directions."""

    def loss(w: NDArray) -> NDArray:
        return np.logaddexp(0.0, -y * (w @ x))

    return (loss(weights + mu * directions) - loss(weights)) / mu


@pytest.fixture(scope="module")
def worlds() -> list[tuple[int, NDArray, NDArray]]:
    """Rounds of a client with the target among its examples, and without: which, scalars, and what is looked for."""
    generator = np.random.default_rng(5)
    d, count = 20, 800
    weights, target = generator.normal(size=d), generator.normal(size=d)
    others = [(generator.normal(size=d), float(y)) for y in (1, -1, 1, -1)]
    found = []
    for world in range(count):
        u, member = generator.normal(size=(64, d)), world % 2
        g = np.array([scalars_of(x, y, u, weights) for x, y in [*others, (target, 1.0)]], np.float32)
        found.append((member, g[: 4 + member], g[4] / np.linalg.norm(g[4])))
    return found


def scores(worlds: list, release: Callable[[NDArray, int], NDArray], attack: Callable[[NDArray, int], NDArray]):
    """How an attack scores releases, shape ``[2, worlds / 2]``: without the target, and with it."""
    found: tuple[list[float], list[float]] = ([], [])
    for round, (member, g, looked_for) in enumerate(worlds):
        found[member].append(float(attack(release(g, round), round).ravel() @ looked_for))
    return np.array(found)


def success(found: NDArray) -> tuple[float, float]:
    """Area under the curve of an attack, and its best advantage: true minus false positives."""
    out, member = found
    area = float((member[:, None] > out[None, :]).mean())
    cuts = np.sort(found.ravel())
    advantage = max(float((member > cut).mean() - (out > cut).mean()) for cut in cuts)
    return area, advantage


def check_hidden(found: NDArray, sigma: float) -> None:
    """Holds an attack to what Gaussian noise allows of one release: mu = 1 / sigma (Dong, Roth, Su 2019)."""
    area, advantage = success(found)
    chance = 2 * math.sqrt(math.log(2 / RARE) / (2 * found.shape[1]))  # Dvoretzky, Kiefer, Wolfowitz, both curves
    assert advantage <= 2 * norm.cdf(1 / (2 * sigma)) - 1 + chance
    assert area <= norm.cdf(1 / (sigma * math.sqrt(2))) + chance / 2
    for epsilon in (0.5, 1.0, 2.0):  # and to what (epsilon, delta) does, for every pair that the noise gives
        delta = norm.cdf(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * norm.cdf(
            -1 / (2 * sigma) - epsilon * sigma
        )
        assert advantage <= (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1) + chance


def as_seen(rows: NDArray, round: int) -> NDArray:
    return rows


def public_noise(shape: tuple[int, ...], deviation: float, round: int) -> NDArray:
    """What a client would draw from the run's own seed, as anyone can."""
    return np.random.default_rng([20261126, round]).normal(scale=deviation, size=shape)


def test_membership_shows_without_noise_and_hides_behind_it(monkeypatch, worlds):
    sigma = 2.0
    private = ExamplePrivacy(clip=C, noise_multiplier=sigma)
    check_hidden(scores(worlds, lambda g, round: private.leaving(g, 1.0), as_seen), sigma)

    monkeypatch.setattr(example_level, "gaussian", lambda shape, deviation: np.zeros(shape))
    bare = scores(worlds, lambda g, round: private.leaving(g, 1.0), as_seen)
    assert success(bare)[0] > 0.97
    with pytest.raises(AssertionError):
        check_hidden(bare, sigma)


def test_noise_of_the_public_seed_hides_nothing(monkeypatch, worlds):
    sigma = 2.0
    private = ExamplePrivacy(clip=C, noise_multiplier=sigma)

    def release(g: NDArray, round: int) -> NDArray:
        monkeypatch.setattr(example_level, "gaussian", lambda shape, deviation: public_noise(shape, deviation, round))
        return private.leaving(g, 1.0)

    def subtracted(rows: NDArray, round: int) -> NDArray:
        return rows - public_noise(rows.shape, private.deviation, round)

    check_hidden(scores(worlds, release, as_seen), sigma)  # who does not think of it is held off
    found = scores(worlds, release, subtracted)
    assert success(found)[0] > 0.97
    with pytest.raises(AssertionError):
        check_hidden(found, sigma)


# What cannot be


@pytest.mark.parametrize("kind", [ClientPrivacy, ExamplePrivacy])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^privacy.noise_multiplier=None and privacy.target_epsilon=None: exactly one of them must be given"),
        ({"noise_multiplier": 1.0, "target_epsilon": 2.0}, "^privacy.noise_multiplier=1.0 .* exactly one"),
        *(
            ({"noise_multiplier": v}, f"noise_multiplier={v} must be finite and positive")
            for v in (0.0, -1.0, math.inf)
        ),
        *(({"noise_multiplier": 1.0, "clip": v}, f"clip={v} must be finite") for v in (0.0, -2.0, math.nan, math.inf)),
        ({"target_epsilon": 0.0}, "target_epsilon=0.0 must be finite and positive"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, r"delta=1.0 must be in \(0, 1\)"),
        ({"noise_multiplier": 1.0, "delta": 0.0}, r"delta=0.0 must be in \(0, 1\)"),
    ],
)
def test_options_that_cannot_be(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_what_tells_more_than_privacy_allows_is_refused():
    private = ClientPrivacy(C, 1.0)
    for kind in (ClientPrivacy, ExamplePrivacy):
        with pytest.raises(ValueError, match=r"^aggregation=WeightedMean\(\) tells how many examples a client has"):
            Method(privacy=kind(C, 1.0), aggregation=WeightedMean())
    with pytest.raises(ValueError, match=r"^local_steps=2 must be 1 with privacy=ExamplePrivacy"):
        Method(privacy=ExamplePrivacy(C, 1.0), local_steps=2)
    Method(privacy=private, local_steps=2)
    with pytest.raises(ValueError, match="needs the loss of each example: network=Linear has no example_losses"):
        Method(privacy=ExamplePrivacy(C, 1.0)).check_network(nn.Linear(2, 2))
    model = network()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), privacy=private)
    with pytest.raises(ValueError, match=r"^privacy=ClientPrivacy.* withholds losses.*spare_ranks must be idle"):
        optimizer.step(losses=[lambda k: torch.ones(())], slots=Slots(1, (0,), (0,), None, ((0, 2),)))
    optimizer = ZerothOrderOptimizer(model.named_parameters(), privacy=ExamplePrivacy(C, 1.0))
    with pytest.raises(ValueError, match=r"expected, a positive number for each of 1 slots"):
        optimizer.step(lambda: model(examples(3, 1)[0]).sum(dim=1))
    slots = Slots(1, (0,), (0,), expected=(3.0,))
    for loss in (lambda k: torch.ones(()), lambda k: torch.empty(0), lambda k: torch.ones(3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"must be float32 of shape \[examples\], .* give .*no_examples"):
            optimizer.step(losses=[loss], slots=slots)


def test_a_rule_of_ones_own_is_not_told_sizes_either():
    class Told(Mean):
        def weights_of(self, slots, weights):
            assert weights is None
            return super().weights_of(slots, weights)

    model = network()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), privacy=ClientPrivacy(C, 1.0), aggregation=Told())
    optimizer.step(losses=[lambda k: model(examples(3, 1)[0]).mean()], slots=Slots(1, (0,), (0,), (17.0,)))


def test_a_target_waits_for_its_noise():
    target = ClientPrivacy(C, target_epsilon=2.0)
    model = network()
    optimizer = ZerothOrderOptimizer(model.named_parameters(), privacy=target)
    with pytest.raises(
        ValueError, match=r"^privacy.target_epsilon=2.0 is for runs of the program.*give noise_multiplier"
    ):
        optimizer.step(lambda: model(examples(3, 1)[0]).mean())
    found = target.with_noise(1.5)
    assert (found.noise, found.target_epsilon, target.noise_multiplier) == (1.5, 2.0, None)
    assert found.as_data() == {
        "ClientPrivacy": {"clip": C, "noise_multiplier": 1.5, "target_epsilon": 2.0, "delta": 1e-5, "accountant": "pld"}
    }
    with pytest.raises(ValueError, match=r"noise_multiplier=0\.0 must be"):
        target.with_noise(0.0)


def test_a_delta_that_gives_records_away_is_pointed_out():
    assert ClientPrivacy(C, 1.0).doubts([10] * 500) == []
    assert "not below 1/500, one part in the 500 clients" in ClientPrivacy(C, 1.0, delta=2e-3).doubts([10] * 500)[0]
    assert "not below 1/200000, " in ExamplePrivacy(C, 1.0).doubts([10, 200_000])[0]
    assert ExamplePrivacy(C, 1.0).doubts([]) == []
