"""Puts displaced values where a forward pass reads a parameter, at the operation that reads it.

Inside ``torch.inference_mode`` every operator arrives at a dispatch mode whole (a linear layer as one ``aten.linear``),
with the parameters themselves as arguments, whoever calls it: a layer, attention that reads its children's weights, a
tied head, an adapter. So a displaced weight needs to exist only while one operator runs, and of a table that is looked
up only the rows that are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_BY_ROWS = (_aten.embedding.default, _aten.index.Tensor, _aten.index_select.default)


class Region(Protocol):
    """What happens where a network says that it reads parameters by rows."""

    def region(self) -> AbstractContextManager[Any]:
        """Acts while such a read is made."""


_current: list[Region] = []


def reads_rows() -> AbstractContextManager[Any]:
    """Marks where a network takes a few rows of a parameter.

    For example ``with reads_rows(): rows = weight[ids]``. While a displaced point is evaluated only those rows are
    displaced. It is a promise for what is read inside; elsewhere, and where no point is being evaluated, nothing
    changes.
    """
    return _current[-1].region() if _current else nullcontext()


class _EmbeddingMarks:
    """Hooks that mark the forward passes of embeddings, which read rows by nature."""

    def __init__(self) -> None:
        self._open: list[AbstractContextManager[Any]] = []

    def before(self, module: nn.Module, arguments: Any) -> None:
        context = reads_rows()
        context.__enter__()
        self._open.append(context)

    def after(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._open:
            self._open.pop().__exit__(None, None, None)

    def __deepcopy__(self, memo: Any) -> _EmbeddingMarks:
        return _EmbeddingMarks()


def mark_embeddings(network: nn.Module) -> None:
    """Makes every embedding of a network say that it reads rows; again is the same as once."""
    for module in network.modules():
        if isinstance(module, nn.Embedding) and module.max_norm is None and not hasattr(module, "_hiso_pl_marked"):
            marks = _EmbeddingMarks()
            module._hiso_pl_marked = True  # type: ignore[assignment]
            module.register_forward_pre_hook(marks.before)
            module.register_forward_hook(marks.after, always_call=True)


@contextmanager
def as_current(region: Region) -> Iterator[None]:
    """Inside the block the region acts where reads of rows are marked."""
    _current.append(region)
    try:
        yield
    finally:
        _current.remove(region)


def row_read(func: Any, args: Sequence[Any]) -> Tensor | None:
    """The row indices, if the operator takes rows of its first argument and of nothing else."""
    if func not in _BY_ROWS:
        return None
    if func is _aten.embedding.default:
        return args[1]
    if func is _aten.index_select.default:
        return args[2] if args[1] == 0 else None
    indices = args[1]
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.int64:
        return indices[0]
    return None


def leaves(args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """An operator's arguments, those in lists one by one."""
    for a in (*args, *(kwargs or {}).values()):
        if isinstance(a, (list, tuple)):
            yield from a
        else:
            yield a


def writes_to_a_weight(func: Any) -> str:
    """What is said of an operator that does."""
    return f"the forward pass writes to the weights that are trained, by {func}: only a round's update may move them"


Write = Callable[[int, Tensor, "Tensor | None"], None]
"""Writes displaced values: the parameter's position, where to, and which rows (None for the whole)."""


@contextmanager
def substituted(parameters: Sequence[Tensor], write: Write, device: torch.device | None = None) -> Iterator[None]:
    """Inside the block operators take written values in place of parameters, each in the type that it has now.

    Args:
        parameters: The parameters, by position.
        write: Where the values come from.
        device: Where operators run; where the parameters are if None.
    """
    with ExitStack() as stack:
        for dtype in sorted({p.dtype for p in parameters}, key=str):  # in the same order everywhere
            some = [i for i, p in enumerate(parameters) if p.dtype == dtype]
            written = partial(_write_some, write, some)
            stack.enter_context(Substitution([parameters[i] for i in some], written, dtype, True, device).active())
        yield


def _write_some(write: Write, some: Sequence[int], i: int, out: Tensor, rows: Tensor | None) -> None:
    write(some[i], out, rows)


class Substitution(TorchDispatchMode):
    """Replaces parameters by displaced values at the operators that take them.

    Args:
        parameters: The parameters, by position.
        write: Where the values come from.
        dtype: What they are stored in.
        everywhere: Whether every operator is watched while the point is evaluated, or those at marked places only.
        device: Where operators run; where the parameters are if None.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        write: Write,
        dtype: torch.dtype,
        everywhere: bool,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self._positions = {id(p): t for t, p in enumerate(parameters)}
        self._layouts = [torch.empty_like(p, dtype=dtype, device="meta", requires_grad=False) for p in parameters]
        self._device = device or parameters[0].device
        self._write = write
        self._dtype = dtype
        self._everywhere = everywhere
        self._pool: dict[int, Tensor] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Substitutes inside the block."""
        with as_current(self):
            if self._everywhere:
                with self:
                    yield
            else:
                yield

    def region(self) -> AbstractContextManager[Any]:
        """Substitutes at a marked place, where nothing does so yet."""
        return nullcontext() if self._everywhere else self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator on displaced values."""
        kwargs = kwargs or {}
        positions = self._positions
        first = positions.get(id(args[0])) if args else None
        if func is _aten.embedding_renorm_.default or (first is not None and func._schema.is_mutable):
            raise ValueError(writes_to_a_weight(func))
        if first is not None:
            rows = row_read(func, args)
            if rows is not None and rows.numel() < self._layouts[first].shape[0]:
                return self._by_rows(func, first, rows, args, kwargs)
        lent: list[Tensor] = []

        def displaced(value: Any) -> Any:
            position = positions.get(id(value))
            if position is None:
                return value
            lent.append(self._memory(len(lent), self._layouts[position].numel()))
            out = lent[-1].as_strided(self._layouts[position].shape, self._layouts[position].stride())
            self._write(position, out, None)
            return out

        args = tuple([displaced(a) for a in arg] if type(arg) is list else displaced(arg) for arg in args)
        kwargs = {name: displaced(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        if lent:
            self._keep(lent, result)
        return result

    def _memory(self, place: int, size: int) -> Tensor:
        """Flat memory for the operator's displaced argument number ``place``."""
        kept = self._pool.get(place)
        if kept is None or kept.numel() < size:
            kept = None
            self._pool.pop(place, None)  # what is too small goes before its successor comes
            with torch.inference_mode(False):  # a view of a parameter is to be one of an ordinary tensor
                kept = self._pool[place] = torch.empty(size, dtype=self._dtype, device=self._device)
        return kept

    def _keep(self, lent: list[Tensor], result: Any) -> None:
        """Memory serves the next operator as well, unless a result is a view of it."""
        taken = {r.untyped_storage().data_ptr() for r in leaves((result,)) if isinstance(r, Tensor)}
        for place, memory in enumerate(lent):
            if memory.untyped_storage().data_ptr() in taken:
                self._pool.pop(place, None)

    def _by_rows(self, func: Any, position: int, rows: Tensor, args: Any, kwargs: Any) -> Any:
        layout = self._layouts[position]
        count, flat = layout.shape[0], rows.reshape(-1).long()
        flat = torch.where(flat < 0, flat + count, flat) if func is _aten.index.Tensor else flat
        if flat.device.type == "cpu":
            chosen, places = flat.unique(return_inverse=True)
            if len(chosen) and not 0 <= int(chosen[0]) <= int(chosen[-1]) < count:
                raise IndexError(f"rows {int(chosen[0])} to {int(chosen[-1])} asked for of {count}")
        else:
            # to look for repeats, or at the indices, would be a synchronisation; each is a row of its own instead,
            # and an index out of range is out of range of these as well, for the operator to refuse
            chosen = flat.clamp(0, count - 1)
            places = torch.where(chosen == flat, torch.arange(len(flat), device=flat.device), len(flat))
        values = torch.empty(len(chosen), *layout.shape[1:], dtype=self._dtype, device=self._device)
        self._write(position, values, chosen)
        places = places.view(rows.shape)
        if func is _aten.embedding.default:
            return func(values, places)
        if func is _aten.index_select.default:
            return func(values, 0, places)
        return func(values, [places])
