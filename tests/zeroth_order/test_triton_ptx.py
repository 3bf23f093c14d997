"""Promise 7 in what Triton makes of the kernels: the compiler runs without a GPU, and its PTX shows every rounding."""

import contextlib
import itertools
import re
from collections import Counter

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order.kernels import Decay, Offset
from hiso_pl.zeroth_order.streams import Site

triton = pytest.importorskip("triton")
backends = pytest.importorskip("triton.backends.compiler")
triton_gpu = pytest.importorskip("hiso_pl.zeroth_order.kernels.triton_gpu")

pytestmark = pytest.mark.skipif(triton_gpu.INTERPRETED, reason="TRITON_INTERPRET is set")

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
POINTERS = {torch.float32: "*fp32", torch.int16: "*i16", torch.int64: "*i64", torch.float64: "*fp64"}
OFFENCES = {
    "fused": re.compile(r"\bfma\.|\bmad\.[\w.]*\bf(?:16|32|64)\b"),
    "approximate": re.compile(r"\.approx\b|\.full\b"),
    "flushes denormals": re.compile(r"\.ftz\b"),
    "free to be fused": re.compile(r"\b(?:add|sub|mul|div|sqrt)\.(?!rn\b)(?:\w+\.)*(?:f16|bf16|f32|f64)(?:x2)?\b"),
}


def offences(ptx):
    """The floating-point instructions that are not one rounding to nearest of one operation."""
    lines = [line.split("//")[0].strip() for line in ptx.splitlines()]
    return [f"{name}: {line}" for line in lines for name, pattern in OFFENCES.items() if pattern.search(line)]


class Recorder(triton_gpu.TritonKernels):  # type: ignore[name-defined]
    """Takes CPU tensors and keeps the launches that it would make."""

    def __init__(self):
        super().__init__()
        self.launches = []

    def _guard(self, device):
        return contextlib.nullcontext()

    def _launch(self, kernel, programs, **arguments):
        class Kept:
            def __getitem__(_, grid):
                return lambda **given: self.launches.append((kernel, given))

        super()._launch(Kept(), programs, **arguments)


def compiled(kernel, given, capability, **changed):
    """What a launch with these arguments compiles."""
    options = {name: value for name, value in given.items() if name not in kernel.arg_names} | changed
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name], attributes[(i,)] = POINTERS[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = parameter.annotation_type
    source = triton.compiler.ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=backends.GPUTarget("cuda", capability, 32), options=options)


def described(kernel, given):
    constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
    return f"{kernel.__name__} {constants}"


def hessian(kind, shape):
    return {"none": None, "one": torch.ones(1), "elementwise": torch.ones(shape)}[kind]


def launches(distribution):
    """Launches that hold every kernel, and every pair of H's kind, format, terms of the sum, and rows."""
    recorder, site = Recorder(), Site.of(2**63 + 5, distribution, 6, 3, (4, 250), 2**32 - 1)
    weights = np.ones((2, 3), dtype=np.float32)
    kinds = ("none", "one", "elementwise")
    for dtype in FORMATS:
        recorder.combine(torch.empty(1024, dtype=dtype), site, 1, weights[0])
    for (i, kind), (j, dtype) in itertools.product(enumerate(kinds), enumerate(FORMATS)):
        offset, drift = ((Offset(1, 1e-3), weights[:0]), (Offset(0, -1e-3), weights), (None, weights))[(i + j) % 3]
        width, rows = ((256, None), (256, torch.tensor([1, 0])), (250, torch.tensor([1, 0])))[(i + 2 * j) % 3]
        out = torch.empty(4 if rows is None else 2, width, dtype=dtype)
        recorder.displace(out, torch.ones(4, width), hessian(kind, (4, width)), site, 2, offset, drift, 0.1, rows)
    averages = [None, *(Decay(0.05, 1e-8, 1e-8, steps) for steps in ("last", "first", "all"))]
    for i, (kind, decay) in enumerate([("none", None), ("one", None), *(("elementwise", a) for a in averages)]):
        for squares in (False, True):
            size = 1024 if i % 2 or not squares else 1001
            recorder.update(torch.ones(size), hessian(kind, size), site, weights, 0.1, decay, squares)
    return recorder.launches


def launches_of_all(distribution, width):
    """Launches over tables, each with that of one of the tensors alone."""
    recorder, weights = Recorder(), np.ones((2, 3), dtype=np.float32)
    sites = [Site.of(2**63 + 5, distribution, 2, t, (4, width), 2**32 - 1) for t in range(3)]
    offsets = (Offset(1, 1e-3), Offset(0, -1e-3), None)
    for i, (kind, dtype) in enumerate(zip(("none", "one", "elementwise"), FORMATS, strict=True)):
        xs, hs = [torch.ones(4, width) for _ in sites], [hessian(kind, (4, width)) for _ in sites]
        outs = [torch.empty(4, width, dtype=dtype) for _ in sites]
        drift = weights[: (0, 2, 2)[i]]
        recorder.displace_all(outs, xs, hs, sites, 2, offsets[i], drift, 0.1)
        recorder.displace(outs[0], xs[0], hs[0], sites[0], 2, offsets[i], drift, 0.1)
        decay = Decay(0.05, 1e-8, 1e-8, "all" if width == 256 else "first") if kind == "elementwise" else None
        recorder.update_all(xs, hs, sites, weights, 0.1, decay, kind != "one")
        recorder.update(xs[0], hs[0], sites[0], weights, 0.1, decay, kind != "one")
    passes = [(kernel, given) for kernel, given in recorder.launches if "UNIT" in given]  # not those that draw factors
    return list(zip(passes[::2], passes[1::2], strict=True))


def instructions(ptx):
    """What rounds, and what moves more than a word: how many of each."""
    return Counter(re.findall(r"\b(?:\w+\.rn\.f(?:32|64)|(?:ld|st)\.global\.v4\.b32)\b", ptx))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
def test_every_floating_point_instruction_rounds_once(distribution, capability):
    for kernel, given in launches(distribution):
        ptx = compiled(kernel, given, capability).asm["ptx"]
        assert offences(ptx) == [], described(kernel, given)
        assert re.search(r"\b(?:mul|add)\.rn\.f32\b", ptx), described(kernel, given)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
def test_a_launch_over_all_tensors_computes_as_one_over_a_tensor(distribution):
    for (kernel, given), (single, alone) in launches_of_all(distribution, 256):
        assert kernel.__name__ == f"{single.__name__}_all"
        ptx, expected = compiled(kernel, given, 90).asm["ptx"], compiled(single, alone, 90).asm["ptx"]
        assert offences(ptx) == [], described(kernel, given)
        assert instructions(ptx) == instructions(expected), described(kernel, given)
        assert instructions(ptx)["ld.global.v4.b32"] > 0
    for (kernel, given), _ in launches_of_all(distribution, 251)[-2:]:
        ptx = compiled(kernel, given, 90).asm["ptx"]
        assert offences(ptx) == [], described(kernel, given)
        assert "ld.global.v4" not in ptx


def test_the_check_sees_a_fused_and_an_approximate_instruction():
    kernel, given = launches("normal")[0]
    assert given["enable_fp_fusion"] is False
    fused = offences(compiled(kernel, given, 90, enable_fp_fusion=True).asm["ptx"])
    assert any(line.startswith("fused: fma.rn.f32") for line in fused)
    assert len(offences("sqrt.approx.ftz.f32 %r1, %r2;\n  div.full.f32 %r1, %r2, %r3;")) == 5
    assert len(offences("@%p1 mad.rn.f64 %rd1, %rd2, %rd3, %rd4;\n  mul.rn.ftz.f32 %r1, %r2, %r3;")) == 2
    assert len(offences("add.f32 %r1, %r2, %r3;\n  sub.f64 %rd1, %rd2, %rd3;\n  mul.bf16x2 %r1, %r2, %r3;")) == 3
    assert offences("mad.lo.s32 %r1, %r2, %r3;\nadd.rn.f32 %r1, %r2, %r3;  // fma.rn.f32\nadd.s64 %rd1, %rd2;") == []


@pytest.mark.parametrize(("distribution", "elements"), [("normal", 4), ("rademacher", 128)])
def test_no_thread_repeats_a_call_and_memory_moves_four_elements_at_a_time(distribution, elements):
    recorded = launches(distribution)
    kernel, given = recorded[0]
    threads = 32 * given["num_warps"]
    calls = max(1, given["BLOCK"] // elements // threads)  # of a thread, where a call's elements are not shared
    ptx = compiled(kernel, given, 90).asm["ptx"]
    assert 18 * calls <= len(re.findall(r"\bmul\.hi\.u32\b", ptx)) <= 20 * calls
    kernel, given = next((k, g) for k, g in recorded if k.__name__ == "update" and g["ADVANCE"] and g["UNIT"] == 128)
    ptx = compiled(kernel, given, 90).asm["ptx"]
    quads = given["BLOCK"] // threads // 4
    assert len(re.findall(r"\bld\.global\.v4\.b32\b", ptx)) == 2 * quads
    assert len(re.findall(r"\bst\.global\.v4\.b32\b", ptx)) == 2 * quads


def test_no_number_of_a_launch_is_compiled_in():
    recorded = launches("low_rank") + [launch for pair in launches_of_all("low_rank", 256) for launch in pair]
    kernels = {kernel.__name__: (kernel, given) for kernel, given in recorded}
    assert len(kernels) == 6
    for kernel, given in kernels.values():
        for parameter in kernel.params:
            if not parameter.is_constexpr and isinstance(given[parameter.name], (int, float)):
                assert parameter.do_not_specialize, parameter.name
                assert parameter.annotation_type, parameter.name
