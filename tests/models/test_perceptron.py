"""The small network for points."""

from __future__ import annotations

import pytest
import torch

from hiso_pl.models import Perceptron


@pytest.mark.parametrize(("hidden", "parameters"), [(32, 1386), (0, 330)])
def test_size_scores_and_losses(hidden: int, parameters: int) -> None:
    torch.manual_seed(0)
    network = Perceptron(hidden=hidden)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == parameters
    batch = {"features": torch.randn(6, 32), "label": torch.tensor([0, 1, 2, 3, 4, 9])}
    evaluation = network.evaluate(batch)
    assert evaluation.scores.shape == (6, 10)
    expected = -evaluation.scores.log_softmax(-1)[torch.arange(6), batch["label"]]
    torch.testing.assert_close(evaluation.loss, expected)
    assert network.evaluate({name: value[2:3] for name, value in batch.items()}).loss.shape == (1,)


@pytest.mark.parametrize("option", [{"features": 0}, {"hidden": -1}, {"classes": 1}])
def test_sizes_that_cannot_be_are_refused(option: dict[str, int]) -> None:
    [(name, value)] = option.items()
    with pytest.raises(ValueError, match=f"^{name}={value} must be at least"):
        Perceptron(**option)
