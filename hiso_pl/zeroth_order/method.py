"""The method: one frozen description of all that the mathematics of a run depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hiso_pl.zeroth_order.aggregation import Aggregation, Mean
from hiso_pl.zeroth_order.attack import Attack
from hiso_pl.zeroth_order.interfaces import MethodBase
from hiso_pl.zeroth_order.kernels.base import Backend
from hiso_pl.zeroth_order.method_as_data import MethodAsData
from hiso_pl.zeroth_order.method_data import COUNTED, COUNTING, PARTS, values_of
from hiso_pl.zeroth_order.options import (
    DTYPES,
    ComputeDtype,
    check_choices,
    check_comparing,
    check_count,
    check_directions_per_forward,
    check_enough,
    check_local_lr,
    check_privacy,
    check_rank,
)
from hiso_pl.zeroth_order.philox import MAX_DIRECTIONS, MAX_LOCAL_STEPS
from hiso_pl.zeroth_order.plan import Difference, Directions
from hiso_pl.zeroth_order.points import Memory
from hiso_pl.zeroth_order.preconditioner import Diagonal, Preconditioner
from hiso_pl.zeroth_order.privacy import Privacy
from hiso_pl.zeroth_order.record import BITS_PER_SCALAR, Bits, RoundRecord
from hiso_pl.zeroth_order.schedule import Schedule
from hiso_pl.zeroth_order.streams import Distribution
from hiso_pl.zeroth_order.transform import Transform
from hiso_pl.zeroth_order.update_rule import Sgd, UpdateRule
from hiso_pl.zeroth_order.watching import check_compiled


@dataclass(frozen=True, init=False)
class Method(MethodAsData, MethodBase):
    """HiSo by default; with ``Identity`` for a preconditioner it is DeComFL.

    Args:
        lr: Learning rate eta. A torch scheduler may move it.
        mu: Size of the displacements.
        num_directions: Directions P probed in a local step.
        local_steps: Local steps tau of a client in a round.
        directions: ``shared``, the same P for the whole cohort, or ``client``, P of its own for each client of it.
        local_lr: Learning rate of a client's own moves between its local steps, which no scheduler moves; that of the
            round if null.
        difference: ``forward`` probes P + 1 points a local step, ``central`` 2 P.
        distribution: Elements of a direction are standard ``normal`` or ``rademacher`` signs; in ``low_rank`` ones a
            matrix (what has more dimensions counts as one) is a product of two thin ones of normal elements.
        rank: Rank of a direction of ``low_rank``, 1 to 8.
        preconditioner: How directions are preconditioned: Diagonal is HiSo, Identity DeComFL, Scalar and PerTensor are
            the controls, Block has small matrices.
        update_rule: What is done with the round's direction.
        privacy: How a client's scalars are bounded and noised before anything leaves it; not at all if null.
        transform: What a client does to its scalars, once they are private, before they leave it; nothing if null.
        attack: What hostile clients of a simulation send in their place; all are honest if null.
        aggregation: How the cohort's scalars are combined.
        mu_schedule: How mu follows the round; constant if null.
        num_directions_schedule: How P follows the round, rounded to an integer; constant if null.
        compute_dtype: What the forward passes of probes compute in, ``float32``, ``bfloat16`` or ``float16``;
            displaced weights are written in it, x and H stay fp32, and the loss must be computed from fp32 logits.
        directions_per_forward: Points evaluated in one forward pass, where a small part of a network is trained;
            ``auto`` decides by that part's size. Other numbers give the same scalars up to rounding.
        memory: ``fast`` keeps one more copy of the trainable parameters for displaced points; ``low`` displaces the
            weights of each operator while it runs, and does so again for every client. Both give the same bits.
        backend: Kernels: ``auto``, ``reference``, ``numba``, ``triton`` or ``torch``. All give the same bits.

    Raises:
        ValueError: If an option cannot be.
    """

    scalar_only = True
    lr: float
    mu: float
    num_directions: int
    local_steps: int
    directions: Directions
    local_lr: float | None
    difference: Difference
    distribution: Distribution
    rank: int
    preconditioner: Preconditioner
    update_rule: UpdateRule
    privacy: Privacy | None
    transform: Transform | None
    attack: Attack | None
    aggregation: Aggregation
    mu_schedule: Schedule | None
    num_directions_schedule: Schedule | None
    compute_dtype: ComputeDtype
    directions_per_forward: int | Literal["auto"]
    memory: Memory
    backend: Backend

    # written out, as LightningCLI shows the defaults that stand in a signature, options of parts included
    def __init__(
        self,
        lr: float = 1e-3,
        mu: float = 1e-3,
        num_directions: int = 5,
        local_steps: int = 1,
        directions: Directions = "shared",
        local_lr: float | None = None,
        difference: Difference = "forward",
        distribution: Distribution = "normal",
        rank: int = 1,
        preconditioner: Preconditioner = Diagonal(),  # noqa: B008 - parts hold nothing that changes
        update_rule: UpdateRule = Sgd(),  # noqa: B008
        privacy: Privacy | None = None,
        transform: Transform | None = None,
        attack: Attack | None = None,
        aggregation: Aggregation = Mean(),  # noqa: B008
        mu_schedule: Schedule | None = None,
        num_directions_schedule: Schedule | None = None,
        compute_dtype: ComputeDtype = "float32",
        directions_per_forward: int | Literal["auto"] = 1,
        memory: Memory = "fast",
        backend: Backend = "auto",
    ) -> None:
        given = locals()
        for field in fields(self):
            object.__setattr__(self, field.name, given[field.name])
        for name in ("lr", "local_lr"):
            if isinstance(given[name], Tensor):
                object.__setattr__(self, name, float(given[name]))
        self._check()

    def _check(self) -> None:
        if not (self.lr >= 0.0 and math.isfinite(self.lr)):
            raise ValueError(f"lr={self.lr} must be finite and not negative")
        if not (self.mu > 0.0 and math.isfinite(self.mu)):
            raise ValueError(f"mu={self.mu} must be finite and positive")
        check_count("num_directions", self.num_directions, MAX_DIRECTIONS)
        check_count("local_steps", self.local_steps, MAX_LOCAL_STEPS)
        check_choices(
            difference=self.difference,
            directions=self.directions,
            distribution=self.distribution,
            backend=self.backend,
            memory=self.memory,
            compute_dtype=self.compute_dtype,
        )
        check_rank(self.rank, self.distribution)
        check_directions_per_forward(self.directions_per_forward, self.memory)
        for name, (_, kind, required) in PARTS.items():
            part = getattr(self, name)
            if not isinstance(part, kind) and (required or part is not None):
                raise ValueError(f"{name}={part!r} must be a {kind.__name__}")
        check_comparing(self.directions, aggregation=self.aggregation, attack=self.attack)
        self.aggregation.check_transform(self.transform)
        check_privacy(self.privacy, self.aggregation, self.local_steps)
        check_local_lr(self.local_lr, self.local_steps, self.update_rule)
        if self.num_directions_schedule is None and self.directions == "shared":
            check_enough(self.num_directions, self.num_directions, self.update_rule)
        for name, part, taken in (
            ("distribution", "preconditioner", self.preconditioner.distributions),
            ("difference", "update_rule", self.update_rule.differences),
        ):
            if taken is not None and getattr(self, name) not in taken:
                wanted = f"must be {' or '.join(taken)} with {part}={getattr(self, part)!r}"
                raise ValueError(f"{name}={getattr(self, name)!r} {wanted}")

    def check_network(self, network: nn.Module) -> None:
        """See :class:`MethodBase`."""
        check_compiled(network, self.memory, self.directions_per_forward)
        if self.per_example and not callable(getattr(network, "example_losses", None)):
            what = f"network={type(network).__name__}"
            raise ValueError(
                f"privacy={self.privacy!r} needs the loss of each example: {what} has no example_losses(batch) -> [B]"
            )

    @property
    def dtype(self) -> torch.dtype:
        """What forward passes compute in."""
        return DTYPES[self.compute_dtype]

    @property
    def lean(self) -> bool:
        """Whether no whole copy of the weights is to be made."""
        return self.memory == "low"

    @property
    def withholds_losses(self) -> bool:
        """Whether clients' losses stay with them."""
        return self.private or (self.transform is not None and self.transform.withholds_losses)

    @property
    def private(self) -> bool:
        """See :class:`MethodBase`."""
        return self.privacy is not None

    @property
    def per_example(self) -> bool:
        """See :class:`MethodBase`."""
        return self.privacy is not None and self.privacy.level == "example"

    def mu_at(self, round: int) -> float:
        """The size of the displacements in a round.

        Raises:
            ValueError: If the schedule gives none that can be.
        """
        mu = self.mu if self.mu_schedule is None else self.mu_schedule.at(self.mu, round, "mu_schedule")
        if not (mu > 0.0 and math.isfinite(mu)):
            raise ValueError(f"mu={mu} in round {round} must be finite and positive: see mu_schedule")
        return mu

    def num_directions_at(self, round: int) -> int:
        """The number of directions P in a round.

        Raises:
            ValueError: If the schedule gives none that can be.
        """
        schedule = self.num_directions_schedule
        if schedule is None:
            return self.num_directions
        count = math.floor(schedule.at(self.num_directions, round, "num_directions_schedule") + 0.5)
        check_count(f"num_directions in round {round}", count, MAX_DIRECTIONS)
        return count

    def check_rounds(self, cohort: int, rounds: range) -> None:
        """See :class:`MethodBase`."""
        if self.privacy is not None:
            self.privacy.check_ready()
        if (least := self.aggregation.least_present(cohort)) > cohort:
            raise ValueError(f"aggregation={self.aggregation!r} needs {least} slots, a cohort of {cohort} has too few")
        if self.mu_schedule is not None:
            for round in rounds:
                self.mu_at(round)
        for round in rounds[:1] if self.num_directions_schedule is None else rounds:
            count = self.num_directions_at(round)
            check_enough(count, self.drawn(cohort, count), self.update_rule, round)
            if (together := self.drawn(cohort, count)) >= MAX_DIRECTIONS:
                raise ValueError(
                    f"num_directions={count} in round {round} and directions={self.directions!r} make {together} "
                    f"of a cohort of {cohort}, must be below {MAX_DIRECTIONS} together: take fewer, or a smaller cohort"
                )

    def drawn(self, cohort: int, num_directions: int) -> int:
        """Directions that a local step of a cohort draws in all, and its record has: P, or m P if clients' own."""
        return num_directions * (cohort if self.directions == "client" else 1)

    def bits(self, cohort: int, num_directions: int) -> Bits:
        """What a round costs a client of a cohort of so many, with so many directions P of a client."""
        scalars, transform = self.local_steps * num_directions, self.transform
        up = BITS_PER_SCALAR * scalars if transform is None else transform.sent_bits(scalars)
        if self.directions == "client":
            return Bits(up, cohort * up)
        return Bits(up, scalars * self.aggregation.received_bits(transform, cohort))

    def passes_at(self, round: int) -> int:
        """See :class:`MethodBase`."""
        count = self.num_directions_at(round)
        return count + 1 if self.difference == "forward" else 2 * count

    def bits_at(self, round: int, cohort: int, parameters: int) -> Bits:
        """See :class:`MethodBase`."""
        return self.bits(cohort, self.num_directions_at(round))

    @classmethod
    def bits_of(cls, data: Mapping[str, Any], record: RoundRecord, mine: Method | None = None) -> Bits:
        """What a recorded round cost a client, by the data of its method.

        Raises:
            ValueError: If a part counts that is another's, and ``mine`` does not have it.
        """
        names = (*COUNTED, "transform", "aggregation") if data.get(COUNTING) else COUNTED
        counted = cls(**values_of(data, names, mine))
        return counted.bits(record.cohort, record.scalars.shape[1] // counted.drawn(record.cohort, 1))

    def over(self, rounds: int) -> Method:
        """See :class:`MethodBase`."""
        schedules = {name: getattr(self, name) for name, (kind, *_) in PARTS.items() if kind == "schedule"}
        return replace(self, **{name: schedule and schedule.over(rounds) for name, schedule in schedules.items()})
