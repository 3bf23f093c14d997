"""What is compared: plain forwards at weights that stay, the usual way, and networks of the right sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from hiso_pl.bench.settings import Settings
from hiso_pl.bench.shapes import SHAPES
from hiso_pl.bench.usual import Kept, Noise, published_update
from hiso_pl.bench.workload import Workload, build_workload
from hiso_pl.stages import Stages
from hiso_pl.zeroth_order import Method
from hiso_pl.zeroth_order.kernels import Decay

METHOD = Method(lr=1e-8, num_directions=2, local_steps=2)
SMALL = Settings(METHOD, model="opt-tiny", batch_size=2, tokens=8, clients=2, threads=1)


def built(**options: object) -> Workload:
    return build_workload(
        replace(
            SMALL,
            method=replace(METHOD, **{k: v for k, v in options.items() if hasattr(METHOD, k)}),  # type: ignore[arg-type]
            **{k: v for k, v in options.items() if not hasattr(METHOD, k)},  # type: ignore[arg-type]
        ),
        torch.device("cpu"),
    )


def state(work: Workload) -> list[torch.Tensor]:
    return [t.detach().clone() for t in (*work.optimizer.parameters, *work.optimizer.stored_hessians)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forwards_leave_weights_alone_and_are_the_rounds_own(dtype: str) -> None:
    work = built(compute_dtype=dtype)
    before = state(work)
    with work.at_base():
        work.forwards()
        losses = [work.network.loss(client[0]).item() for client in work.batches]
    assert all(torch.equal(a, b) for a, b in zip(before, state(work), strict=True))
    work.round()
    assert work.reports[-1].slot_losses.tolist() == losses
    assert work.reports[-1].forwards == 2 * work.settings.forwards_per_slot


def test_clients_have_batches_of_their_own() -> None:
    batches = [batch for client in built().batches for batch in client]
    assert len(batches) == 4
    ids = {tuple(batch["input_ids"].flatten().tolist()) for batch in batches}
    assert len(ids) == 4
    for batch in batches:
        assert batch["input_ids"].shape == (2, 8)
        assert batch["attention_mask"].all()
        assert batch["answer_position"].tolist() == [7, 7]
        assert len(set(batch["label_words"].tolist())) == 2


def test_a_round_that_drops_a_client_is_an_error() -> None:
    work = built()
    with torch.no_grad():
        work.optimizer.parameters[0].fill_(float("nan"))
    with pytest.raises(RuntimeError, match="the losses of 2 of 2 clients were not finite"):
        work.round()


@pytest.mark.parametrize(("difference", "directions"), [("forward", "client"), ("central", "shared")])
def test_usual_way_is_put_back_to_the_bit(difference: str, directions: str) -> None:
    work = built(difference=difference, directions=directions)
    before = state(work)
    way = work.usual_way()
    with Kept([*work.optimizer.parameters, *work.optimizer.stored_hessians]).restored():
        way.round(work.batches)
        moved = state(work)
    assert not any(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    # adding and subtracting drifts, but by no more than rounding
    drift = [(a - b).abs().max().item() for a, b in zip(before, moved, strict=True)]
    assert max(drift[: len(work.optimizer.parameters)]) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(before, state(work), strict=True))


def test_usual_updates_are_the_methods() -> None:
    torch.manual_seed(0)
    x, hessian, decay = torch.randn(1000), torch.rand(1000) + 0.5, Decay(0.05, 0.0, 0.0, "last")
    scalars = [[0.3, -1.2, 2.0]]
    directions = []
    for p in range(3):
        directions.append(torch.randn(1000, generator=torch.Generator().manual_seed(7 + p)) / hessian.sqrt())
    mean = sum(g * z for g, z in zip(scalars[0], directions, strict=True)) / 3
    expected_x, expected_h = x - 0.1 * mean, 0.95 * hessian + 0.05 * mean * mean

    published = x.clone()
    h = published_update(published, hessian, scalars, 7, 0.1, decay)
    assert h is not None
    torch.testing.assert_close(published, expected_x)
    torch.testing.assert_close(h, expected_h)

    careful, h = x.clone(), hessian.clone()
    Noise([careful], [h], 7).update(scalars, 0.1, decay)
    torch.testing.assert_close(careful, expected_x)
    torch.testing.assert_close(h, expected_h)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("opt-7m", 6_902_272),
        ("opt-125m", 125_239_296),
        ("opt-350m", 331_196_416),
        ("opt-1.3b", 1_315_758_080),
        ("opt-2.7b", 2_651_596_800),
        ("opt-6.7b", 6_658_473_984),
    ],
)
def test_shapes_have_the_published_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.OPTConfig(**SHAPES[name]))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_random_weights_follow_the_seed_and_are_scored_by_reduced_logits() -> None:
    first, again, other = (built(seed=seed).network for seed in (1, 1, 2))
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert not first.full_logits
    assert first.model.get_output_embeddings().weight is first.model.get_input_embeddings().weight
    assert METHOD.lr > 0


def test_stages_that_would_be_brought_to_a_gpu_are_refused() -> None:
    settings = Settings(model="opt-tiny", stages=Stages(2))
    with pytest.raises(ValueError, match=r"stages\.on=host must be ranks on a GPU"):
        build_workload(settings, torch.device("cuda", 0))
