"""Watches one forward pass: how it reads the trained weights, and what it writes to beside its own results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hiso_pl.zeroth_order.points import Memory
from hiso_pl.zeroth_order.substitution import as_current, leaves, mark_embeddings, row_read, writes_to_a_weight

T = TypeVar("T")

_STATISTICS = (
    "running_mean",
    "running_var",
)  # a batch norm moves them in training mode, and its schema does not say so


class Watch(TorchDispatchMode):
    """Records what the operators of one forward pass take.

    Attributes:
        whole: Positions of the parameters that an operator took whole.
        rows: Positions of those of which an operator took rows, at a place that is marked for it.
        written: What was there before the forward pass and is written to: what is said of it, and the tensor.
        random: Operators that may draw random numbers.
        place: Where the forward pass is, for somebody else to say.
        places: Where it took each parameter, by position.

    Args:
        parameters: The trainable parameters, in tensor order.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.place = 0
        self.places: dict[int, set[int]] = {}
        self._parameters = parameters
        self._positions = {id(p): t for t, p in enumerate(parameters)}
        self._weights: set[int] = set()
        self._made: set[int] = set()
        self._depth = 0
        self.whole: set[int] = set()
        self.rows: set[int] = set()
        self.written: dict[int, tuple[str, Tensor]] = {}
        self.random: set[str] = set()

    @property
    def unseen(self) -> set[int]:
        """Positions of the parameters that no operator took."""
        return set(range(len(self._parameters))) - self.whole - self.rows

    @contextmanager
    def region(self) -> Iterator[None]:
        """Reads in here are marked."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def of(self, evaluate: Callable[[], T], network: nn.Module | None = None) -> T:
        """Runs a forward pass under watch.

        Args:
            evaluate: Runs it.
            network: Whose embeddings are marked as reading rows, if known.

        Raises:
            ValueError: If it writes to a parameter, before it does.
        """
        if network is not None:
            mark_embeddings(network)
        self._weights = {_place(p) for p in self._parameters} - {0}
        with torch.inference_mode(), as_current(self), self:
            return evaluate()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes the parameters among the arguments, and what is written to."""
        found = [self._positions[id(a)] for a in leaves(args, kwargs) if id(a) in self._positions]
        if found:
            by_rows = self._depth > 0 and len(found) == 1 and row_read(func, args) is not None
            (self.rows if by_rows else self.whole).update(found)
            for position in found:
                self.places.setdefault(position, set()).add(self.place)
        for target in _targets(func, args, kwargs or {}):
            place = _place(target)
            if place in self._weights:
                raise ValueError(writes_to_a_weight(func))
            if place and place not in self._made:
                what = f"a tensor of shape {tuple(target.shape)} by {func}"
                self.written.setdefault(id(target), (what, target))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random.add(str(func))
        result = func(*args, **(kwargs or {}))
        taken = {_place(a) for a in leaves(args, kwargs) if isinstance(a, Tensor)}
        self._made.update({_place(r) for r in leaves((result,)) if isinstance(r, Tensor)} - taken)
        return result


def _place(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # sparse, or a wrapper
        return 0


def _targets(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operator writes to, or may."""
    for i, argument in enumerate(func._schema.arguments):
        alias = argument.alias_info
        if (alias is not None and alias.is_write) or argument.name in _STATISTICS:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            yield from (t for t in leaves((value,)) if isinstance(t, Tensor))


class _Uncompiled:
    """Has compiled code run as it was written while any thread is inside: torch has one stance for all of them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._stance: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._stance is None and "torch._dynamo" in sys.modules:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None


_UNCOMPILED = _Uncompiled()


def uncompiled() -> AbstractContextManager[None]:
    """Inside the block compiled code runs as it was written: what first runs under a mode is never compiled again."""
    return _UNCOMPILED


def is_compiled(network: nn.Module) -> bool:
    """Whether operators run where no dispatch mode sees them."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in network.modules()
    )


def check_compiled(network: nn.Module, memory: Memory, directions_per_forward: int | str) -> None:
    """Refuses what a compiled network cannot do.

    Raises:
        ValueError: If its operators would have to be seen, or its forward pass mapped over parameters.
    """
    if not is_compiled(network):
        return
    if memory == "low":
        raise ValueError(
            "memory='low' must be 'fast' with a compiled network, whose operators nobody sees, or compile=False"
        )
    if directions_per_forward != 1:
        raise ValueError(
            f"directions_per_forward={directions_per_forward} must be 1 with a compiled network, or compile=False: "
            "what is mapped over parameters does not run compiled"
        )
