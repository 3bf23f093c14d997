"""What theory says of D, against the optimizer's own D on a quadratic: many rounds from one point."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hiso_pl.diagnose import Facts, HessianEstimate, Problem, diagnose
from hiso_pl.diagnose.curvature import Hessian
from hiso_pl.diagnose.curvature import diagonal as diagonal_of
from hiso_pl.diagnose.method_moments import Draws, Metric, measure, moments
from hiso_pl.diagnose.moments import Form, Moments, cosine, headroom
from hiso_pl.diagnose.quadratic import Quadratic

SIDE = 4
D = SIDE * SIDE
ROUNDS = 20_000


def drawn(random, distribution, *shape):
    """Directions of matrices of four by four, shape ``[*shape, 16]``."""
    if distribution == "normal":
        return random.standard_normal((*shape, D))
    if distribution == "rademacher":
        return random.choice([-1.0, 1.0], (*shape, D))
    rows, columns = random.standard_normal((2, *shape, SIDE, 2))
    return (rows @ columns.swapaxes(-1, -2)).reshape(*shape, D) / np.sqrt(2)


@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
@pytest.mark.parametrize("directions", ["shared", "client"])
@pytest.mark.parametrize(("mu", "divided"), [(1e-3, False), (1e-3, True), (0.25, True)])
def test_squares_of_D_are_those_of_many_rounds(distribution, directions, mu, divided):
    """Rounds written out: a wrong factor, such as P for P + 1 or V / m for V, is several times the tolerance."""
    random = np.random.default_rng(3)
    rotation, start = np.linalg.qr(random.standard_normal((D, D)))[0], random.standard_normal(D)
    quadratic = Quadratic(np.geomspace(0.3, 6, D), rotation, 0.8, 3, 0.9, start, [(SIDE, SIDE)])
    facts = Facts(2, 3, 3, 1, mu, directions, "forward", distribution, 2)
    a, x, h = quadratic.matrix, quadratic.x(), np.geomspace(0.5, 4, D) if divided else np.ones(D)

    clients = np.array([random.permutation(3)[:2] for _ in range(ROUNDS)])
    g = a @ x + quadratic.shifts[clients] + 0.8 * random.standard_normal((ROUNDS, 2, D))  # [rounds, m, d]
    z = drawn(random, distribution, ROUNDS, 2 if directions == "client" else 1, 3) / np.sqrt(
        h
    )  # [rounds, m or 1, P, d]
    scalars = np.einsum("rmpd,rmd->rmp", np.broadcast_to(z, (ROUNDS, 2, 3, D)), g)
    scalars += 0.5 * mu * np.einsum("rmpd,de,rmpe->rmp", z, a, z, optimize=True)
    d = (scalars[..., None] * z).mean((1, 2))
    found = np.stack([d @ a @ x, np.einsum("rd,de,re->r", d, a, d), (d * d).sum(1)], axis=1)

    # the forms are known here: what is tested is the theory
    estimate = HessianEstimate([torch.from_numpy(h)], [(D,)])
    problem = Problem(quadratic.tensors, quadratic.clients(3), facts, estimate)
    hessian = Hessian(problem, True)
    metric = Metric(estimate, hessian, diagonal_of(problem, hessian, estimate, 8, torch.Generator()), problem)
    _, measured = measure(problem, {"h": metric})
    inverse = np.diag(1.0 / h)
    known = measured["h"]._replace(
        square=quadratic.forms(inverse),
        length=quadratic.forms(inverse @ inverse),
        curved=quadratic.forms(inverse @ a @ inverse),
    )
    if distribution == "rademacher":
        excess, excess_length = (quadratic.forms(-2.0 * inverse**2 * k) for k in (np.diag(np.diag(a)), np.eye(D)))
        known = known._replace(excess=excess, excess_length=excess_length)
    elif distribution == "low_rank":  # excesses are forms: their matrices by polarisation
        found_x = [low_rank_form(metric, column) for column in (0, 1)]
        known = known._replace(excess=quadratic.forms(found_x[0]), excess_length=quadratic.forms(found_x[1]))
    draws = Draws.of(problem, metric, 20_000, torch.Generator().manual_seed(1))
    in_a = moments(problem, known, float(np.trace(inverse @ a)), draws)
    in_length = moments(problem, known, float(np.trace(inverse)), draws, length=True)
    expected = [known.square.signal, in_a.square(), in_length.square()]
    mean, error = found.mean(0), found.std(0) / np.sqrt(ROUNDS)
    slack = 0.03 if mu > 0.1 else 0.002  # where draws are in it
    for i in range(3):
        assert mean[i] == pytest.approx(expected[i], abs=4 * error[i] + slack * abs(expected[i]))
    assert (error[1:] < 0.04 * mean[1:]).all()


def low_rank_form(metric, column):
    """The matrix of an excess as a quadratic form of the gradient."""
    unit = torch.eye(D).double()

    def of(g):
        return metric.forms(g)[2 + column]

    ends = [of(u) for u in unit]
    pairs = [[0.5 * (of(u + v) - ends[i] - ends[j]) for j, v in enumerate(unit)] for i, u in enumerate(unit)]
    return np.array(pairs)


def test_without_noise_the_square_is_that_of_P_d_and_1():
    facts = Facts(num_directions=5)
    plain = Moments(facts, Form(2.0), Form(2.0), trace=30.0)
    assert plain.square() == pytest.approx(2.0 * (5 + 30 + 1) / 5)
    assert plain.square("client") == pytest.approx(plain.square())  # one client's own are the shared ones
    assert plain.greedy_lr() == pytest.approx(5 / 36)
    assert cosine(2.0, 2.0, plain.square()) == pytest.approx(np.sqrt(5 / 36))
    gradients = replace(plain, facts=Facts(num_directions=0))
    assert gradients.greedy_lr() == pytest.approx(1.0)  # along the gradient itself, A = I


@pytest.mark.parametrize("population", [4, 9])
@pytest.mark.parametrize(("sampling", "heterogeneity"), [(0.0, 0.0), (3.0, 0.0), (0.5, 2.0), (50.0, 10.0)])
def test_headroom_is_that_of_gaussian_scalars(population, sampling, heterogeneity):
    """Slots' gradients with these squares, in a few dimensions of their own, along many draws of P directions."""
    random = np.random.default_rng(1)
    facts = Facts(cohort=4, population=population, num_directions=3)
    form = Form(1.0, sampling, heterogeneity)
    quotient, logged = headroom(facts, form)
    of_mean = form.of_mean(facts)
    aligned, beside = 1.0 + of_mean, max(0.0, (form.noise - of_mean) / 3)
    basis = np.linalg.qr(np.c_[np.ones(4), random.standard_normal((4, 3))])[0]
    scale = np.sqrt(4 * np.array([aligned, beside, beside, beside]))
    s = (random.standard_normal((200_000, 3, 4)) * scale) @ basis.T
    ratio = 4 * (s.mean(2) ** 2).mean(1) / (s**2).mean((1, 2))
    assert logged == pytest.approx(ratio.mean(), abs=0.01)
    assert quotient == pytest.approx(4 * (s.mean(2) ** 2).mean() / (s**2).mean(), abs=0.02)
    if not form.noise:
        assert (quotient, logged) == (4.0, 4.0)


def test_headroom_of_one_client_and_of_clients_with_nothing_in_common():
    assert headroom(Facts(cohort=1), Form(1.0, 5.0)) == (1.0, 1.0)
    quotient, logged = headroom(Facts(cohort=6, population=6, num_directions=2), Form(1e-12, 5.0))
    assert (quotient, logged) == (pytest.approx(1.0), pytest.approx(1.0))


def test_several_local_steps_add_up():
    quadratic = Quadratic([1.0, 2.0, 4.0], noise=0.5, clients=2, heterogeneity=0.5)
    facts = Facts(2, 2, 2, 3)
    one = diagnose(Problem(quadratic.tensors, quadratic.clients(2), replace(facts, local_steps=1)), exact=True)
    three = diagnose(Problem(quadratic.tensors, quadratic.clients(2), facts), exact=True)
    assert three.whole["greedy_lr"] < one.whole["greedy_lr"]
    known = Moments(facts, quadratic.forms(np.eye(3)), quadratic.forms(quadratic.matrix), 7.0)
    g = quadratic.matrix @ np.ones(3)
    assert known.round_square() == pytest.approx(3 * known.square() + 6 * (g @ quadratic.matrix @ g))
