"""Networks in stages give the bits of the network uncut, whatever the family; what cannot be cut is refused."""

from __future__ import annotations

import errno
import os
from typing import ClassVar

import pytest
import torch
import transformers
from torch import nn

from hiso_pl.errors import RunError
from hiso_pl.models import CausalLM, ImageClassifier, SequenceClassifier
from hiso_pl.stages import Stages
from hiso_pl.stages.advice import advised, advising
from hiso_pl.stages.blocks import even_starts
from hiso_pl.stages.offload import Offload
from hiso_pl.zeroth_order import Identity, Method, Scalar, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import Slots

FAMILIES = ["opt", "opt-plain", "gpt2", "llama", "qwen3", "gemma2", "mistral", "phi", "bloom"]


def trained(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


@pytest.fixture
def run(batch, to_left):
    """Runs three rounds of two clients, one of whose batches is padded on the left; gives the digest and the losses."""

    def run(network: nn.Module, stages: Stages | None = None, batches=None, **options):
        batches = batches or [batch, to_left(batch)]
        settings = {"lr": 0.05, "mu": 1e-2, "num_directions": 3, **options}
        told = stages.told(network, [p for _, p in trained(network)]) if stages else {}
        optimizer = ZerothOrderOptimizer(trained(network), network=network, **told, **settings)
        found = []
        for _ in range(3):
            slots = Slots(len(batches), tuple(range(len(batches))), tuple(range(len(batches))))
            losses = [lambda k, b=b: network.loss(b) for b in batches]
            found.append(float(optimizer.step(losses=losses, slots=slots)))
        assert len(set(found)) == 3
        return digest(optimizer), found

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_give_the_bits_of_the_network_uncut(folder, run, family):
    path = folder(family, blocks=4)
    uncut = run(CausalLM(path))
    for count in (2, 4):
        assert run(CausalLM(path), Stages(count)) == uncut


@pytest.mark.parametrize(
    "options",
    [
        {"local_steps": 3},
        {"directions": "client"},
        {"directions": "client", "local_steps": 2},
        {"difference": "central"},
        {"distribution": "low_rank", "rank": 2},
        {"memory": "low"},
        {"compute_dtype": "bfloat16", "mu": 0.1},
        {"preconditioner": Scalar()},
        {"preconditioner": Identity()},
    ],
    ids=str,
)
def test_so_does_every_way_of_probing(folder, run, tmp_path, options):
    path = folder("opt", blocks=4)
    uncut = run(CausalLM(path), **options)
    assert run(CausalLM(path), Stages(3, offload_dir=str(tmp_path)), **options) == uncut


@pytest.mark.parametrize("loss", ["label_words", "full_vocabulary"])
@pytest.mark.parametrize("family", ["opt-plain", "llama"])
def test_a_tied_head_is_displaced_at_both_ends(folder, run, family, loss):
    path = folder(family, blocks=3)
    assert run(CausalLM(path, loss=loss), Stages(3)) == run(CausalLM(path, loss=loss))


@pytest.mark.parametrize(
    "peft",
    [{"peft_type": "LORA", "r": 2}, {"peft_type": "IA3"}, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}],
)
def test_adapters_go_in_stages(folder, run, peft):
    def network():
        torch.manual_seed(0)
        return CausalLM(folder("llama", blocks=4), peft=dict(peft))

    assert run(network(), Stages(2)) == run(network())


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "gpt2"])
def test_classifiers_go_in_stages(folder, run, batch, family):
    def network():
        torch.manual_seed(0)
        return SequenceClassifier(folder(family, blocks=3))

    assert run(network(), Stages(3), [batch]) == run(network(), None, [batch])


def test_an_image_classifier_goes_in_stages(folder, run):
    pixels = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    batches = [{"pixels": pixels, "label": torch.tensor([1, 4, 2])}]
    path = folder("vit", blocks=4)
    assert run(ImageClassifier(path, 7), Stages(3), batches) == run(ImageClassifier(path, 7), None, batches)


def test_only_a_stage_is_copied(folder, batch):
    network = CausalLM(folder("llama", blocks=4))
    told = Stages(4).told(network, [p for _, p in trained(network)])
    cut, optimizer = told["stages"], ZerothOrderOptimizer(trained(network), network=network, **told)
    optimizer.step(losses=[lambda k: network.loss(batch)])
    sizes = [sum(optimizer.parameters[t].numel() for t in part) for part in cut.parts]
    assert len(set().union(*cut.parts)) == len(optimizer.parameters)
    assert optimizer._probe()._points._memory.numel() <= max(sizes) < sum(sizes) / 2


def test_what_was_put_into_files_is_read_from_there_and_leaves_none(folder, run, tmp_path):
    path = folder("llama", blocks=4)
    where = tmp_path / "deep" / "scratch"
    network = CausalLM(path)
    assert run(network, Stages(2, offload_dir=str(where))) == run(CausalLM(path))
    assert list(where.iterdir()) == []
    assert all(str(where) in str(p.untyped_storage().filename) for p in network.parameters())


@pytest.mark.parametrize("folder", [".", "scratch"])
def test_parameters_are_put_into_files_as_they_are_made(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    offload = Offload(folder)
    with offload.filling():
        layer = nn.Linear(3, 2)
    assert all(str(tmp_path) in str(p.untyped_storage().filename) for p in layer.parameters())
    size = offload.bytes
    offload.put(layer)
    assert offload.bytes == size
    assert nn.Linear(3, 2).weight.untyped_storage().filename is None


@pytest.mark.parametrize(("sizes", "count", "starts"), [
    ([1, 1, 1, 1], 2, [0, 2]),
    ([5, 1, 1, 1], 2, [0, 1]),
    ([1, 1, 1, 5], 3, [0, 1, 3]),
    ([3, 1, 1, 1, 3], 5, [0, 1, 2, 3, 4]),
])  # fmt: skip
def test_the_largest_stage_is_as_small_as_can_be(sizes, count, starts):
    found = even_starts(sizes, count)

    def largest(cuts):
        return max(sum(sizes[a:b]) for a, b in zip(cuts, [*cuts[1:], len(sizes)], strict=True))

    assert len(found) == count
    assert found[0] == 0
    assert found == sorted(set(found))
    assert largest(found) == largest(starts)


def test_what_is_left_beside_the_largest_stage_is_even():
    assert even_starts([100, 10, 10, 10, 10, 10, 10, 100], 4) == [0, 1, 4, 7]


# What cannot be cut


class Layer(nn.Linear):
    """A block that may remember what the first one was given, and add it in the last."""

    remembers: bool = False
    remembered: ClassVar[dict[str, torch.Tensor]] = {}
    place = 0

    def forward(self, x):
        if self.remembers and self.place == 0:
            self.remembered["x"] = x
        return super().forward(x + self.remembered["x"] if self.remembers and self.place == 3 else x)


class Odd(nn.Module):
    """A network of four blocks whose forward pass is what it is told to be."""

    def __init__(self, way: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(Layer(4, 4) for _ in range(4))
        for i, layer in enumerate(self.layers):
            layer.remembers, layer.place = way == "remembering", i
        self.other = nn.Linear(4, 4)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)
        self.way = way

    def loss(self, batch):
        first = x = self.other(batch)
        layers = list(self.layers)
        if self.way == "twice":
            layers = layers * 2
        if self.way == "backwards":
            layers = layers[::-1]
        if self.way == "skipping":
            layers = layers[1:]
        for layer in layers:
            x = torch.tanh(layer(x))
            if self.way == "between":
                x = self.other(x)
            if self.way == "residual":
                x = x + first
        return x.square().mean() + (first.mean() if self.way == "end" else 0.0)


@pytest.mark.parametrize("way", ["plain", "between"])
def test_what_stands_between_blocks_goes_along(run, way):
    batches = [torch.randn(3, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    assert run(Odd(way).eval(), Stages(3), batches) == run(Odd(way).eval(), None, batches)


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("twice", "once each and in order, it ran 0, 1, 2, 3, 0"),
        ("backwards", "once each and in order, it ran 3, 2, 1, 0"),
        ("skipping", "once each and in order, it ran 1, 2, 3"),
        ("residual", "do not give the loss of the network uncut"),
        ("end", "do not give the loss of the network uncut"),
        ("remembering", "do not give the loss of the network uncut"),
    ],
)
def test_what_leaves_the_chain_is_refused(run, way, told):
    with pytest.raises(ValueError, match=told):
        run(Odd(way).eval(), Stages(2), [torch.ones(3, 4)])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"count": 1}, "count=1 must be at least 2"),
        ({"count": 5}, "count=5 must be at most 4, the number of blocks in layers"),
        ({"blocks": "other"}, "blocks='other' must be a list of blocks of the network: layers"),
        ({"count": 2, "starts": [0, 0]}, "must be the first block of each stage"),
        ({"count": 2, "starts": [0]}, "must have a first block for each of 2 stages"),
        ({"count": 2, "starts": [0, 4]}, "rising below 4"),
        ({"on": "disk"}, "on='disk' must be 'host' or 'ranks'"),
        ({"on": "ranks"}, "stages.on=ranks must be host here"),
    ],
)
def test_stages_that_cannot_be_are_refused(options, told):
    with pytest.raises(ValueError, match=told.replace("[", r"\[")):
        Stages(**options).told(Odd("plain"), [])


def test_an_encoder_decoder_is_refused(run, batch):
    sides = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.BartConfig(
        vocab_size=40, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, **sides
    )
    network = transformers.BartModel(config).eval()
    network.loss = lambda ids: network(input_ids=ids).last_hidden_state.square().mean()
    with pytest.raises(ValueError, match="as a decoder reads its encoder"):
        run(network, Stages(2), [batch["input_ids"]])


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear, which has no blocks"):
        Stages().told(nn.Linear(2, 2), [])


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"offload_dir=.* must be a folder to write to"):
        Offload(tmp_path / "file")


def test_a_file_system_that_is_full_is_said(tmp_path, monkeypatch):
    offload = Offload(tmp_path)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match="must have room for 40 bytes beside 4: No space left on device"):
        offload.take(torch.zeros(10))
    assert list(tmp_path.iterdir()) == []


# Memory that does not suffice


def test_memory_that_does_not_suffice_is_told_with_what_would(folder):
    network = CausalLM(folder("llama", blocks=4))
    x = sum(4 * p.numel() for p in network.parameters())
    found = advised(network, Method(), torch.device("cuda", 0), room=3 * x)
    assert found.startswith("out of memory: cuda:0 has 0.0 GB, and the weights, H and a displaced copy")
    assert "model.stages with on: ranks and count: 2 has" in found
    assert " on a rank, or with on: host and count: 3 has" in found
    assert "on: ranks and count: 4 has" in advised(network, Method(), torch.device("cuda", 0), room=int(1.5 * x))
    assert "it fits in no number of stages" in advised(network, Method(), torch.device("cuda", 0), room=x // 10)
    assert "count: 2 and an offload_dir has" in advised(network, Method(), torch.device("cpu"), room=x)


def test_only_errors_of_memory_are_explained(folder):
    network = CausalLM(folder("opt"))
    told = r"out of memory: cpu has .* GB.*model\.stages.*\(CUDA out of memory\)"
    with pytest.raises(RunError, match=told), advising(network, Method(), torch.device("cpu")):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="another"), advising(network, Method(), torch.device("cpu")):
        raise RuntimeError("another")
    with pytest.raises(MemoryError), advising(nn.Linear(1, 1), Method(), torch.device("cpu")):
        raise MemoryError
