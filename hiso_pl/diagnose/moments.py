r"""What theory makes of a gradient, its noise and a Hessian: squares of D, the greedy rate, cosine and headroom.

In the coordinates :math:`B^{-1} x` (:mod:`.estimate`) D has the form :math:`\frac1P \sum_p s_p u_p`, with scalars
:math:`s_p = u_p \cdot a + \frac\mu2 u_p^T A u_p`, a the cohort's mean gradient. For u normal and any K, C

.. math::

    E[(u \cdot a)^2\, u^T K u] &= |a|^2 \operatorname{tr} K + 2 a^T K a \\
    E[(u^T C u)^2\, u^T K u] &= (\operatorname{tr}^2 C + 2 \operatorname{tr} C^2) \operatorname{tr} K
        + 4 \operatorname{tr} C \operatorname{tr} CK + 8 \operatorname{tr} C^2 K =: M_3

and mixed terms vanish, being odd. Different directions are independent, :math:`E[s_p u_p] = a`; so with shared
directions, a slot's gradient being g + e with :math:`\operatorname{Cov} e = \Sigma` and the mean's covariance
:math:`\bar\Sigma`,

.. math::
    E[D^T K D] = \frac1P \Big[(G + \operatorname{tr} \bar\Sigma) \operatorname{tr} K
        + (P + 1)(g^T K g + \operatorname{tr} K \bar\Sigma) + \tfrac{\mu^2}4 M_3 \Big]

and with m clients' own, whose pairs of different directions have the mean's moments and equal ones a slot's,

.. math::
    E[D^T K D] = g^T K g + \operatorname{tr} K \bar\Sigma + \frac1{mP} \Big[(G + \operatorname{tr} \Sigma)
        \operatorname{tr} K + g^T K g + \operatorname{tr} K \Sigma + \tfrac{\mu^2}4 M_3 \Big]

With K = A = I and no noise the first is :math:`G (P + d + 1) / P`. Other distributions of the same covariance add the
excess :math:`X = E[(u \cdot a)^2 u^T K u] - |a|^2 \operatorname{tr} K - 2 a^T K a` in place of normal's 0, once for
every direction: for signs :math:`-2 \sum_i a_i^2 K_{ii}`, of low rank see
:mod:`.low_rank`. A central difference has no :math:`\mu` term on a quadratic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from hiso_pl.diagnose.problem import Facts


class Form(NamedTuple):
    """A quadratic form of the gradient, of a slot's sampling noise, and of how clients differ; expectations.

    Attributes:
        signal: Of the whole gradient.
        sampling: Of a minibatch's gradient around its client's.
        heterogeneity: Of a client's gradient around the whole's.
    """

    signal: float = 0.0
    sampling: float = 0.0
    heterogeneity: float = 0.0

    @property
    def noise(self) -> float:
        """Of a slot's minibatch gradient around the whole gradient."""
        return self.sampling + self.heterogeneity

    def of_mean(self, facts: Facts, unevenness: float = 1.0) -> float:
        """Of the cohort's mean around the whole gradient.

        Slots draw minibatches independently, and clients without replacement: all of them together do not differ from
        the whole.

        Args:
            facts: Cohort and population.
            unevenness: N times the sum of squares of the N clients' weights, 1 where they count alike.
        """
        m, population = facts.cohort, facts.population
        left = (population - m) / (population - 1) if population > 1 else 0.0
        return (self.sampling + self.heterogeneity * left) * unevenness / m


NOTHING = Form()


@dataclass(frozen=True)
class Moments:
    """What the square of D in some K is made of, all in the coordinates of the method's H.

    Attributes:
        facts: What a round does.
        gradient: Squares.
        curved: Forms in K.
        trace: tr K.
        excess: X of a gradient, and of noises.
        third: M_3.
        unevenness: Of the clients' weights.
    """

    facts: Facts
    gradient: Form
    curved: Form
    trace: float
    excess: Form = NOTHING
    third: float = 0.0
    unevenness: float = 1.0

    def square(self, directions: str | None = None) -> float:
        """E[D^T K D] of one local step.

        Args:
            directions: ``shared`` or ``client``; the method's own if None.
        """
        facts, directions = self.facts, directions or self.facts.directions
        if not facts.num_directions:  # D is the cohort's gradient itself
            return self._along(self.curved)
        means = [self._along(form) for form in self._forms]
        bias = 0.25 * facts.mu**2 * self.third if facts.difference == "forward" else 0.0
        if directions == "shared":
            plain, curved, excess = means
            return (plain * self.trace + (facts.num_directions + 1) * curved + excess + bias) / facts.num_directions
        plain, own, excess = (form.signal + form.noise for form in self._forms)
        drawn = facts.cohort * facts.num_directions
        return means[1] + (plain * self.trace + own + excess + bias) / drawn

    @property
    def _forms(self) -> tuple[Form, Form, Form]:
        return self.gradient, self.curved, self.excess

    def _along(self, form: Form) -> float:
        """A form of the cohort's mean gradient, its noise included."""
        return form.signal + form.of_mean(self.facts, self.unevenness)

    def round_square(self, directions: str | None = None) -> float:
        r"""The square in K of the sum of D over a round's local steps.

        Steps have directions and minibatches of their own, and the cohort's clients in common, which differ from the
        whole by h on average: :math:`\tau E[D^T K D] + \tau (\tau - 1) (g^T K g + h^T K h)`. That steps are taken at
        points of their own is left out.
        """
        steps = self.facts.local_steps
        return steps * (self.square(directions) + (steps - 1) * self._along(self.curved._replace(sampling=0.0)))

    def greedy_lr(self, directions: str | None = None) -> float:
        r"""The rate at which a round gains the most, where K is the Hessian; NaN if there is none.

        .. math:: E[F(x - \eta S)] - F = -\eta \tau G + \tfrac{\eta^2}2 E[S^T A S], \qquad S = \textstyle\sum_k D_k

        Without curved terms and mu, and with one local step, it is :math:`P G / ((G + V/m) \operatorname{tr} A)`.
        """
        gained, square = self.facts.local_steps * self.gradient.signal, self.round_square(directions)
        return gained / square if gained > 0 and square > 0 else math.nan

    def greedy_gain(self, directions: str | None = None) -> float:
        """How much lower the loss is expected after a round at the greedy rate; NaN if there is none."""
        return 0.5 * self.facts.local_steps * self.gradient.signal * self.greedy_lr(directions)

    def lr_without_noise_terms(self) -> float:
        """The rule of thumb P G / ((G + V/m) tr), or of own directions m P G / ((G + V) tr)."""
        facts, form = self.facts, self.gradient
        if facts.directions == "shared":
            square = self._along(form) / facts.num_directions
        else:
            square = (form.signal + form.noise) / (facts.cohort * facts.num_directions)
        return form.signal / (square * self.trace) if form.signal > 0 and square * self.trace > 0 else math.nan


def headroom(facts: Facts, gradient: Form, bias_sq: float = 0.0, unevenness: float = 1.0) -> tuple[float, float]:
    r"""What own directions gain over shared ones, as rounds with shared ones show it.

    A direction's scalars of the m slots are :math:`s \sim N(0, K)`, K the Gram matrix of the slots' gradients:
    K = a on the vector of ones (normed) and b beside it, with

    .. math::
        a = m (G + \bar V + \beta), \qquad b = m (V - \bar V) / (m - 1), \qquad
        \beta = E[(\tfrac\mu2 u^T A u)^2]

    :math:`\bar V` the cohort mean's noise (V_sampling / m, and of heterogeneity what the sampling of clients leaves).
    The quotient of expectations is :math:`m (G + \bar V + \beta) / (G + V + \beta)`. What is logged is the expectation
    of a quotient over P directions, :math:`E[m a X / (a X + b Y)]`, X and Y chi-squared of P and (m - 1) P degrees:
    with :math:`\rho = b / a`, X / (X + Y) being Beta-distributed,

    .. math:: \frac1\rho\; {}_2F_1\big(1, \tfrac P2 + 1; \tfrac{mP}2 + 1; 1 - \tfrac1\rho\big)

    that is m at :math:`\rho = 0`, and 1 at :math:`\rho = 1`.

    Args:
        facts: m, M and P.
        gradient: Squares, in the coordinates of the method's H.
        bias_sq: beta; 0 with central differences.
        unevenness: Of the clients' weights.

    Returns:
        The quotient of expectations, and what ``scalar/headroom`` is expected to be in a round.
    """
    from scipy.special import hyp2f1

    m, half = facts.cohort, 0.5 * facts.num_directions
    noise, of_mean = max(gradient.noise, 0.0), max(gradient.of_mean(facts, unevenness), 0.0)
    aligned, whole = max(gradient.signal, 0.0) + of_mean + bias_sq, max(gradient.signal, 0.0) + noise + bias_sq
    if m == 1 or whole <= 0.0:
        return 1.0, 1.0
    rho = max(0.0, (noise - of_mean) / (m - 1)) / aligned
    logged = float(m) if rho < 1e-12 else float(hyp2f1(1.0, half + 1.0, m * half + 1.0, 1.0 - 1.0 / rho)) / rho
    return m * aligned / whole, logged


def cosine(gradient_sq: float, inverse_sq: float, length_sq: float) -> float:
    r"""The cosine between D and the gradient to expect: :math:`E[D \cdot g] / \sqrt{G\, E|D|^2}`.

    Without H and noise, in d dimensions, :math:`\sqrt{P / (P + d + 1)}`.

    Args:
        gradient_sq: G.
        inverse_sq: The gradient's square in the coordinates of H, which is E[D . g].
        length_sq: E|D|^2, the square of D in K = B^T B.
    """
    scale = gradient_sq * length_sq
    return inverse_sq / math.sqrt(scale) if scale > 0 else math.nan
