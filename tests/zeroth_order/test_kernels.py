"""Promise 7: the same update from every backend, whatever the size, the strides and the number of threads."""

import math
import sys
import types

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order.kernels import Decay, Offset, select, torch_ops, tree_sum
from hiso_pl.zeroth_order.philox import MAX_ELEMENTS, Purpose, last_word
from hiso_pl.zeroth_order.streams import Site, direction

CPU = torch.device("cpu")
DISTRIBUTIONS = ["normal", "rademacher", "low_rank"]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def same_bits(a, b):
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def tensors(numel, kind, generator):
    x = torch.randn(numel, generator=generator)
    hessian = {"none": None, "one": torch.tensor([0.3]), "elementwise": torch.rand(numel, generator=generator) + 1e-3}
    return x, hessian[kind]


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kind", ["none", "one", "elementwise"])
@pytest.mark.parametrize("numel", [1, 3, 127, 1024, 5003])
def test_every_pass_equals_the_reference(backend, distribution, kind, numel):
    generator = torch.Generator().manual_seed(numel)
    fast, plain = select(backend, CPU), select("reference", CPU)
    site = Site.of(2**63 + 5, distribution, 3, 3, (numel, 37), 1499)
    weights = torch.randn(3, 4, generator=generator).numpy()
    for drift in (weights[:0], weights[:1], weights[:2]):
        for offset in (Offset(2, 1e-3), Offset(1, -1e-3), None):
            x, hessian = tensors(numel, kind, generator)
            outs = [torch.empty(numel), torch.empty(numel)]
            for kernels, out in zip((fast, plain), outs, strict=True):
                kernels.displace(out, x, hessian, site, 2, offset, drift, 1e-2)
            assert same_bits(*outs)
    decays: list[Decay | None] = [None]
    if kind == "elementwise":
        decays += [Decay(0.05, 1e-8, 1e-8, "last"), Decay(0.3, 0.0, 0.5, "all"), Decay(0.3, 0.0, 0.5, "first")]
    for decay in decays:
        x, hessian = tensors(numel, kind, generator)
        results = []
        for kernels in (fast, plain):
            moved, h = x.clone(), None if hessian is None else hessian.clone()
            sums = kernels.update(moved, h, site, weights, 1e-2, decay, squares=True)
            results.append((moved, h, sums))
        assert same_bits(results[0][0], results[1][0])
        assert hessian is None or same_bits(results[0][1], results[1][1])
        assert np.array_equal(results[0][2], results[1][2])


@pytest.mark.parametrize("backend", ["numba", "torch", "reference"])
def test_elements_are_counted_by_logical_index_not_by_memory(backend):
    kernels, site = select(backend, CPU), Site(1, "normal", 0, 0)
    weights = np.array([[0.5, -2.0]], dtype=np.float32)
    base = torch.randn(33, 40, generator=torch.Generator().manual_seed(0))
    decay = Decay(0.05, 1e-8, 1e-8, "last")
    plain, plain_h = base.clone(), torch.ones(33, 40)
    strided, strided_h = base.t().contiguous().t(), torch.ones(40, 33).t()
    assert not strided.is_contiguous()
    kernels.update(plain, plain_h, site, weights, 0.1, decay, False)
    kernels.update(strided, strided_h, site, weights, 0.1, decay, False)
    assert same_bits(plain, strided)
    assert same_bits(plain_h, strided_h)
    out, out_strided = torch.empty(33, 40), torch.empty(40, 33).t()
    kernels.displace(out, plain, plain_h, site, 0, Offset(1, 1e-3), weights[:0], 0.0)
    kernels.displace(out_strided, strided, strided_h, site, 0, Offset(1, 1e-3), weights[:0], 0.0)
    assert same_bits(out, out_strided)


@pytest.mark.parametrize("distribution", ["normal", "low_rank"])
def test_threads_do_not_change_a_bit(threads, distribution):
    results, site = [], Site.of(1, distribution, 2, 0, (300_001, 1501), 0)
    for count in (1, 2, 3):
        threads(count)
        x, h = torch.ones(300_001), torch.ones(300_001)
        weights = np.array([[0.5, -2.0, 1e-3]], dtype=np.float32)
        sums = select("numba", CPU).update(x, h, site, weights, 0.1, Decay(0.05, 0, 0, "last"), True)
        results.append((x, h, sums))
    for x, h, sums in results[1:]:
        assert same_bits(x, results[0][0])
        assert same_bits(h, results[0][1])
        assert np.array_equal(sums, results[0][2])


def test_tree_sum_is_a_sum():
    values = np.random.default_rng(0).standard_normal(1024 * 1024 + 17)
    assert tree_sum(values) == pytest.approx(float(values.sum()), abs=1e-9)
    assert tree_sum(np.array([])) == 0.0
    assert tree_sum(np.array([1e300, 1.0, -1e300])) == pytest.approx(0.0, abs=1.0)


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend='cuda' must be one of"):
        select("cuda", CPU)
    with pytest.raises(ValueError, match="CPU only"):
        select("numba", torch.device("cuda", 0))
    with pytest.raises(ValueError, match="backend='triton' runs on a GPU only"):
        select("triton", CPU)


@pytest.mark.parametrize("error", [RuntimeError("no compiler"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_gpu_without_triton_falls_back_and_says_so(error, monkeypatch, caplog):
    def failing():
        raise error

    module = types.SimpleNamespace(TritonKernels=failing)
    monkeypatch.setitem(sys.modules, "hiso_pl.zeroth_order.kernels.triton_gpu", module)
    monkeypatch.setattr(torch, "empty", lambda size, device: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    if isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(torch.OutOfMemoryError):
            select("auto", torch.device("cuda", 0))
        return
    with caplog.at_level("WARNING"):
        assert isinstance(select("auto", torch.device("cuda", 0)), torch_ops.TorchKernels)
    assert "triton does not run here (no compiler)" in caplog.text


def passes(kernels, site, x, hessian, k, p, weights, rows):
    """What each pass gives: a sum, points with offset, drift and both, some of their rows, an update."""
    s = torch.empty_like(x)
    kernels.combine(s, site, k, weights[0])
    found, none = [s], weights[:0]
    for offset, drift in ((Offset(p, 1e-2), none), (Offset(p, -1e-2), weights), (None, weights)):
        for chosen in (None, rows):
            out = torch.empty(x.shape if chosen is None else (len(rows), *x.shape[1:]))
            kernels.displace(out, x, hessian, site, k, offset, drift, 1e-2, chosen)
            found.append(out)
        out = torch.empty_like(x)
        kernels.displace_all([out], [x], [hessian], [site], k, offset, drift, 1e-2)
        found.append(out)
    for all_ in (False, True):
        moved, h = x.clone(), hessian.clone()
        if all_:
            kernels.update_all([moved], [h], [site], weights, 1e-2, Decay(0.05, 0.0, 0.0, "all"), False)
        else:
            kernels.update(moved, h, site, weights, 1e-2, Decay(0.05, 0.0, 0.0, "all"), False)
        found += [moved, h]
    return found


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("most", [1 << 24, 0])
@pytest.mark.parametrize("shape", [(3, 1), (1, 7), (1, 2500), (40, 5), (3, 1030), (5, 3, 3, 3), (2, 1024), (1500, 1)])
def test_matrices_of_every_shape_equal_the_reference(backend, most, shape, monkeypatch):
    """Rows shorter and longer than a block, single ones, and column factors that are kept or not."""
    monkeypatch.setattr("hiso_pl.zeroth_order.kernels.numba_cpu.MOST_KEPT", most)
    if backend == "torch" and not most:
        pytest.skip("the torch operations keep none")
    for rank in (1, 2, 5, 8):
        generator = torch.Generator().manual_seed(rank)
        x, hessian = (t.view(shape) for t in tensors(math.prod(shape), "elementwise", generator))
        site = Site.of(2**63 + 5, "low_rank", rank, 3, shape, 1499)
        weights = torch.randn(2, 3, generator=generator).numpy()
        rows = torch.tensor([0, shape[0] - 1, 0])
        found, expected = (
            passes(select(name, CPU), site, x, hessian, 2, 1, weights, rows) for name in (backend, "reference")
        )
        assert all(same_bits(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", ["reference", "numba", "torch"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_directions_are_counted_from_the_site_s_first(backend, distribution):
    """Direction p of a site whose first is f is direction p + f: here by a sum whose first f weights are zero."""
    generator = torch.Generator().manual_seed(3)
    kernels, first = select(backend, CPU), 5
    x, hessian = (t.view(11, 103) for t in tensors(11 * 103, "elementwise", generator))
    weights = torch.randn(2, 3, generator=generator).numpy()
    padded = np.concatenate([np.zeros((2, first), dtype=np.float32), weights], axis=1)
    whole = Site.of(2**63 + 5, distribution, 5, 3, (11, 103), 1499)
    own = whole._replace(first=first)
    rows = torch.tensor([6, 0, 3, 3])
    found = passes(kernels, own, x, hessian, 2, 1, weights, rows)
    for mine, theirs in zip(found, passes(kernels, whole, x, hessian, 2, 1 + first, padded, rows), strict=True):
        assert same_bits(mine, theirs)
    assert not same_bits(found[0], passes(kernels, whole, x, hessian, 2, 1, weights, rows)[0])


@pytest.mark.parametrize("backend", ["reference", "numba", "torch"])
def test_directions_beyond_their_bits_are_refused(backend):
    kernels, x, weights = select(backend, CPU), torch.zeros(4), np.ones((2, 3), dtype=np.float32)
    for site, fits in ((Site(1, "normal", 0, 0, (1 << 14) - 3), True), (Site(1, "normal", 0, 0, (1 << 14) - 2), False)):
        calls = [
            lambda site=site: kernels.combine(x, site, 0, weights[0]),
            lambda site=site: kernels.displace(x, x, None, site, 0, Offset(2, 0.1), weights[:0], 0.1),
            lambda site=site: kernels.displace(x, x, None, site, 2, None, weights, 0.1),
            lambda site=site: kernels.update(x, None, site, weights, 0.1, None, False),
        ]
        for call in calls:
            if fits:
                call()
                continue
            with pytest.raises(ValueError, match=r"direction p=16384 must be in \[0, 16384\)"):
                call()


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kind", ["none", "one", "elementwise"])
@pytest.mark.parametrize("width", [1, 6, 128, 1030])
def test_rows_of_a_point_equal_those_of_the_whole(backend, distribution, kind, width):
    generator = torch.Generator().manual_seed(width)
    kernels, plain = select(backend, CPU), select("reference", CPU)
    site, rows = Site.of(7, distribution, 6, 2, (7, width), 5), torch.tensor([6, 0, 3, 3])
    weights = torch.randn(2, 3, generator=generator).numpy()
    x, hessian = tensors(7 * width, kind, generator)
    x = x.view(7, width)
    hessian = hessian.view(7, width) if kind == "elementwise" else hessian
    for drift in (weights[:0], weights[:1], weights):
        for offset in (Offset(1, -1e-3), None):
            whole, some = torch.empty(7, width), torch.empty(4, width)
            plain.displace(whole, x, hessian, site, 2, offset, drift, 1e-2)
            kernels.displace(some, x, hessian, site, 2, offset, drift, 1e-2, rows)
            assert same_bits(some, whole[rows])


@pytest.mark.parametrize("backend", ["numba", "torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_storage_is_the_fp32_result_rounded_to_nearest_even(backend, dtype):
    kernels, site = select(backend, CPU), Site(7, "normal", 2, 5)
    none = np.empty((0, 1), dtype=np.float32)
    edges = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 65519.9, 65520.0, -70000.0, 3e38, np.inf, -np.inf, np.nan]
    edges += [2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 6.1e-5, -5.9e-8, 1e-40, 1.0009765625, 1.00048828125, 1.00146484375]
    base = torch.cat([torch.tensor(edges), torch.randn(3000) * 10.0 ** torch.randint(-9, 6, (3000,))])
    for mu in (1e-30, 1e-3):  # the first moves next to nothing: ties and special values arrive as they are
        point, out = torch.empty_like(base), torch.empty(base.shape, dtype=dtype)
        kernels.displace(point, base, None, site, 0, Offset(1, mu), none, 0.0)
        kernels.displace(out, base, None, site, 0, Offset(1, mu), none, 0.0)
        expected = point.to(dtype)
        assert torch.equal(out.isnan(), expected.isnan())
        assert torch.equal(out.nan_to_num(7.0).view(torch.int16), expected.nan_to_num(7.0).view(torch.int16))
    rows = torch.empty(2, 3, dtype=dtype)
    matrix = base[-12:].view(4, 3)
    kernels.displace(rows, matrix, None, site, 0, Offset(1, 1e-3), none, 0.0, torch.tensor([3, 1]))
    whole = torch.empty(4, 3)
    kernels.displace(whole, matrix, None, site, 0, Offset(1, 1e-3), none, 0.0)
    assert torch.equal(rows, whole[[3, 1]].to(dtype))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_last_addressable_elements_are_drawn_right(distribution):
    loops = pytest.importorskip("hiso_pl.zeroth_order.kernels.numba_loops")
    start, count = MAX_ELEMENTS - 1024, 1024
    drawn, words = np.empty(count + 128, dtype=np.float32), np.empty((4, 288), dtype=np.uint32)
    key = 2**63 + 5
    word = last_word(Purpose.DIRECTIONS, 1, 2)
    site = Site.of(key, distribution, 1, 3, (1 << 31, 8), 9)  # the most rows there can be
    stream = (distribution == "rademacher", 9, key & 0xFFFFFFFF, key >> 32, 1, np.float32(1), 0)
    room = words, np.empty((1, 1024), dtype=np.float32), np.empty((1, 1024), dtype=np.float32)
    place, none = (3, site.columns), np.empty((0, 1, 1), dtype=np.float32)
    loops._draw(start, count, stream, place, word, 0, none, room, drawn)
    expected = direction(site, 1, 2, start, count)
    assert np.array_equal(drawn[:count].view(np.uint32), expected.view(np.uint32))
    span = torch_ops._Span(CPU, count, first=start)
    assert np.array_equal(torch_ops._direction(site, 1, 2, span).numpy(), expected)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("kind", ["none", "one", "elementwise"])
@pytest.mark.parametrize(("strided", "distribution"), [(False, "normal"), (True, "normal"), (False, "low_rank")])
def test_all_tensors_in_one_call_are_as_one_at_a_time(backend, kind, strided, distribution, threads):
    threads(2)
    generator = torch.Generator().manual_seed(1)
    kernels, plain = select(backend, CPU), select("reference", CPU)
    wide = 700 if backend == "numba" else 7  # enough blocks for both threads, where there are any
    sizes = [(3,), (1,), (300, wide), (1025,), (40, 6)]
    numbers = (0, 1, 2, 5, 6)  # an empty tensor may lie between them
    sites = [Site.of(9, distribution, 3, t, size, 4) for t, size in zip(numbers, sizes, strict=True)]
    weights = torch.randn(2, 3, generator=generator).numpy()
    bases = [torch.randn(size, generator=generator) for size in sizes]
    shared = torch.tensor([0.3])
    hessians = [
        {"none": None, "one": shared, "elementwise": torch.rand(size, generator=generator) + 0.1}[kind]
        for size in sizes
    ]
    if strided:
        bases[-1] = bases[-1].t().contiguous().t()
    for drift, offset in ((weights[:0], Offset(1, 1e-2)), (weights[:1], Offset(0, -1e-2)), (weights, None)):
        for dtype in (torch.float32, torch.bfloat16):
            outs, expected = ([torch.empty_like(b, dtype=dtype) for b in bases] for _ in range(2))
            kernels.displace_all(outs, bases, hessians, sites, 2, offset, drift, 1e-2)
            plain.displace_all(expected, bases, hessians, sites, 2, offset, drift, 1e-2)
            assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))
    decay = Decay(0.05, 1e-8, 1e-8, "all") if kind == "elementwise" else None
    results = []
    for k in (kernels, plain):
        xs = [b.clone() for b in bases]
        hs = [None if h is None else h.clone() for h in hessians]
        sums = k.update_all(xs, hs, sites, weights, 1e-2, decay, True)
        assert k.update_all(xs, hs, sites, weights, 1e-2, decay, False) is None
        results.append((xs, [h for h in hs if h is not None], sums))
    for found, expected in zip(results[0][:2], results[1][:2], strict=True):
        assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))
    assert results[0][2].shape == (5, 2)
    assert np.array_equal(results[0][2], results[1][2])
