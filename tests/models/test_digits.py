"""The small networks of the quickstart."""

from __future__ import annotations

import pytest
import torch

from hiso_pl.models import DigitsCNN, DigitsViT, Evaluation


@pytest.fixture
def pixels() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"pixels": torch.randn(6, 1, 8, 8, generator=generator), "label": torch.tensor([0, 1, 2, 3, 4, 9])}


@pytest.mark.parametrize(("build", "parameters"), [(DigitsCNN, 1898), (DigitsViT, 4986)])
def test_size_scores_and_losses(pixels, build, parameters):
    torch.manual_seed(0)
    network = build()
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == parameters
    assert not list(network.buffers())
    evaluation = network.evaluate(pixels)
    assert isinstance(evaluation, Evaluation)
    assert evaluation.scores.shape == (6, 10)
    assert evaluation.loss.dtype == torch.float32
    assert evaluation.prediction.tolist() == evaluation.scores.argmax(dim=-1).tolist()
    expected = -evaluation.scores.log_softmax(-1)[torch.arange(6), pixels["label"]]
    torch.testing.assert_close(evaluation.loss, expected)
    torch.testing.assert_close(network.loss(pixels), expected.mean())
    torch.testing.assert_close(network(pixels), evaluation.scores)


@pytest.mark.parametrize("build", [lambda: DigitsCNN(channels=4), lambda: DigitsViT(8, depth=1, heads=4, patch=4)])
def test_they_learn(pixels, build):
    torch.manual_seed(0)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    before = network.loss(pixels).item()
    for _ in range(40):
        optimizer.zero_grad()
        network.loss(pixels).backward()
        optimizer.step()
    assert network.loss(pixels).item() < before / 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DigitsCNN(channels=0), "channels=0 must be at least 1"),
        (lambda: DigitsViT(width=10, heads=3), "width=10 must be a multiple of heads=3"),
        (lambda: DigitsViT(patch=3), "patch=3 must be 1, 2, 4 or 8"),
        (lambda: DigitsViT(depth=0), "depth=0 must be at least 1"),
    ],
)
def test_sizes_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()
