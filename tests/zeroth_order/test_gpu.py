"""Promise 7 on a GPU: the same directions and the same update as on the CPU. Skipped where there is none."""

import numpy as np
import pytest
import torch
from torch import nn

from hiso_pl.zeroth_order import (
    Adagrad,
    Adam,
    Diagonal,
    Greedy,
    Identity,
    Momentum,
    Normalized,
    RoundRecord,
    Scalar,
    Yogi,
    ZerothOrderOptimizer,
)
from hiso_pl.zeroth_order.digest import checksums, digest
from hiso_pl.zeroth_order.kernels import Decay, Offset, select
from hiso_pl.zeroth_order.streams import Site, direction

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
def test_directions_equal_the_reference(backend, distribution):
    count = (1 << 22) + 5
    site = Site.of(2**63 + 5, distribution, 3, 3, (1, 1000), 1499)
    out = torch.empty(count, device="cuda")
    select(backend, out.device).combine(out, site, 1, np.ones(1, dtype=np.float32))
    assert np.array_equal(out.cpu().numpy().view(np.uint32), direction(site, 1, 0, 0, count).view(np.uint32))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize(
    "options",
    [
        {"preconditioner": Diagonal(hessian_update="all")},
        {"preconditioner": Scalar()},
        {"update_rule": Momentum(), "distribution": "rademacher"},
        {"preconditioner": Diagonal(), "distribution": "low_rank", "rank": 2},
        {"update_rule": Adam()},
        {"update_rule": Yogi(), "preconditioner": Identity()},
        {"update_rule": Adagrad()},
        {"update_rule": Normalized("spread")},
        {"update_rule": Greedy()},
    ],
)
def test_three_updates_equal_those_of_the_cpu(backend, options):
    digests, sums = [], []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(700, 300), nn.Linear(300, 10)).to(device)
        chosen = backend if device == "cuda" else "auto"
        optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=0.1, seed=5, backend=chosen, **options)
        for r in range(3):
            scalars = np.random.default_rng(r).standard_normal((2, 4)).astype(np.float32)
            optimizer.apply(RoundRecord(r, 0.1, 1e-3, scalars, cohort=1))
        digests.append(digest(optimizer))
        sums.append(checksums(optimizer)[1].cpu())
    assert digests[0] == digests[1]
    assert torch.equal(sums[0], sums[1])


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_round_leaves_the_base_weights_bit_identical(memory):
    torch.manual_seed(0)
    model = nn.Linear(50, 4).cuda()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = ZerothOrderOptimizer(model.named_parameters(), lr=0.0, mu=0.5, local_steps=2, memory=memory)
    x, y = torch.randn(8, 50, device="cuda"), torch.randint(0, 4, (8,), device="cuda")
    loss = optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
    assert torch.isfinite(loss)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_large_tensor_is_updated_as_on_the_cpu():
    count, site, decay = 10**8, Site(7, "normal", 1, 3), Decay(0.05, 1e-8, 1e-8, "last")
    weights = np.array([[0.5, -2.0]], dtype=np.float32)
    for r in range(3):
        results = []
        for device in ("cpu", "cuda"):
            x, h = torch.ones(count, device=device), torch.ones(count, device=device)
            select("auto", x.device).update(x, h, site._replace(round=r), weights, 1e-2, decay, False)
            results.append((x.cpu(), h.cpu()))
        for found, expected in zip(*results, strict=True):
            assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("distribution", ["normal", "rademacher", "low_rank"])
def test_rows_and_16_bit_points_equal_those_of_the_cpu(distribution):
    site, none = Site.of(7, distribution, 5, 1, (500, 96), 3), np.empty((0, 1), dtype=np.float32)
    base = torch.randn(500, 96, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 499, 3, 0])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for chosen in (None, rows):
            outs = []
            for device in ("cpu", "cuda"):
                out = torch.empty(base.shape if chosen is None else (4, 96), dtype=dtype, device=device)
                there = None if chosen is None else chosen.to(device)
                moved = base.to(device)
                kernels = select("auto", out.device)
                kernels.displace(out, moved, moved.abs() + 0.1, site, 0, Offset(1, 1e-2), none, 0.0, there)
                outs.append(out.cpu())
            assert torch.equal(*outs)
