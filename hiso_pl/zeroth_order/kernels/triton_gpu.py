"""The fast GPU backend, on Triton: one pass over memory a call, every direction drawn in registers.

A launch costs the host as much time as a GPU needs for millions of elements, so one goes over all tensors of a call.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from hiso_pl.zeroth_order.kernels import triton_functions as functions
from hiso_pl.zeroth_order.kernels.base import LEAF, Decay, Kernels, Offset, tree_sum
from hiso_pl.zeroth_order.philox import Purpose, last_word
from hiso_pl.zeroth_order.streams import Site

INTERPRETED = not isinstance(functions.update, triton.JITFunction)
"""Whether Triton interprets: TRITON_INTERPRET=1 was set when it was imported, as tests without a GPU do."""

NORMAL_BLOCK, NORMAL_WARPS = 1024, 4
RADEMACHER_BLOCK, RADEMACHER_WARPS = 4096, 8
"""Elements and warps of a program; blocks are multiples of 1024. A Philox call makes 128 signs but 4 normals: the
more signs a program draws, the fewer threads repeat a call."""

FACTOR_BLOCK = 128
"""Rows or columns whose factors a program draws, one a thread."""
MOST_FACTORS = 1 << 26
"""Numbers of factors that a pass keeps, 256 MiB, where tensors can be taken in several passes."""

_UNIT = 128  # sizes are passed in units of 128 elements where they are a multiple
_OCTET = 8  # the same for all tensors of a table: as many as a thread moves at a time, or twice as many
_ALIGNMENT = 16  # bytes
_MAX_PROGRAMS = 2**31 - 1
_NEVER = 2**62
_LAYOUTS = 32  # kept: one for the update, and one for each point that a forward pass takes

_STEPS = {"last": functions.LAST.value, "first": functions.FIRST.value, "all": functions.ALL.value}
_FORMATS = {
    torch.float32: functions.FP32.value,
    torch.bfloat16: functions.BF16.value,
    torch.float16: functions.FP16.value,
}


class _Argument:
    """A tensor whose elements lie in logical order; one that is not contiguous goes through a copy."""

    def __init__(self, tensor: Tensor, *, read: bool = True) -> None:
        self._tensor = tensor.detach()
        self.tensor = self._tensor
        if not self.tensor.is_contiguous():
            self.tensor = (
                self.tensor.contiguous()
                if read
                else torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            )

    def write_back(self) -> None:
        if self.tensor is not self._tensor:
            self._tensor.copy_(self.tensor)


def _output(tensor: Tensor) -> tuple[_Argument, Tensor, int]:
    """The argument of a tensor to write, what a kernel takes for it, and its format."""
    argument = _Argument(tensor, read=False)
    form = _FORMATS[tensor.dtype]
    return argument, argument.tensor if tensor.dtype == torch.float32 else argument.tensor.view(torch.int16), form


class _Draws(NamedTuple):
    """How a launch draws: what the compiler is told of it.

    Attributes:
        normal: Whether elements are normal, not signs.
        rank: Rank of directions of low rank, 0 for others.
    """

    normal: bool
    rank: int

    @classmethod
    def of(cls, site: Site) -> _Draws:
        return cls(site.distribution != "rademacher", site.rank if site.columns else 0)

    @property
    def block(self) -> int:
        return NORMAL_BLOCK if self.normal else RADEMACHER_BLOCK

    @property
    def constants(self) -> dict[str, Any]:
        warps = NORMAL_WARPS if self.normal else RADEMACHER_WARPS
        return {"NORMAL": self.normal, "RANK": self.rank, "BLOCK": self.block, "num_warps": warps}


def _stream(site: Site) -> dict[str, int]:
    return {"rnd": site.round, "key0": site.seed & 0xFFFFFFFF, "key1": site.seed >> 32}


class _Lines(NamedTuple):
    """Where the factors of tensors lie among those of a direction.

    Attributes:
        table: See :func:`.triton_functions.draw_factors`.
        blocks: Blocks of factors, of a direction.
        places: Columns, and where U and V begin, of each tensor; shape ``[tensors, 3]``.
    """

    table: Tensor
    blocks: int
    places: NDArray[np.int64]

    @classmethod
    def of(cls, sites: Sequence[Site], sizes: Sequence[int], device: torch.device) -> _Lines:
        table = np.zeros((3, 2 << (len(sites) - 1).bit_length()), dtype=np.int64)
        table[0] = _NEVER
        places, blocks = [], 0
        for t, (site, size) in enumerate(zip(sites, sizes, strict=True)):
            begins = []
            counts = -(-size // site.columns), site.columns
            for i, (purpose, count) in enumerate(zip((Purpose.ROWS, Purpose.COLUMNS), counts, strict=True)):
                table[:, 2 * t + i] = blocks, site.tensor, last_word(purpose)
                begins.append(blocks * FACTOR_BLOCK)
                blocks += triton.cdiv(count, FACTOR_BLOCK)
            places.append((site.columns, *begins))
        return cls(_uploaded(table, device), blocks, np.array(places, dtype=np.int64))


def _fp32(value: float) -> float:
    """Rounds a Python float to fp32 once; a launch then takes it as it is."""
    return float(np.float32(value))


def _units(size: int) -> tuple[int, int]:
    """A size in units, and the unit."""
    unit = _UNIT if size % _UNIT == 0 else 1
    return size // unit, unit


class _Layout(NamedTuple):
    """Where the tensors of a call lie, and how they are shared out.

    Attributes:
        table: See :mod:`.triton_functions`.
        kind: The kind of H.
        launches: For each launch the first block, the number of blocks, and the unit of the tensors' sizes.
        first_blocks: Each tensor's first block, in the order of the call.
        lines: Where factors lie, of directions of low rank.
    """

    table: Tensor
    kind: int
    launches: list[tuple[int, int, int]]
    first_blocks: list[int]
    lines: _Lines | None


class TritonKernels(Kernels):
    """See :class:`~hiso_pl.zeroth_order.kernels.Kernels`. Runs on the GPU of its tensors, on the current stream."""

    def __init__(self) -> None:
        self._weights: tuple[Any, Tensor] | None = None
        self._layouts: dict[Any, _Layout] = {}

    def _guard(self, device: torch.device) -> AbstractContextManager[Any]:
        """Makes the device of the tensors the current one, which is where Triton launches.

        Raises:
            ValueError: If Triton does not run there.
        """
        if device.type == "cuda":
            return torch.cuda.device(device)
        if not INTERPRETED:
            raise ValueError(f"backend='triton' runs on GPUs only, but the parameters are on {device}: use 'auto'")
        return contextlib.nullcontext()

    def _launch(self, kernel: Any, programs: int, **arguments: Any) -> None:
        """Launches a kernel; what the compiler must be told beyond its arguments stands here and nowhere else."""
        kernel[(programs,)](**arguments, enable_fp_fusion=False)

    def _factors(self, site: Site, lines: _Lines | None, words: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
        """Draws U and V of all directions of a launch, and gives its arguments that tell of them.

        Args:
            site: The site of one of its tensors.
            lines: Where factors lie; None where there are none.
            words: Of directions in their order: the first one's counter word, local steps, and directions of a step.
        """
        if lines is None:
            return {"factors": None, "total": 0, "scale": 0.0}
        total, number = lines.blocks * FACTOR_BLOCK, sum(steps * directions for _, steps, directions in words)
        # elements beyond the last row read beyond the last factor
        size = number * site.rank * total + max(NORMAL_BLOCK, RADEMACHER_BLOCK)
        factors = torch.empty(size, dtype=torch.float32, device=lines.table.device)
        first = 0
        for word, steps, directions in words:
            step = max(1, _MAX_PROGRAMS // (lines.blocks * directions))
            for k in range(0, steps, step):
                some = min(step, steps - k)
                self._launch(
                    functions.draw_factors,
                    some * directions * lines.blocks,
                    factors=factors,
                    table=lines.table,
                    levels=lines.table.shape[1].bit_length() - 1,
                    blocks=lines.blocks,
                    first=first,
                    directions=directions,
                    total=total,
                    word=word + (k << 14),
                    **_stream(site),
                    RANK=site.rank,
                    BLOCK=FACTOR_BLOCK,
                    num_warps=NORMAL_WARPS,
                )
                first += some * directions
        return {"factors": factors, "total": total, "scale": _fp32(1.0 / math.sqrt(site.rank))}

    def _alone(self, site: Site, size: int, device: torch.device) -> tuple[_Lines | None, dict[str, Any]]:
        """The lines of one tensor, and the arguments that say where it is drawn."""
        if not site.columns:
            return None, {"tensor": site.tensor, "columns": 0, "u": 0, "v": 0}
        lines = _Lines.of([site], [size], device)
        columns, u, v = lines.places[0].tolist()
        return lines, {"tensor": site.tensor, "columns": columns, "u": u, "v": v}

    def _on_device(self, weights: NDArray[np.float32], device: torch.device) -> Tensor:
        """The weights on the device, without waiting for it; one copy serves all tensors of a model in a row."""
        key = weights.tobytes(), weights.shape, _queue(device)
        if self._weights is None or self._weights[0] != key:
            self._weights = key, _uploaded(weights, device)
        return self._weights[1]

    def combine(self, out: Tensor, site: Site, k: int, weights: NDArray[np.float32]) -> None:
        """s_k in one pass."""
        with self._guard(out.device):
            if out.numel() == 0:
                return
            draws = _Draws.of(site)
            argument, target, form = _output(out)
            units, unit = _units(out.numel())
            word = site.word(k, 0, len(weights))
            lines, place = self._alone(site, out.numel(), out.device)
            self._launch(
                functions.combine,
                triton.cdiv(out.numel(), draws.block),
                out=target,
                weights=self._on_device(weights, out.device),
                units=units,
                directions=len(weights),
                word=word,
                **place,
                **_stream(site),
                **self._factors(site, lines, [(word, 1, len(weights))]),
                FORMAT=form,
                UNIT=unit,
                **draws.constants,
            )
            argument.write_back()

    def displace(
        self,
        out: Tensor,
        base: Tensor,
        hessian: Tensor | None,
        site: Site,
        k: int,
        offset: Offset | None,
        drift: NDArray[np.float32],
        lr: float,
        rows: Tensor | None = None,
    ) -> None:
        """A probe point in one pass."""
        with self._guard(out.device):
            if offset is None and len(drift) == 0:
                out.copy_(base.detach() if rows is None else base.detach()[rows].view(out.shape))
                return
            if out.numel() == 0:
                return
            draws = _Draws.of(site)
            argument, target, form = _output(out)
            size = out.numel() if rows is None else out.numel() // len(rows)
            units, unit = _units(size)
            pieces = triton.cdiv(size, draws.block)
            if rows is not None and unit == 1 and not draws.rank:
                pieces = triton.cdiv(size + (3 if draws.normal else 127), draws.block)
            lines, place = self._alone(site, base.numel(), base.device)
            arguments = {
                "base": _Argument(base).tensor,
                "hessian": None if hessian is None else _Argument(hessian).tensor,
                "units": units,
                "pieces": pieces,
                "KIND": _kind(base, hessian),
                "ROWS": rows is not None,
                "FORMAT": form,
                "UNIT": unit,
                **place,
                **draws.constants,
                **self._displacement(site, lines, k, offset, drift, lr, out.device),
            }
            if rows is None:
                self._launch(functions.displace, pieces, out=target, rows=None, **arguments)
            else:
                chosen, target = rows.contiguous(), target.view(len(rows), size)
                step = max(1, _MAX_PROGRAMS // pieces)
                for i in range(0, len(chosen), step):
                    some = chosen[i : i + step]
                    self._launch(
                        functions.displace,
                        len(some) * pieces,
                        out=target[i : i + step],
                        rows=some,
                        **arguments,
                    )
            argument.write_back()

    def _displacement(
        self,
        site: Site,
        lines: _Lines | None,
        k: int,
        offset: Offset | None,
        drift: NDArray[np.float32],
        lr: float,
        device: torch.device,
    ) -> dict[str, Any]:
        """The arguments of a displacement that do not depend on the tensor."""
        if len(drift):
            site.word(len(drift) - 1, 0, drift.shape[1])  # refuses what a counter word does not hold
        directions = drift.shape[1] if len(drift) else 0
        probe = site.word(k, 0 if offset is None else offset.p)
        words = [(site.word(0), len(drift), directions)] if len(drift) else []
        words += [] if offset is None else [(probe, 1, 1)]
        return {
            "drift": self._on_device(drift, device) if len(drift) else None,
            "steps": len(drift),
            "directions": directions,
            "probe_word": probe,
            "drift_word": site.word(0),
            "mu": _fp32(0.0 if offset is None else offset.mu),
            "lr": _fp32(lr),
            **_stream(site),
            **self._factors(site, lines, words),
            "OFFSET": offset is not None,
            "DRIFT": len(drift) > 0,
        }

    def update(
        self,
        x: Tensor,
        hessian: Tensor | None,
        site: Site,
        weights: NDArray[np.float32],
        lr: float,
        decay: Decay | None,
        squares: bool,
    ) -> NDArray[np.float64] | None:
        """The update, new H included, in one pass; waits for the device only where squares are asked for."""
        with self._guard(x.device):
            if x.numel() == 0:
                return np.zeros(len(weights)) if squares else None
            draws = _Draws.of(site)
            moved = _Argument(x)
            h = None if hessian is None else _Argument(hessian)
            advance = decay is not None and hessian is not None
            kind = _kind(x, hessian, advance)
            units, unit = _units(x.numel())
            leaf_count = triton.cdiv(x.numel(), LEAF)
            leaves = None
            if squares:
                leaves = torch.empty(len(weights), leaf_count, dtype=torch.float64, device=x.device)
            lines, place = self._alone(site, x.numel(), x.device)
            self._launch(
                functions.update,
                triton.cdiv(x.numel(), draws.block),
                x=moved.tensor,
                hessian=None if h is None else h.tensor,
                leaves=leaves,
                units=units,
                leaf_count=leaf_count,
                KIND=kind,
                SQUARES=squares,
                UNIT=unit,
                **place,
                **draws.constants,
                **self._step(site, lines, weights, lr, decay, advance, x.device),
            )
            moved.write_back()
            if advance and h is not None:
                h.write_back()
            return None if leaves is None else np.array([tree_sum(row) for row in leaves.cpu().numpy()])

    def _step(
        self,
        site: Site,
        lines: _Lines | None,
        weights: NDArray[np.float32],
        lr: float,
        decay: Decay | None,
        advance: bool,
        device: torch.device,
    ) -> dict[str, Any]:
        """The arguments of an update that do not depend on the tensor."""
        site.word(len(weights) - 1, 0, weights.shape[1])
        average = decay or Decay(0.0, 0.0, 0.0, "last")
        return {
            "weights": self._on_device(weights, device),
            "steps": len(weights),
            "directions": weights.shape[1],
            "word": site.word(0),
            **_stream(site),
            **self._factors(site, lines, [(site.word(0), *weights.shape)]),
            "lr": _fp32(lr),
            "keep": _fp32(1.0 - average.nu),
            "nu": _fp32(average.nu),
            "eps": _fp32(average.eps),
            "floor": _fp32(average.floor),
            "ADVANCE": advance,
            "STEPS": _STEPS[average.steps],
        }

    def displace_all(
        self,
        outs: Sequence[Tensor],
        bases: Sequence[Tensor],
        hessians: Sequence[Tensor | None],
        sites: Sequence[Site],
        k: int,
        offset: Offset | None,
        drift: NDArray[np.float32],
        lr: float,
    ) -> None:
        """A probe point of all tensors in one pass, or in one for each way of drawing."""
        groups = _groups(sites, [base.numel() for base in bases], drift.size + 1)
        if len(groups) > 1:
            for group in groups:
                some, xs, hs, ss = ([values[t] for t in group] for values in (outs, bases, hessians, sites))
                self.displace_all(some, xs, hs, ss, k, offset, drift, lr)  # type: ignore[arg-type]
            return
        layout = None
        if offset is not None or len(drift):
            layout = self._layout(outs, bases, hessians, sites, advance=False)
        if layout is None:
            super().displace_all(outs, bases, hessians, sites, k, offset, drift, lr)
            return
        with self._guard(outs[0].device):
            arguments = self._displacement(sites[0], layout.lines, k, offset, drift, lr, outs[0].device)
            self._launch_all(functions.displace_all, layout, sites, **arguments, FORMAT=_FORMATS[outs[0].dtype])

    def update_all(
        self,
        xs: Sequence[Tensor],
        hessians: Sequence[Tensor | None],
        sites: Sequence[Site],
        weights: NDArray[np.float32],
        lr: float,
        decay: Decay | None,
        squares: bool,
    ) -> NDArray[np.float64] | None:
        """The update of all tensors, shared out as by displace_all; waits for the device only for sums of squares."""
        groups = _groups(sites, [x.numel() for x in xs], weights.size)
        if len(groups) > 1:
            sums = np.zeros((len(xs), len(weights)), dtype=np.float64)
            for group in groups:
                ys, hs, ss = ([values[t] for t in group] for values in (xs, hessians, sites))
                some = self.update_all(ys, hs, ss, weights, lr, decay, squares)  # type: ignore[arg-type]
                sums[group] = 0.0 if some is None else some
            return sums if squares else None
        advance = decay is not None and len(hessians) > 0 and hessians[0] is not None
        layout = self._layout(xs, xs, hessians, sites, advance)
        if layout is None:
            return super().update_all(xs, hessians, sites, weights, lr, decay, squares)
        device = xs[0].device
        with self._guard(device):
            per_block = _Draws.of(sites[0]).block // LEAF
            leaf_count = per_block * sum(blocks for _, blocks, _ in layout.launches)
            leaves = None
            if squares:
                leaves = torch.empty(len(weights), leaf_count, dtype=torch.float64, device=device)
            self._launch_all(
                functions.update_all,
                layout,
                sites,
                leaves=leaves,
                leaf_count=leaf_count,
                **self._step(sites[0], layout.lines, weights, lr, decay, advance, device),
                SQUARES=squares,
            )
            if leaves is None:
                return None
            rows = leaves.cpu().numpy()
        begins = [per_block * first for first in layout.first_blocks]
        ends = [begin + triton.cdiv(x.numel(), LEAF) for begin, x in zip(begins, xs, strict=True)]
        return np.array([[tree_sum(row[i:j]) for row in rows] for i, j in zip(begins, ends, strict=True)])

    def _launch_all(self, kernel: Any, layout: _Layout, sites: Sequence[Site], **arguments: Any) -> None:
        """Launches a kernel over a table: once, and once more for tensors whose size or place is not a round one."""
        for begin, blocks, unit in layout.launches:
            self._launch(
                kernel,
                blocks,
                **arguments,
                **_Draws.of(sites[0]).constants,
                table=layout.table,
                levels=layout.table.shape[1].bit_length() - 1,
                begin=begin,
                KIND=layout.kind,
                UNIT=unit,
            )

    def _layout(
        self,
        outs: Sequence[Tensor],
        bases: Sequence[Tensor],
        hessians: Sequence[Tensor | None],
        sites: Sequence[Site],
        advance: bool,
    ) -> _Layout | None:
        """The layout of a call, that of an earlier one if nothing moved; None if the tensors do not go together."""
        if not outs:
            return None
        device, dtype = outs[0].device, outs[0].dtype
        if INTERPRETED and device.type != "cpu":  # it runs on copies, elsewhere
            return None
        stored = [h for h in hessians if h is not None]
        if not (_alike(outs, device, dtype) and _alike((*bases, *stored), device, torch.float32)):
            return None
        draws = _Draws.of(sites[0])
        places = tuple(
            (
                out.data_ptr(),
                base.data_ptr(),
                *((0, -1) if h is None else (h.data_ptr(), h.numel())),
                base.numel(),
                site.tensor,
                site.columns,
            )
            for out, base, h, site in zip(outs, bases, hessians, sites, strict=True)
        )
        key = _queue(device), dtype, draws, advance, places
        layout = self._layouts.pop(key, None)
        if layout is None:
            kind = _common_kind(bases, hessians, advance)
            if kind is None:
                return None
            with self._guard(device):
                lines = _Lines.of(sites, [base.numel() for base in bases], device) if draws.rank else None
                layout = _laid_out(np.array(places, dtype=np.int64), kind, draws.block, lines, device)
            while len(self._layouts) >= _LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
        self._layouts[key] = layout
        return layout


def _queue(device: torch.device) -> tuple[torch.device, int]:
    """What runs in order: a device, and the current stream on it."""
    return device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _uploaded(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device, which the host does not wait for."""
    copy = torch.from_numpy(np.array(array, order="C"))
    return copy.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else copy


def _alike(tensors: Iterable[Tensor], device: torch.device, dtype: torch.dtype) -> bool:
    return all(t.dtype == dtype and t.device == device and t.is_contiguous() for t in tensors)


def _laid_out(places: NDArray[np.int64], kind: int, block: int, lines: _Lines | None, device: torch.device) -> _Layout:
    """The layout of tensors given by rows: addresses of out, x and H, elements of H and x, number, and columns."""
    out, base, hessian, _, size, number, _ = places.T
    read = (out, base, hessian) if kind == functions.ELEMENTWISE.value else (out, base)
    even = np.logical_and.reduce([size % _OCTET == 0, *(address % _ALIGNMENT == 0 for address in read)])
    order = np.argsort(~even, kind="stable")
    blocks = -(-size[order] // block)
    first = np.cumsum(blocks) - blocks
    units = np.where(even, size // _OCTET, size)
    rows = [out, base, hessian, units, number, *([] if lines is None else lines.places.T)]
    table = np.zeros((1 + len(rows), 1 << (len(size) - 1).bit_length()), dtype=np.int64)
    table[0] = _NEVER
    table[0, : len(size)] = first
    table[1:, : len(size)] = [row[order] for row in rows]
    first_blocks = np.empty_like(first)
    first_blocks[order] = first
    evens, all_ = int(blocks[even[order]].sum()), int(blocks.sum())
    launches = [launch for launch in ((0, evens, _OCTET), (evens, all_ - evens, 1)) if launch[1]]
    return _Layout(_uploaded(table, device), kind, launches, first_blocks.tolist(), lines)


def _groups(sites: Sequence[Site], sizes: Sequence[int], directions: int) -> list[list[int]]:
    """Tensors that a launch takes together: those drawn one way, and of low rank as many as leave room for factors."""
    groups: list[list[int]] = [[t for t, site in enumerate(sites) if not site.columns]]
    room = 0
    for t, (site, size) in enumerate(zip(sites, sizes, strict=True)):
        if site.columns:
            needed = directions * site.rank * (-(-size // site.columns) + site.columns + 2 * FACTOR_BLOCK)
            if room < needed:
                groups.append([])
                room = MOST_FACTORS
            groups[-1].append(t)
            room -= needed
    return [group for group in groups if group]


def _common_kind(xs: Sequence[Tensor], hessians: Sequence[Tensor | None], advance: bool) -> int | None:
    """The kind of all H, None if they are of several; with one element each, H and x are of either."""
    kinds = {_kind(x, h, advance) for x, h in zip(xs, hessians, strict=True) if x.numel() > 1 or h is None}
    rest = {_kind(x, h, True) for x, h in zip(xs, hessians, strict=True) if x.numel() == 1 and h is not None}
    none = int(functions.NONE.value)
    if len(kinds) > 1 or (rest and none in kinds):
        return None
    return next(iter(kinds or rest or {none}))


def _kind(x: Tensor, hessian: Tensor | None, advance: bool = False) -> int:
    """The kind of H: none, one element, or elementwise, which one that advances must be.

    Raises:
        ValueError: If H has neither one element nor as many as x.
    """
    if hessian is None:
        return int(functions.NONE.value)
    if hessian.numel() == 1 and not (advance and x.numel() == 1):
        if advance:
            raise ValueError(f"H has one element and x has {x.numel()}: only an elementwise H advances with x")
        return int(functions.ONE.value)
    if hessian.numel() != x.numel():
        raise ValueError(f"H has {hessian.numel()} elements and x has {x.numel()}: it must have as many, or one")
    return int(functions.ELEMENTWISE.value)
