"""Promise 7 on Triton, without a GPU: its interpreter runs the kernels on CPU tensors, bit for bit the reference.

Triton decides at its import whether it interprets, so the cases run in a process of their own: this file as a program.
"""

import itertools
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order.kernels import Decay, Offset, select
from hiso_pl.zeroth_order.philox import MAX_ELEMENTS, Purpose, last_word
from hiso_pl.zeroth_order.streams import Site, direction

CPU = torch.device("cpu")
KINDS = ["none", "one", "elementwise"]
DISTRIBUTIONS = ["normal", "rademacher", "low_rank"]
CASES = {}  # type: ignore[var-annotated]


def case(name, *arguments):
    def register(function):
        CASES[name] = lambda: function(*arguments)
        return function

    return register


def assert_same_bits(a, b):
    integer = torch.int32 if b.dtype == torch.float32 else torch.int16
    assert a.dtype == b.dtype
    assert torch.equal(a.contiguous().view(integer), b.contiguous().view(integer))


def backends():
    from hiso_pl.zeroth_order.kernels.triton_gpu import TritonKernels

    return TritonKernels(), select("reference", CPU)


def tensors(shape, kind, generator):
    x = torch.randn(shape, generator=generator)
    hessian = {"none": None, "one": torch.tensor([0.3]), "elementwise": torch.rand(shape, generator=generator) + 1e-3}
    return x, hessian[kind]


def copies(*values):
    return [None if v is None else v.clone() for v in values]


def check_update(fast, plain, x, hessian, site, weights, lr, decay, squares=True):
    """Checks an update of both backends against each other and returns the new x and H."""
    (x_fast, h_fast), (x_plain, h_plain) = copies(x, hessian), copies(x, hessian)
    sums = fast.update(x_fast, h_fast, site, weights, lr, decay, squares)
    expected = plain.update(x_plain, h_plain, site, weights, lr, decay, squares)
    assert_same_bits(x_fast, x_plain)
    assert hessian is None or assert_same_bits(h_fast, h_plain) is None
    assert (sums is None) is not squares
    assert not squares or np.array_equal(sums, expected)
    return x_fast, h_fast


def check_passes(distribution, kind):
    fast, plain = backends()
    for rank, numel in enumerate((1, 3, 127, 1024, 5003), 1):
        long = numel > 127  # the interpreter takes block after block: of each axis all values, of their products some
        combinations = itertools.product(range(3), (Offset(2, 1e-3), Offset(1, -1e-3), None))
        if long:
            combinations = [(0, Offset(1, -1e-3)), (1, None), (2, Offset(2, 1e-3))]
        generator = torch.Generator().manual_seed(numel)
        site = Site.of(2**63 + 5, distribution, rank, 3, (numel, 37), 1499)
        weights = torch.randn(2, 3, generator=generator).numpy()
        x, hessian = tensors(numel, kind, generator)
        out, expected = torch.empty(numel), torch.empty(numel)
        fast.combine(out, site, 2, weights[0])
        plain.combine(expected, site, 2, weights[0])
        assert_same_bits(out, expected)
        for steps, offset in combinations:
            drift = np.ascontiguousarray(weights[:steps, :2])
            for kernels, target in ((fast, out), (plain, expected)):
                kernels.displace(target, x, hessian, site, 2, offset, drift, 1e-2)
            assert_same_bits(out, expected)
        decays = [None]
        if kind == "elementwise":
            decays = [Decay(0.3, 1e-8, 0.5, steps) for steps in ("last", "first", "all")]
            decays = decays[2:] if long else [None, *decays]
        for decay in decays:
            check_update(fast, plain, x, hessian, site, weights, 1e-2, decay)


def check_rows(distribution, width):
    fast, plain = backends()
    site, rows = Site.of(7, distribution, 2, 2, (7, width), 5), torch.tensor([6, 0, 3, 3])
    generator = torch.Generator().manual_seed(width)
    weights = torch.randn(2, 2, generator=generator).numpy()
    for kind, steps, offset in (("none", 2, None), ("one", 0, Offset(1, -1e-3)), ("elementwise", 1, Offset(0, 1e-3))):
        x, hessian = tensors((7, width), kind, generator)
        whole, some = torch.empty(7, width), torch.empty(4, width)
        plain.displace(whole, x, hessian, site, 2, offset, weights[:steps], 1e-2)
        fast.displace(some, x, hessian, site, 2, offset, weights[:steps], 1e-2, rows)
        assert_same_bits(some, whole[rows])


def check_16_bit(dtype):
    fast, plain = backends()
    site, none = Site(7, "normal", 2, 5), np.empty((0, 1), dtype=np.float32)
    edges = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 65519.9, 65520.0, -70000.0, 3e38, np.inf, -np.inf, np.nan]
    edges += [2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 6.1e-5, -5.9e-8, 1e-40, 1.0009765625, 1.00048828125, 1.00146484375]
    generator = torch.Generator().manual_seed(0)
    powers = 10.0 ** torch.randint(-9, 6, (1000,), generator=generator)
    base = torch.cat([torch.tensor(edges), torch.randn(1000, generator=generator) * powers])
    for mu in (1e-30, 1e-3):  # the first moves next to nothing: ties and special values arrive as they are
        point, out = torch.empty_like(base), torch.empty(base.shape, dtype=dtype)
        plain.displace(point, base, None, site, 0, Offset(1, mu), none, 0.0)
        fast.displace(out, base, None, site, 0, Offset(1, mu), none, 0.0)
        expected = point.to(dtype)
        assert torch.equal(out.isnan(), expected.isnan())
        assert_same_bits(out.nan_to_num(7.0), expected.nan_to_num(7.0))
    matrix, rows = base[-1000:].view(4, 250), torch.tensor([3, 1, 3])
    some, whole = torch.empty(3, 250, dtype=dtype), torch.empty(4, 250)
    for distribution in DISTRIBUTIONS:
        site = Site.of(7, distribution, 5, 2, (4, 250), 5)
        fast.displace(some, matrix, matrix.abs(), site, 0, Offset(1, 1e-3), none, 0.0, rows)
        plain.displace(whole, matrix, matrix.abs(), site, 0, Offset(1, 1e-3), none, 0.0)
        assert_same_bits(some, whole[rows].to(dtype))
    s, rounded = torch.empty(100), torch.empty(100, dtype=dtype)
    plain.combine(s, site, 1, np.array([0.3, 2.0], dtype=np.float32))
    fast.combine(rounded, site, 1, np.array([0.3, 2.0], dtype=np.float32))
    assert_same_bits(rounded, s.to(dtype))


def recorder():
    from hiso_pl.zeroth_order.kernels.triton_gpu import TritonKernels

    class Recorder(TritonKernels):
        def __init__(self):
            super().__init__()
            self.launches = []

        def _launch(self, kernel, programs, **arguments):
            if "UNIT" in arguments:  # not one that draws factors
                self.launches.append((arguments.get("table"), programs, arguments["UNIT"]))
            super()._launch(kernel, programs, **arguments)

    return Recorder()


def network(sizes, kind, distribution, generator):
    pairs = [tensors(size, kind, generator) for size in sizes]
    sites = [Site.of(2**63 + 5, distribution, 3, 2 * t, size, 4) for t, size in enumerate(sizes)]
    return [x for x, _ in pairs], [h for _, h in pairs], sites


def check_update_all(fast, plain, xs, hessians, sites, weights, decay):
    results = []
    for kernels in (fast, plain):
        moved, advanced = copies(*xs), copies(*hessians)
        sums = kernels.update_all(moved, advanced, sites, weights, 1e-2, decay, True)
        results.append(([*moved, *(h for h in advanced if h is not None)], sums))
    for found, expected in zip(results[0][0], results[1][0], strict=True):
        assert_same_bits(found, expected)
    assert results[0][1].shape == (len(xs), len(weights))
    assert np.array_equal(results[0][1], results[1][1])


def check_displace_all(fast, plain, xs, hessians, sites, offset, drift, dtype=torch.float32):
    outs = [torch.full_like(x, 7.0, dtype=dtype) for x in xs]
    fast.displace_all(outs, xs, hessians, sites, 2, offset, drift, 1e-2)
    for t, out in enumerate(outs):
        expected = torch.empty_like(xs[t])
        plain.displace(expected, xs[t], hessians[t], sites[t], 2, offset, drift, 1e-2)
        assert_same_bits(out, expected.to(dtype))


def check_all(distribution, kind):
    """All tensors in a call are as one at a time: one launch for those of round sizes and one for the others."""
    fast, (_, plain) = recorder(), backends()
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 2, generator=generator).numpy()
    xs, hessians, sites = network([(3,), (1,), (300, 8), (0,), (1025,), (4096,)], kind, distribution, generator)
    check_displace_all(fast, plain, xs, hessians, sites, Offset(1, 1e-2), weights[:0])
    check_displace_all(fast, plain, xs, hessians, sites, Offset(0, -1e-2), weights[:1], torch.bfloat16)
    check_displace_all(fast, plain, xs[:3], hessians[:3], sites[:3], None, weights[:1])
    decay = {"elementwise": Decay(0.05, 1e-8, 1e-8, "all" if distribution == "normal" else "first")}.get(kind)
    check_update_all(fast, plain, xs, hessians, sites, weights, decay)
    if distribution == "low_rank":  # vectors first, then matrices
        assert [(p, u) for _, p, u in fast.launches] == 2 * [(4, 8), (4, 1), (3, 8)] + [
            (2, 1),
            (3, 8),
            (4, 8),
            (4, 1),
            (3, 8),
        ]
        return
    counts = ((7, 4), (7, 4), (3, 2), (7, 4)) if distribution == "normal" else ((2, 3), (2, 3), (1, 2), (2, 3))
    assert [(p, u) for _, p, u in fast.launches] == [(p, u) for c in counts for p, u in zip(c, (8, 1), strict=True)]


@case("many-matrices")
def check_groups():
    """Matrices whose factors do not fit together are taken one after the other, and many steps in several launches."""
    from hiso_pl.zeroth_order.kernels import triton_gpu

    fast, (_, plain) = recorder(), backends()
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(3, 2, generator=generator).numpy()
    xs, hessians, sites = network([(30, 8), (1, 9), (5,), (9, 1), (0, 4), (2, 3, 3)], "none", "low_rank", generator)
    before = triton_gpu.MOST_FACTORS, triton_gpu._MAX_PROGRAMS
    triton_gpu.MOST_FACTORS, triton_gpu._MAX_PROGRAMS = 0, 5
    check_displace_all(fast, plain, xs, hessians, sites, Offset(1, 1e-2), weights)
    check_update_all(fast, plain, xs, hessians, sites, weights, None)
    assert len(fast.launches) == 2 * 5
    triton_gpu.MOST_FACTORS, triton_gpu._MAX_PROGRAMS = before
    fast.launches.clear()
    check_update_all(fast, plain, xs, hessians, sites, weights, None)
    assert len(fast.launches) == 3  # that vector, and matrices of round sizes and of others


for _distribution in DISTRIBUTIONS:
    for _kind in KINDS:
        case(f"passes-{_distribution}-{_kind}", _distribution, _kind)(check_passes)
        case(f"all-{_distribution}-{_kind}", _distribution, _kind)(check_all)
    for _width in (1, 6, 128, 1030):
        case(f"rows-{_distribution}-{_width}", _distribution, _width)(check_rows)
for _dtype in (torch.bfloat16, torch.float16):
    case(f"16-bit-{_dtype}", _dtype)(check_16_bit)


@case("vectors")
def check_vectors():
    fast, _ = backends()
    out = torch.empty(8)
    fast.combine(out, Site(20261120, "normal", 0, 0), 0, np.ones(1, dtype=np.float32))
    drawn = " ".join(f"{v:08x}" for v in out.numpy().view(np.uint32))
    assert drawn == "3f9a2d0d 3f075a7f 4028d867 bccb243e bf9f118d bd5588c8 be792820 bfbdba65"
    fast.combine(out, Site(2**63 + 5, "normal", 3, 1499), 2, np.array([0, 0, 0, 0, 1], dtype=np.float32))
    drawn = " ".join(f"{v:08x}" for v in out.numpy().view(np.uint32))
    assert drawn == "bfe11b16 bf8b32c0 c0050866 3eed4de1 bf75f24e 3ea78c26 bf511d71 3f96286e"
    fast.combine(out, Site(20261120, "low_rank", 0, 0, 0, 2, 5), 0, np.ones(1, dtype=np.float32))
    drawn = " ".join(f"{v:08x}" for v in out.numpy().view(np.uint32))
    assert drawn == "bf31b131 bed5ad40 40140434 bef7de80 3e942873 bf61d631 be6ae85f c022af90"


@case("last-elements")
def check_last_elements():
    key, word = 2**64 - 3, last_word(Purpose.DIRECTIONS, 1, 2)
    starts = (0, MAX_ELEMENTS // 2 - 1024, MAX_ELEMENTS - 4096)
    for distribution, start in itertools.product(("normal", "rademacher"), starts):
        out = torch.empty(4096)
        drawn[(1,)](out, start, 3, 2**32 - 1, word, key & 0xFFFFFFFF, key >> 32, distribution == "normal", 4096)
        expected = direction(Site(key, distribution, 3, 2**32 - 1), 1, 2, start, 4096)
        assert_same_bits(out, torch.from_numpy(expected))


@case("directions-from-the-first")
def check_first():
    fast, plain = backends()
    generator, rows = torch.Generator().manual_seed(4), torch.tensor([6, 0, 3, 3])
    weights = torch.randn(2, 2, generator=generator).numpy()
    for distribution in DISTRIBUTIONS:
        (x,), (h,), (site,) = network([(7, 30)], "elementwise", distribution, generator)
        site = site._replace(first=9)
        out, expected = torch.empty(7, 30), torch.empty(7, 30)
        for kernels, target in ((fast, out), (plain, expected)):
            kernels.combine(target, site, 2, weights[0])
        assert_same_bits(out, expected)
        for offset, drift in ((Offset(1, 1e-2), weights[:0]), (Offset(0, 1e-2), weights), (None, weights)):
            check_displace_all(fast, plain, [x], [h], [site], offset, drift)
            some = torch.empty(4, 30)
            fast.displace(some, x, h, site, 2, offset, drift, 1e-2, rows)
            plain.displace(expected, x, h, site, 2, offset, drift, 1e-2)
            assert_same_bits(some, expected[rows])
        check_update(fast, plain, x, h, site, weights, 1e-2, Decay(0.05, 0.0, 0.0, "all"))
        check_update_all(fast, plain, [x], [h], [site], weights, Decay(0.05, 0.0, 0.0, "all"))
        with pytest.raises(ValueError, match="direction p=16384"):
            fast.update(x, h, site._replace(first=(1 << 14) - 1), weights, 0.1, None, False)


@case("chained-updates")
def check_chained_updates():
    fast, plain = backends()
    generator = torch.Generator().manual_seed(1)
    for distribution, decay in zip(
        ("normal", "rademacher"), (Decay(0.05, 1e-8, 1e-8, "last"), Decay(0.1, 0.0, 0.0, "all")), strict=True
    ):
        x, h = torch.randn(2053, generator=generator), torch.ones(2053)
        for r in range(3):
            weights = torch.randn(2, 2, generator=generator).numpy()
            x, h = check_update(fast, plain, x, h, Site(11, distribution, 1, r), weights, 0.1, decay, squares=False)
        assert not torch.equal(h, torch.ones(2053))


@case("signs-of-zero-and-small-numbers")
def check_zeros():
    fast, plain = backends()
    x = torch.tensor([0.0, -0.0, 1e-40, -1e-45, 1.0] * 60)
    site = Site(5, "normal", 0, 0)
    for weights in ([[0.0], [-0.0]], [[-0.0, -0.0]], [[1e-42, 1e-44]], [[0.0, 1e-40]]):
        drift = np.array(weights, dtype=np.float32)
        for hessian, lr in ((None, 1.0), (torch.full((300,), 1e-40), 1e-3), (torch.tensor([1e-40]), 0.0)):
            for offset in (Offset(0, 1e-41), Offset(0, 0.0), None):
                out, expected = torch.empty(300), torch.empty(300)
                fast.displace(out, x, hessian, site, 1, offset, drift, lr)
                plain.displace(expected, x, hessian, site, 1, offset, drift, lr)
                assert_same_bits(out, expected)
        decay = Decay(0.5, 1e-41, 0.0, "last")
        check_update(fast, plain, x, torch.full((300,), 1e-40), site, drift, 1e-3, decay)


@case("strides")
def check_strides():
    fast, _ = backends()
    site, weights = Site(1, "normal", 0, 0), np.array([[0.5, -2.0]], dtype=np.float32)
    base, decay = torch.randn(33, 40, generator=torch.Generator().manual_seed(0)), Decay(0.05, 1e-8, 1e-8, "last")
    plain, plain_h = base.clone(), torch.ones(33, 40)
    strided, strided_h = base.t().contiguous().t(), torch.ones(40, 33).t()
    assert not strided.is_contiguous()
    fast.update(plain, plain_h, site, weights, 0.1, decay, False)
    fast.update(strided, strided_h, site, weights, 0.1, decay, False)
    assert_same_bits(strided, plain)
    assert_same_bits(strided_h, plain_h)
    for dtype in (torch.float32, torch.bfloat16):
        out, out_strided = torch.empty(33, 40, dtype=dtype), torch.empty(40, 33, dtype=dtype).t()
        fast.displace(out, plain, plain_h, site, 0, Offset(1, 1e-3), weights[:0], 0.0)
        fast.displace(out_strided, strided, strided_h, site, 0, Offset(1, 1e-3), weights[:0], 0.0)
        assert_same_bits(out_strided, out)


@case("launches")
def check_launches():
    """More programs than a launch takes are several launches; no elements and no displacement are none."""
    from hiso_pl.zeroth_order.kernels import triton_gpu

    fast, plain = backends()
    site, rows, none = Site(7, "normal", 2, 5), torch.tensor([4, 0, 3, 3, 1]), np.empty((0, 1), dtype=np.float32)
    base = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    whole, some = torch.empty(5, 30), torch.empty(5, 30)
    plain.displace(whole, base, None, site, 0, Offset(1, 1e-3), none, 0.0)
    before, triton_gpu._MAX_PROGRAMS = triton_gpu._MAX_PROGRAMS, 2
    fast.displace(some, base, None, site, 0, Offset(1, 1e-3), none, 0.0, rows)
    triton_gpu._MAX_PROGRAMS = before
    assert_same_bits(some, whole[rows])
    fast.displace(some, base, None, site, 0, None, none, 0.0, rows)
    assert_same_bits(some, base[rows])
    empty = torch.empty(0, 30)
    fast.displace(empty, base, None, site, 0, Offset(1, 1e-3), none, 0.0, rows[:0])
    fast.combine(empty, site, 0, np.ones(1, dtype=np.float32))
    assert fast.update(empty, None, site, np.ones((2, 1), dtype=np.float32), 0.1, None, True).tolist() == [0.0, 0.0]
    one, one_h = torch.randn(1), torch.ones(1)
    weights = np.ones((1, 1), dtype=np.float32)
    check_update(fast, plain, one, one_h, site, weights, 0.1, Decay(0.5, 0.0, 0.0, "last"))
    with pytest.raises(ValueError, match="only an elementwise H advances"):
        fast.update(base, one_h, site, weights, 0.1, Decay(0.5, 0.0, 0.0, "last"), False)
    with pytest.raises(ValueError, match="H has 2 elements and x has 150"):
        fast.update(base, torch.ones(2), site, weights, 0.1, None, False)
    with pytest.raises(ValueError, match="direction p=16384"):
        fast.combine(some, site, 0, np.ones(16385, dtype=np.float32))


@case("tables")
def check_tables():
    """A table is built once, and anew when a tensor moves; of the tables only the latest stay."""
    from hiso_pl.zeroth_order.kernels import triton_gpu

    fast, (_, plain) = recorder(), backends()
    generator, none = torch.Generator().manual_seed(2), np.empty((0, 1), dtype=np.float32)
    xs, hessians, sites = network([(8,)] * 5 + [(1, 40)], "elementwise", "rademacher", generator)
    outs = [torch.empty_like(x) for x in xs]

    def displaced():
        fast.displace_all(outs, xs, hessians, sites, 0, Offset(0, 1e-2), none, 0.0)
        for t, out in enumerate(outs):
            expected = torch.empty_like(out)
            plain.displace(expected, xs[t], hessians[t], sites[t], 0, Offset(0, 1e-2), none, 0.0)
            assert_same_bits(out, expected)
        return fast.launches[-1][0]

    first = displaced()
    assert displaced() is first
    assert len(fast.launches) == 2
    for listed in (outs, xs, hessians):
        kept, listed[2] = listed[2], listed[2] + 1.0
        moved = displaced()
        assert moved is not first
        listed[2] = kept
        assert displaced() is first
    buffer = torch.zeros(9)
    outs[2] = buffer[1:]  # no multiple of 16 bytes
    displaced()
    assert [launch[1:] for launch in fast.launches[-2:]] == [(5, 8), (1, 1)]
    assert buffer[0] == 0.0
    before, triton_gpu._LAYOUTS = triton_gpu._LAYOUTS, 1
    sites[0] = sites[0]._replace(tensor=1)
    displaced()
    triton_gpu._LAYOUTS = before
    assert len(fast._layouts) == 1


@case("mixed-tensors")
def check_mixed():
    """Tensors that do not go together are taken one at a time; numbers for H go with numbers for x."""
    fast, (_, plain) = recorder(), backends()
    generator, weights = torch.Generator().manual_seed(3), np.ones((1, 1), dtype=np.float32)
    xs, hessians, sites = network([(40,), (1,), (16,)], "elementwise", "rademacher", generator)
    shared = torch.tensor([0.3])
    advance, near = Decay(0.5, 0.0, 0.0, "last"), Offset(0, 1e-2)
    together = [([None] * 3, None), ([shared] * 3, None), (hessians, None), (hessians, advance)]
    together += [([shared, hessians[1], shared.clone()[0]], None)]
    apart = [([None, *hessians[1:]], None), ([shared, *hessians[1:]], None), ([None, hessians[1], None], None)]
    for mixture, decay, tables in [*((*t, True) for t in together), *((*a, False) for a in apart)]:
        fast.launches.clear()
        check_displace_all(fast, plain, xs, mixture, sites, near, weights[:0])
        check_update_all(fast, plain, xs, mixture, sites, weights, decay)
        assert all((table is not None) is tables for table, *_ in fast.launches)
    fast.launches.clear()
    one, one_h = [torch.tensor([2.0])], [torch.tensor([0.5])]
    check_update_all(fast, plain, one, one_h, sites[1:2], weights, advance)
    assert fast.launches[0][0] is not None
    fast.launches.clear()
    strided = torch.randn(8, 5, generator=generator).t()
    check_displace_all(fast, plain, [xs[0], strided], [None, None], sites[:2], near, weights[:0])
    check_update_all(fast, plain, [xs[0], strided], [None, None], sites[:2], weights, None)
    outs = [torch.empty(40, dtype=torch.bfloat16), torch.empty(1)]
    fast.displace_all(outs, xs[:2], hessians[:2], sites[:2], 0, near, weights[:0], 0.0)
    assert all(table is None for table, *_ in fast.launches)
    fast.launches.clear()
    check_displace_all(fast, plain, xs, hessians, sites, None, weights[:0])
    fast.displace_all([], [], [], [], 0, near, weights[:0], 0.0)
    assert fast.update_all([], [], [], weights, 0.1, None, True) is None
    empty = [torch.empty(0)]
    assert fast.update_all(empty, [None], sites[:1], weights, 0.1, None, True).tolist() == [[0.0]]
    assert fast.launches == []
    with pytest.raises(ValueError, match="only an elementwise H advances"):
        fast.update_all(xs, [shared] * 3, sites, weights, 0.1, advance, False)
    with pytest.raises(ValueError, match="direction p=16384"):
        fast.update_all(xs, [None] * 3, sites, np.ones((1, 16385), dtype=np.float32), 0.1, None, False)


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_the_interpreter_gives_the_bits_of_the_reference(report, name):
    if "unfit" in report:
        pytest.skip(report["unfit"])
    assert report[name] is None, report[name]


def test_cpu_tensors_are_refused_outside_the_interpreter():
    pytest.importorskip("triton")
    from hiso_pl.zeroth_order.kernels import triton_gpu

    if triton_gpu.INTERPRETED:
        pytest.skip("TRITON_INTERPRET is set")
    with pytest.raises(ValueError, match="backend='triton' runs on GPUs only, but the parameters are on cpu"):
        triton_gpu.TritonKernels().combine(torch.empty(4), Site(1, "normal", 0, 0), 0, np.ones(1, dtype=np.float32))


def run(function):
    try:
        function()
    except Exception:
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    import triton
    import triton.language as tl

    from hiso_pl.zeroth_order.kernels import triton_functions as functions

    @triton.jit
    def drawn(out, start, tensor, rnd, word, key0, key1, NORMAL: tl.constexpr, BLOCK: tl.constexpr):
        u = functions.draw(
            start.to(tl.int64),
            (tensor.to(tl.uint32),),
            (rnd.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32), None, None, None),
            word.to(tl.uint32),
            0,
            None,
            NORMAL,
            0,
            BLOCK,
        )
        tl.store(out + tl.arange(0, BLOCK), u)

    @triton.jit
    def counted(out, count):
        for i in range(count):
            tl.store(out + i, i)

    # Triton 3.6 interprets a range over an argument in a way that NumPy 2.4 refuses
    unfit = run(lambda: counted[(1,)](torch.zeros(2), 2))
    results = {"unfit": unfit.splitlines()[-1]} if unfit else {name: run(function) for name, function in CASES.items()}
    sys.stdout.write(json.dumps(results) + "\n")
