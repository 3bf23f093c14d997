"""What a round moves: x, H and a rule's state, and how they are saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hiso_pl.zeroth_order import transform_state
from hiso_pl.zeroth_order.digest import StateTensor, in_order
from hiso_pl.zeroth_order.frozen import Freezer, Frozen
from hiso_pl.zeroth_order.held import Held
from hiso_pl.zeroth_order.kernels import Kernels, select
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.options import check_initial, check_owners
from hiso_pl.zeroth_order.record import RoundRecord
from hiso_pl.zeroth_order.saved_state import check_group, check_record, check_tensors
from hiso_pl.zeroth_order.streams import Site, check_matrix
from hiso_pl.zeroth_order.tensors import Target
from hiso_pl.zeroth_order.trained import Trained
from hiso_pl.zeroth_order.transform import State
from hiso_pl.zeroth_order.update_rule import UpdateRule
from hiso_pl.zeroth_order.workplace import Workplace


class RoundState(Trained):
    """x, H and a rule's state, with the round that comes next.

    Args:
        params: Parameters or (name, parameter) pairs, fp32, in the order that fixes their streams.
        method: What a round computes.
        seed: The 64-bit seed of the directions.
        keep: Where tensors of the state live: given one it gives another of the same values; as they are made if None.
        held: What of the tensors is here, where several processes hold them together; all if None.

    Attributes:
        record: The last record applied.
        held: As given.

    Raises:
        ValueError: If a parameter is not fp32, there is more than one group of them, or the method cannot be had of
            tensors that are held together.
    """

    def __init__(
        self,
        params: Iterable[Any],
        method: Method,
        seed: int,
        keep: Callable[[Tensor], Tensor] | None = None,
        held: Held | None = None,
        place: Workplace | None = None,
    ) -> None:
        self.method = method
        self._keep = keep
        self.held = held
        if place is not None and method.preconditioner.structured:
            raise ValueError(
                f"preconditioner={method.preconditioner!r} must divide elementwise where stages are brought from host "
                "memory to a device"
            )
        self._place = place
        super().__init__(params, method.lr, seed, distribution=method.distribution, rank=method.rank)
        self.record: RoundRecord | None = None
        self._selected: Kernels | None = None
        self._freezer = Freezer(method.preconditioner)
        if method.distribution == "low_rank":
            for name, parameter in zip(self.names, self.parameters, strict=True):
                if parameter.dim() > 1:
                    check_matrix(parameter.shape, name)
        self._create_state()

    @property
    def hessians(self) -> list[Tensor | None]:
        """H for each tensor; the same tensor where several share one."""
        self.complete()
        return self._hessians

    @property
    def _hessians(self) -> list[Tensor | None]:
        parameters, state = self.parameters, self.state
        return [state[parameters[owner]].get("hessian") for owner in self._owners]

    @property
    def stored_hessians(self) -> list[Tensor]:
        """H where stored, each once, in tensor order."""
        return [state.value for state in self.tensors() if state.kind == "hessian"]

    def shown_hessians(self) -> list[StateTensor]:
        """What curves show of H where stored."""
        self.complete()
        shown = self.method.preconditioner.shown
        rows = zip(self.parameters, self._targets(), strict=True)
        here = set(self._here)
        kept = [(at, self.state[p]["hessian"]) for p, at in rows if at.position in here and "hessian" in self.state[p]]
        return [StateTensor(target.name, "hessian", shown(value, target)) for target, value in kept]

    def _frozen(self) -> Frozen:
        return self._freezer(self._hessians, self._targets, self._kernels(), self.held)

    @property
    def _here(self) -> list[int]:
        """Positions of the tensors whose values are here."""
        return list(range(len(self.parameters))) if self.held is None else sorted(self.held.own)

    def _rule_state(self, parameter: Tensor) -> dict[str, Tensor]:
        kept = self.state[parameter].items()
        return {
            kind: value for kind, value in kept if kind != "hessian" and not kind.startswith(transform_state.PREFIX)
        }

    @property
    def transform_state(self) -> State:
        """What a transform keeps, by name, copied."""
        return transform_state.told(self.state[self.parameters[0]])

    def _targets(self) -> list[Target]:
        pairs, round, applied = zip(self.names, self.parameters, strict=True), self.round, self._group["applied"]
        return [Target(t, name, tuple(p.shape), round, applied) for t, (name, p) in enumerate(pairs)]

    def tensors(self) -> list[StateTensor]:
        """x, H and the rule's state of tensors here, each once, in the order that digests and checksums have."""
        self.complete()
        return self._tensors(self._here)

    def _tensors(self, positions: Sequence[int]) -> list[StateTensor]:
        names, parameters = self.names, [self.parameters[t] for t in positions]
        return in_order([names[t] for t in positions], parameters, [self.state[p] for p in parameters])

    def _create_state(self) -> None:
        preconditioner, targets = self.method.preconditioner, self._targets()
        self._owners = list(preconditioner.owners(targets))
        check_owners(self._owners, len(targets), f"preconditioner={preconditioner!r}")
        here, rule = set(self._here), self.method.update_rule
        for t, (parameter, target) in enumerate(zip(self.parameters, targets, strict=True)):
            # numbers that stand for a whole tensor or more are everywhere: records and sums move them everywhere alike
            kept = self._owners[t] == t and (t in here or preconditioner.uses_squares)
            hessian = preconditioner.initial(parameter, target) if kept else None
            if hessian is not None:
                what = f"preconditioner={preconditioner!r}"
                check_initial({"": hessian}, parameter, target.name, what, preconditioner.structured)
                self._store(parameter, {"hessian": hessian})
            kept = t in here or (t == 0 and type(rule).rate is not UpdateRule.rate)
            rule_state = rule.initial(parameter, target) if kept else {}
            check_initial(rule_state, parameter, target.name, f"update_rule={rule!r}", True)
            if any(kind in ("x", "hessian") or kind.startswith(transform_state.PREFIX) for kind in rule_state):
                raise ValueError(f"update_rule={rule!r} must not call its state x or hessian")
            self._store(parameter, rule_state)
        if self._owners != list(range(len(targets))) and not preconditioner.uses_squares:
            raise ValueError(f"preconditioner={preconditioner!r} shares an H between tensors: it must use squares")
        first = self.parameters[0]
        self.state[first].update(transform_state.create(self.method.transform, first, self.names[0]))

    def _store(self, parameter: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Keeps tensors beside a parameter, where they are to live."""
        keep = self._keep or (lambda tensor: tensor)
        self.state[parameter].update({kind: keep(tensor) for kind, tensor in tensors.items()})

    def _sites(self, round: int) -> list[Site]:
        method, seed = self.method, self._group["seed"]
        shapes = enumerate(p.shape for p in self.parameters)
        return [Site.of(seed, method.distribution, method.rank, t, shape, round) for t, shape in shapes]

    def _kernels(self) -> Kernels:
        if self._selected is None:
            devices = {self.parameters[t].device for t in self._here} if self._place is None else {self._place.device}
            if len(devices) != 1:
                raise ValueError(f"parameters are on {sorted(map(str, devices))}; all must be on one device")
            self._selected = select(self.method.backend, devices.pop())
        return self._selected

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The state after the last round.

        Raises:
            RuntimeError: If an update was broken off.
        """
        self.complete()
        self._check_intact()
        state = super().state_dict()
        # what a transform is told of must be known to a resumed run as well
        state["param_groups"][0]["record"] = None if self.record is None else self.record.as_data()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores H, the rule's state, the round, its record and the learning rate; the options stay as configured.

        Raises:
            ValueError: If the state is of another model, seed, distribution or rank, or holds what cannot be.
        """
        group = check_group(state_dict.get("param_groups"), self._group)
        record = check_record(state_dict["param_groups"][0].get("record"), group["round"])
        count, states = len(self.parameters), state_dict.get("state")
        if not isinstance(states, Mapping) or not set(states) <= set(range(count)):
            raise ValueError(f"state of a saved state must be of tensors 0 to {count - 1}")
        here = set(self._here)
        for i, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            found, kept = states.get(i, {}), self.state[parameter]
            if i not in here and isinstance(found, Mapping):
                found = {kind: value for kind, value in found.items() if kind in kept}
                states = {**states, i: found}
            check_tensors(name, found, kept, not self.method.preconditioner.structured)
        super().load_state_dict({"state": states, "param_groups": [{**group, "params": list(range(count))}]})
        for parameter in self.parameters if self._keep is not None else []:
            self._store(parameter, dict(self.state[parameter]))
        self._freezer.moved()
        self._intact = False  # H alone says whether it can be divided by
        try:
            self._frozen()
        except ValueError as error:
            raise ValueError(f"state of {error}") from error
        self.record = record
        self._intact = True
