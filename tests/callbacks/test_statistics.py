import numpy as np
import pytest
import torch

from hiso_pl.callbacks.client_losses import ClientLosses
from hiso_pl.callbacks.statistics import SAMPLE, HessianLook, layers, scalar_statistics, slot_statistics
from hiso_pl.zeroth_order.digest import StateTensor


def look(*tensors):
    return HessianLook([StateTensor(f"layers.{i}.weight", "hessian", tensor) for i, tensor in enumerate(tensors)])


def test_quantiles_come_from_an_even_sample_across_tensors():
    small = look(torch.arange(100.0), torch.empty(0), torch.arange(100.0, 201.0).reshape(101, 1))
    assert small.quantiles() == {
        "hessian/min": 0.0, "hessian/max": 200.0, "hessian/p01": 2.0, "hessian/median": 100.0, "hessian/p99": 198.0,
    }  # fmt: skip
    values = torch.arange(float(3 * SAMPLE))
    large = look(values[: SAMPLE + 5], values[SAMPLE + 5 :])
    points = large.quantiles()
    assert points["hessian/max"] == float(values[-1])
    assert points["hessian/median"] == pytest.approx(1.5 * SAMPLE, rel=1e-3)
    assert look().quantiles() == look().by_layer() == {}


def test_histograms_by_layer_count_every_sampled_element_once():
    found = look(torch.full((50,), 100.0), torch.tensor([1e-8, 1e-4, 1.0, 0.0])).by_layer()
    assert list(found) == ["hessian_log10/layers.0", "hessian_log10/layers.1"]
    edges, counts = found["hessian_log10/layers.0"]
    assert counts.sum() == 50
    assert edges[np.flatnonzero(counts)[0]] <= 2 <= edges[np.flatnonzero(counts)[0] + 1]
    edges, counts = found["hessian_log10/layers.1"]
    assert (counts.sum(), edges[-1]) == (4, 0.0)
    assert look(torch.ones(1)).by_layer() == {}  # one number for a tensor is a line, no histogram


def test_layers_are_told_by_names_and_few():
    names = [
        *("model.embed.weight", "model.layers.0.q.weight", "model.layers.0.q.bias", "model.layers.1.q.weight"),
        *("model.layers.10.q.lora_A.default.weight", "model.norm.weight"),
    ]
    expected = {"embed": [0], "layers.0": [1, 2], "layers.1": [3], "layers.10": [4], "norm": [5]}
    assert layers(names) == expected
    assert layers(["weight"]) == {"weight": [0]}
    assert layers(["a.weight", "a.bias"]) == {"a": [0, 1]}
    many = layers([f"blocks.{i}.weight" for i in range(24)], most=12)
    assert list(many)[:2] == ["blocks.0 to blocks.1", "blocks.2 to blocks.3"]
    assert [position for members in many.values() for position in members] == list(range(24))
    assert len(layers([f"blocks.{i}.weight" for i in range(25)], most=12)) <= 12


def test_scalar_statistics():
    points = scalar_statistics(np.array([[3.0, -1.0]], dtype=np.float32))
    assert points == {"scalar/mean_abs": 2.0, "scalar/std": 2.0, "scalar/max_abs": 3.0}


def test_signal_to_noise_and_headroom_by_plain_loops():
    rng = np.random.default_rng(0)
    sent = rng.normal(0.3, 1.0, (5, 2, 3)).astype(np.float32)
    sent[1] = np.nan  # a slot that was dropped
    present = [0, 2, 3, 4]
    signal = noise = total = aggregated = 0.0
    ghat = np.zeros((2, 3), dtype=np.float32)
    for k in range(2):
        for p in range(3):
            values = [float(sent[i, k, p]) for i in present]
            mean = sum(values) / 4
            ghat[k, p] = mean
            signal += mean**2 / 6
            noise += sum((value - mean) ** 2 for value in values) / 3 / 6
            total += sum(value**2 for value in values) / 24
            aggregated += float(ghat[k, p]) ** 2 / 6
    found = slot_statistics(sent, ghat, (1,))
    assert found == {
        "scalar/snr": pytest.approx((signal / noise) ** 0.5),
        "scalar/headroom": pytest.approx(4 * aggregated / total),
    }


def test_clients_that_agree_have_all_the_headroom_and_those_alone_none():
    same = np.repeat(np.array([[[1.0, -2.0]]], dtype=np.float32), 4, axis=0)
    assert slot_statistics(same, same[0]) == {"scalar/headroom": 4.0}  # and no noise to divide by
    assert slot_statistics(same[:1], same[0]) == {"scalar/headroom": 1.0}
    apart = np.random.default_rng(0).normal(size=(8, 1, 4000)).astype(np.float32)
    found = slot_statistics(apart, apart.mean(axis=0))
    assert found["scalar/headroom"] == pytest.approx(1.0, abs=0.1)
    assert found["scalar/snr"] == pytest.approx(8**-0.5, rel=0.1)
    nothing = np.zeros((3, 1, 2), dtype=np.float32)
    assert slot_statistics(nothing, nothing[0]) == {}
    assert slot_statistics(same, same[0], range(4)) == {}
    assert slot_statistics(same, np.zeros((1, 8), dtype=np.float32)) == {}  # directions of their own


def test_losses_are_kept_by_client_and_stretch_of_the_run():
    losses = ClientLosses(clients=3, rounds=4)
    assert losses.last() == {}
    losses.add(0, (0, 2), np.array([1.0, 3.0], dtype=np.float32))
    losses.add(3, (2, 1), np.array([5.0, np.nan], dtype=np.float32))
    losses.add(4, (1,), np.array([9.0], dtype=np.float32))  # beyond the run
    nan = np.nan
    np.testing.assert_array_equal(losses.means(), [[1, nan, nan, nan], [nan] * 4, [3, nan, nan, 5]])
    edges, counts = losses.last()["train/loss_by_client"]
    assert (counts.sum(), edges[0], edges[-1]) == (2, 1.0, 5.0)
    many = ClientLosses(clients=1000, rounds=600)
    many.add(599, tuple(range(1000)), np.arange(1000, dtype=np.float32))
    assert many.means().shape == (100, 60)
    np.testing.assert_allclose(many.means()[:, -1], np.arange(100) * 10 + 4.5)
