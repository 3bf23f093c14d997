"""Products, diagonals, traces and eigenvalues of a small network, against plain dense matrices."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F

from hiso_pl.diagnose import Client, Facts, HessianEstimate, Minibatch, Outputs, Problem, diagnose
from hiso_pl.diagnose import gauss_newton as gauss
from hiso_pl.diagnose.curvature import Hessian, diagonal
from hiso_pl.errors import RunError
from hiso_pl.zeroth_order import Block, Diagonal, PerTensor, Scalar, ZerothOrderOptimizer


class Net(nn.Module):
    """57 parameters, one of which nothing depends on."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 3)])
        self.unused = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x):
        return self.blocks[1](torch.tanh(self.blocks[0](x)))


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    net = Net().double()
    data = [(torch.randn(6, 5).double(), torch.randint(0, 3, (6,))) for _ in range(6)]

    def minibatch(x, y):
        return Minibatch(lambda: F.cross_entropy(net(x), y), len(x), lambda: Outputs(net(x)))

    clients = [Client([minibatch(*data[i]), minibatch(*data[i + 1])], weight) for i, weight in ((0, 1.0), (2, 3.0))]
    weights = [0.125, 0.125, 0.375, 0.375]
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    point = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def outputs(x, flat):
        parts = flat.split([s.numel() for s in shapes])
        return functional_call(net, {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}, (x,))

    def whole(flat):
        return sum(w * F.cross_entropy(outputs(x, flat), y) for w, (x, y) in zip(weights, data, strict=False))

    dense = hessian(whole)(point)
    gauss_newton = torch.zeros_like(dense)
    for w, (x, _) in zip(weights, data, strict=False):
        j, p = jacrev(lambda flat, x=x: outputs(x, flat))(point), outputs(x, point).softmax(1)
        s = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        gauss_newton += w / len(x) * torch.einsum("ncd,nce,nef->df", j, s, j)
    return Problem(dict(net.named_parameters()), clients, Facts(2, 5, 3)), dense.detach(), gauss_newton.detach()


def sums(problem, diagonal):
    return np.array([float(part.sum()) for part in diagonal.split([p.numel() for p in problem.parameters])])


def test_the_whole_hessian_and_products_with_it(made):
    problem, dense, _ = made
    assert torch.allclose(Hessian(problem, True).matrix, dense, atol=1e-12)
    v = torch.randn(3, problem.elements).double()
    for vectors in (v, v[:1]):
        assert torch.allclose(Hessian(problem, False).products(vectors), vectors @ dense, atol=1e-12)


def test_hutchinson_is_within_the_error_that_it_tells(made):
    problem, dense, _ = made
    h = HessianEstimate([None if i else torch.full((1,), 4.0) for i in range(5)], [p.shape for p in problem.parameters])
    found = diagonal(problem, Hessian(problem, False), h, 400, torch.Generator().manual_seed(1))
    truth, traces = dense.diagonal(), sums(problem, dense.diagonal())
    assert float(((found.values - truth) ** 2).mean() / (found.error**2).mean()) == pytest.approx(1.0, abs=0.5)
    assert np.all(np.abs(found.traces - traces) <= 4 * found.trace_errors + 1e-12)
    assert found.trace == pytest.approx(traces.sum(), abs=4 * found.trace_error)
    h_trace = float((truth / h.diagonal).sum())
    assert found.h_trace == pytest.approx(h_trace, abs=4 * found.h_trace_error)
    assert 0 < found.trace_error < 0.1 * found.trace
    exact = diagonal(problem, Hessian(problem, True), h, 4, torch.Generator())
    assert exact.h_trace == pytest.approx(h_trace)
    assert (exact.trace, exact.trace_error) == (pytest.approx(traces.sum()), 0.0)
    assert torch.equal(exact.halves[0], exact.values)


def test_eigenvalues_of_both_ends(made):
    problem, dense, _ = made
    all_of_them = np.linalg.eigvalsh(dense.numpy())
    found = Hessian(problem, False).eigenvalues(6)
    assert found == pytest.approx(np.r_[all_of_them[:3], all_of_them[-3:]], abs=2e-3 * all_of_them[-1])
    assert found[0] < 0  # negative curvature is found
    assert Hessian(problem, True).eigenvalues(6) == pytest.approx(all_of_them, abs=1e-12)
    shapes = [p.shape for p in problem.parameters]
    h = HessianEstimate([torch.rand(s).double() + 0.2 for s in shapes], shapes, scale=1.5)
    b = torch.diag(1.5 / h.diagonal.sqrt())
    divided = np.linalg.eigvalsh((b @ dense @ b).numpy())
    assert Hessian(problem, True).eigenvalues(2, h) == pytest.approx(divided, abs=1e-12)
    assert Hessian(problem, False).eigenvalues(2, h) == pytest.approx(divided[[0, -1]], abs=2e-3 * divided[-1])


def test_gauss_newton_by_rows_and_by_signs(made):
    problem, _, dense = made
    truth = sums(problem, dense.diagonal())
    exact = gauss.traces(problem, True, 4, torch.Generator())
    assert exact.traces == pytest.approx(truth, abs=1e-12)
    assert (exact.trace, exact.error) == (pytest.approx(truth.sum()), 0.0)
    few = gauss.traces(problem, False, 18, torch.Generator())  # 6 rows of 3 classes: no dearer than the probes
    assert few.traces == pytest.approx(truth, abs=1e-12)
    assert not few.error
    # so many that signs are drawn: of twelve rows, and more classes than probes
    wide = [Client([Minibatch(m.loss, 6, lambda m=m: _twice(m.outputs())) for m in c.minibatches], c.weight)
            for c in problem.clients]  # fmt: skip
    drawn = [
        gauss.traces(Problem(problem.tensors, wide, problem.facts), False, 16, torch.Generator().manual_seed(i))
        for i in range(12)
    ]
    whole = np.array([t.trace for t in drawn])
    assert whole.mean() == pytest.approx(truth.sum(), abs=4 * whole.std() / np.sqrt(12))
    assert np.mean([t.error for t in drawn]) == pytest.approx(whole.std(ddof=1), rel=0.6)
    assert np.mean([t.traces for t in drawn], 0) == pytest.approx(truth, rel=0.15, abs=1e-12)


def _twice(outputs):
    """The same rows twice, at half the weight each."""
    return Outputs(torch.cat([outputs.values] * 2), torch.full((12,), 1 / 12).double())


def test_a_loss_of_squares_is_its_own_gauss_newton_matrix():
    a = torch.randn(4, 3).double()
    x = nn.Parameter(torch.ones(3).double())
    batch = Minibatch(lambda: 0.5 * (a @ x).square().sum(), 1, lambda: Outputs((a @ x)[None], None, "squares"))
    found = diagnose(Problem({"x": x}, [Client([batch, batch])]), exact=True).whole
    assert found["gauss_newton_trace"] == pytest.approx(found["hessian_trace"]) == pytest.approx(float((a * a).sum()))


@pytest.mark.parametrize("preconditioner", [Diagonal(), Scalar(), PerTensor(), Block(size=4), Block(normalize="trace")])
def test_an_optimizers_H_is_what_its_directions_are_divided_by(preconditioner):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 2))
    optimizer = ZerothOrderOptimizer(net.named_parameters(), lr=0.1, preconditioner=preconditioner, backend="torch")
    x = torch.randn(4, 7)
    for _ in range(3):
        optimizer.step(lambda: net(x).square().mean())
    estimate, frozen = HessianEstimate.of(optimizer), optimizer.plan().frozen
    identity = torch.eye(estimate.elements).double()
    sizes = [p.numel() for p in optimizer.parameters]
    rows = []
    for row in identity.float():
        parts = [v.view(p.shape) for v, p in zip(row.split(sizes), optimizer.parameters, strict=True)]
        divided = [preconditioner.divide(v, h) for v, h in zip(parts, frozen.hessians, strict=True)]
        rows.append(torch.cat([d.reshape(-1) for d in divided]).double() * frozen.scale)
    b = torch.stack(rows).mT  # its columns are what basis vectors become
    assert torch.allclose(estimate.root(identity).mT, b, rtol=1e-5, atol=1e-5)
    assert torch.allclose(estimate.root_transposed(identity), b, rtol=1e-5, atol=1e-5)
    assert torch.allclose(estimate.inverse(identity), b @ b.mT, rtol=1e-4, atol=1e-5)
    assert estimate.inverse_trace() == pytest.approx(float((b @ b.mT).trace()), rel=1e-5)
    if getattr(preconditioner, "normalize", "none") == "trace":
        assert estimate.inverse_trace() == pytest.approx(estimate.elements, rel=1e-5)
    v = torch.randn(estimate.elements).double()
    assert estimate.square(v) == pytest.approx(float(torch.linalg.solve(b, v).square().sum()), rel=1e-4)
    shown = torch.cat([s.value.reshape(-1) for s in optimizer.shown_hessians()])
    if len(shown) == estimate.elements:
        assert torch.equal(estimate.diagonal.float(), shown)
    assert estimate.numbers == sum(h.numel() for h in optimizer.stored_hessians)


def test_a_network_in_float32_with_attention_and_pooling():
    """Attention's own kernels cannot be differentiated twice, and pooling's not in batches."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 8, 4)

    def loss():
        return F.max_pool1d(layer(x).mT, 2).square().mean()

    problem = Problem(dict(layer.named_parameters()), [Client([Minibatch(loss), Minibatch(loss)])])
    found = diagnose(problem, exact=True)
    assert found.whole["noise_sq"] == pytest.approx(0.0, abs=1e-9)
    dense = Hessian(problem, True).matrix
    v = torch.randn(1, problem.elements).double()
    assert torch.allclose(Hessian(problem, False).products(v), v @ dense, atol=1e-4)
    assert "gauss_newton_trace" not in found.whole


def test_what_cannot_be_is_refused(made):
    problem, _, _ = made
    tensors, clients = dict(problem.tensors), list(problem.clients)
    for message, options in {
        "probes=2 must": {"probes": 2},
        "eigenvalues=1 must": {"eigenvalues": 1},
    }.items():
        with pytest.raises(ValueError, match=message):
            diagnose(problem, **options)
    large = nn.Parameter(torch.zeros(20_000))
    batch = Minibatch(lambda: large.sum())
    with pytest.raises(ValueError, match="exact=True for 20000 elements, must be at most 16384"):
        diagnose(Problem({"x": large}, [Client([batch, batch])]), exact=True)
    with pytest.raises(ValueError, match="must require a gradient"):
        Problem({"x": torch.zeros(3)}, clients)
    with pytest.raises(ValueError, match="client 0 has 1 minibatches, must have 2"):
        Problem(tensors, [Client(clients[0].minibatches[:1])])
    with pytest.raises(ValueError, match="1 client given, must be 2"):
        Problem(tensors, clients[:1], Facts(2, 5))
    with pytest.raises(ValueError, match="2 clients given, of a population of 1"):
        Problem(tensors, clients)
    with pytest.raises(ValueError, match="cohort=3 must be at most population=2"):
        Facts(3, 2)
    with pytest.raises(ValueError, match="estimate is of 2 elements"):
        Problem(tensors, clients, problem.facts, HessianEstimate([None], [(2,)]))
    nan = Minibatch(lambda: large.sum() * float("nan"))
    with pytest.raises(RunError, match="the loss of client 0, minibatch 0 is nan"):
        diagnose(Problem({"x": large}, [Client([nan, nan])]))
