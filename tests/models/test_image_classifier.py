"""Images of any size for a pretrained vision model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from hiso_pl.models import ImageClassifier, LoRA


@pytest.fixture
def digits():
    generator = torch.Generator().manual_seed(0)
    return {"pixels": torch.randn(6, 1, 8, 8, generator=generator), "label": torch.arange(6)}


def test_grey_images_of_another_size_reach_the_model(folder, digits):
    network = ImageClassifier(folder("vit"), num_labels=7)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder("vit"), dtype=torch.float32).eval()
    images = F.interpolate(digits["pixels"], (12, 12), mode="bilinear").repeat(1, 3, 1, 1)
    with torch.inference_mode():
        expected = model(pixel_values=images).logits
        evaluation = network.evaluate(digits)
        assert torch.equal(network.scores({"pixels": images}), expected)
    torch.testing.assert_close(evaluation.scores, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(evaluation.loss, F.cross_entropy(expected, digits["label"], reduction="none"))
    assert network.pretrained_names() == {name for name, _ in network.named_parameters()}
    assert network.tokenizer_source is None


def test_other_channels_are_refused(folder):
    with pytest.raises(ValueError, match="pixels of 2 channels given, must be 1 or the model's 3"):
        ImageClassifier(folder("vit")).scores({"pixels": torch.zeros(1, 2, 12, 12)})
    with pytest.raises(ValueError, match="num_labels=1 must be at least 2"):
        ImageClassifier(folder("vit"), num_labels=1)


def test_a_head_for_another_number_of_classes_is_drawn_anew(folder, digits):
    scores = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        network = ImageClassifier(folder("vit"), num_labels=10)
        with torch.inference_mode():
            scores.append(network.scores(digits))
    assert scores[0].shape == (6, 10)
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    others = {name for name, _ in network.named_parameters()} - network.pretrained_names()
    assert others == {"model.classifier.weight", "model.classifier.bias"}


@pytest.mark.parametrize("peft", [None, LoRA(r=2, target_modules=["q_proj", "v_proj", "query", "value"])])
def test_rounds_move_it_and_repeat(folder, digits, rounds, peft):
    found = []
    for options in ({}, {"memory": "low"}, {"directions_per_forward": 3}):
        torch.manual_seed(0)
        network = ImageClassifier(folder("vit"), peft=peft)
        begins = {name: p.clone() for name, p in network.named_parameters() if p.requires_grad}
        assert peft is None or all("lora_" in name or "classifier" in name for name in begins)
        found.append(rounds(network, digits, lr=0.05, **options))
        assert all(not torch.equal(p, begins[name]) for name, p in network.named_parameters() if name in begins)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_allclose(found[2], found[0], rtol=1e-3, atol=1e-3)
    assert any("classifier" in name for name in begins)
