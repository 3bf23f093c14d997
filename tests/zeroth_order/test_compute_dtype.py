"""Forward passes in 16 bit from fp32 masters: the same network that ``.to(dtype)`` gives, and fp32 everywhere else."""

import copy
import functools

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from hiso_pl.models import CausalLM, DigitsViT
from hiso_pl.models.adapters import LoRA
from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.precision import cast_frozen

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WAYS = [("fast", False), ("fast", True), ("low", False), ("low", True)]


class Mixed(nn.Module):
    """An embedding, attention, a convolution and a norm; the loss from fp32 logits."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(40, 8, padding_idx=1)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.convolution = nn.Conv1d(8, 6, 3)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def loss(self, batch):
        x = self.convolution(self.attention(self.e(batch["input_ids"])).transpose(1, 2))
        return F.cross_entropy(self.head(self.norm(x.mean(-1))).float(), batch["label"])


def batches(network):
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 1, 1, 0])
    if isinstance(network, DigitsViT):
        return [{"pixels": torch.randn(4, 1, 8, 8, generator=generator), "label": labels} for _ in range(2)]
    lengths = torch.tensor([8, 3, 5, 6])
    mask = (torch.arange(8) < lengths[:, None]).long()
    common = {"attention_mask": mask, "answer_position": lengths - 1, "label_words": torch.tensor([4, 5])}
    ids = [torch.randint(4, 40, (4, 8), generator=generator) for _ in range(2)]
    return [{**common, "input_ids": torch.where(mask.bool(), i, torch.tensor(1)), "label": labels} for i in ids]


def losses_of(network):
    def of(batch):
        return lambda k: network.loss({**batch, "label": batch["label"].roll(k)})

    return [of(batch) for batch in batches(network)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny language model's folder."""
    config = transformers.OPTConfig(
        vocab_size=40,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=3,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        init_std=0.3,
    )
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp("opt"))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


@pytest.fixture
def build(folder, monkeypatch):
    """Builds a network, the same one every time."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(name):
        torch.manual_seed(0)
        if name == "lora":
            network = CausalLM(folder, peft=LoRA(r=2, alpha=4, target_modules="all-linear"))
            with torch.no_grad():
                for parameter, p in network.named_parameters():
                    if "lora_B" in parameter:
                        p.normal_(std=0.3)
            return network
        if name == "head":
            network = Mixed().eval().requires_grad_(False)
            network.norm.requires_grad_(True)
            network.head.requires_grad_(True)
            return network
        return {"opt": lambda: CausalLM(folder), "vit": DigitsViT, "mixed": Mixed}[name]().eval()

    return make


NETWORKS = ["mixed", "head", "vit", "opt", "lora"]


def optimizer_of(trained, dtype, memory="fast", known=False, **options):
    if dtype != "float32":
        cast_frozen(trained, DTYPES[dtype])
    named = [(name, p) for name, p in trained.named_parameters() if p.requires_grad]
    network = trained if known else None
    chosen = {"lr": 0.02, "mu": 0.02, "num_directions": 2, "seed": 5, "network": network, **options}
    return ZerothOrderOptimizer(named, memory=memory, compute_dtype=dtype, **chosen)


def described(tensors):
    return [(t.data_ptr(), t.dtype, t.stride()) for t in tensors]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_at_x_is_that_of_the_network_cast(name, dtype, build):
    for memory, known in WAYS:
        network = build(name)
        cast = copy.deepcopy(network).to(DTYPES[dtype])
        optimizer = optimizer_of(network, dtype, memory, known)
        losses = losses_of(network)

        def at_base(optimizer=optimizer, losses=losses):
            return optimizer.at_base(lambda: [loss(0).item() for loss in losses])

        with torch.inference_mode():
            expected = [loss(0).item() for loss in losses_of(cast)]
        assert at_base() == expected
        optimizer.step(losses=losses)
        assert optimizer.report.slot_losses.tolist() == expected
        # after a step the way of reading is known, and x has moved
        with torch.inference_mode():
            moved = [loss(0).item() for loss in losses_of(copy.deepcopy(network).to(DTYPES[dtype]))]
        assert moved != expected
        assert at_base() == moved


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_way_gives_the_same_bits_and_state_is_fp32(name, dtype, build, caplog):
    for tau, difference in ((1, "forward"), (2, "central")):
        results = []
        for memory, known in WAYS:
            network = build(name)
            optimizer = optimizer_of(network, dtype, memory, known, local_steps=tau, difference=difference)
            placed = described(network.parameters())
            for _ in range(2):
                optimizer.step(losses=losses_of(network))
            assert described(network.parameters()) == placed
            assert {t.dtype for t in (*optimizer.parameters, *optimizer.stored_hessians)} == {torch.float32}
            assert optimizer.report.sent.any()
            results.append((digest(optimizer), optimizer.report.sent.tobytes()))
        assert results[1:] == results[:1] * 3
    assert not [record for record in caplog.records if "displaced whole" in record.message]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("difference", ["forward", "central"])
def test_displaced_weights_are_the_fp32_ones_rounded_once(dtype, memory, difference):
    seen = {}
    for kind in ("float32", dtype):
        torch.manual_seed(0)
        layer, x = nn.Linear(64, 4, bias=False), torch.randn(5, 64)
        found = seen[kind] = []

        def loss(layer=layer, x=x, found=found):
            found.append(layer.weight.clone())
            return F.linear(x, layer.weight.float()).square().mean()

        optimizer_of(layer, kind, memory, difference=difference).step(loss)
    assert {w.dtype for w in seen[dtype]} == {DTYPES[dtype]}
    # around them x is looked at: twice before, once after
    assert len(seen[dtype]) == len(seen["float32"]) == 3 + (3 if difference == "forward" else 4)
    for rounded, exact in zip(seen[dtype], seen["float32"], strict=True):
        assert torch.equal(rounded, exact.to(DTYPES[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("memory", "known"), WAYS)
def test_probing_leaves_the_base_weights_bit_identical(dtype, memory, known, build):
    network = build("mixed")
    before = [p.detach().clone() for p in network.parameters()]
    optimizer_of(network, dtype, memory, known, lr=0.0, local_steps=3).step(losses=losses_of(network))
    assert all(torch.equal(p, base) for p, base in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("number", [3, 8])
def test_several_points_in_a_forward_pass(number, build):
    runs = []
    for per_forward in (number, number, 1):
        network = build("lora")
        optimizer = optimizer_of(network, "bfloat16", known=True, directions_per_forward=per_forward)
        seen = set()

        def noted(k, loss, network=network, seen=seen):
            seen.update(p.dtype for name, p in network.named_parameters() if "lora" in name)
            return loss(k)

        optimizer.step(losses=[functools.partial(noted, loss=loss) for loss in losses_of(network)])
        assert seen == {torch.bfloat16}
        assert {p.dtype for p in optimizer.parameters} == {torch.float32}
        runs.append(optimizer)
    assert digest(runs[0]) == digest(runs[1])
    # a hidden state near 1 moves in steps of 0.008
    assert runs[0].report.slot_losses == pytest.approx(runs[2].report.slot_losses, abs=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_loss_in_16_bit_is_refused(dtype, memory):
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4), torch.randn(5, 6, dtype=DTYPES[dtype])
    placed = described(layer.parameters())
    optimizer = optimizer_of(layer, dtype, memory)
    with pytest.raises(ValueError, match=rf"one float32 number, computed from float32 logits; got torch\.{dtype}"):
        optimizer.step(lambda: layer(x).square().mean())
    assert described(layer.parameters()) == placed


@pytest.mark.parametrize(("memory", "known"), WAYS)
def test_at_base_gives_the_masters_back(memory, known, build):
    network = build("mixed")
    placed = described(network.parameters())
    values = [p.detach().clone() for p in network.parameters()]
    optimizer = optimizer_of(network, "bfloat16", memory, known, lr=0.0)
    for _ in range(2):  # before a step, and after one
        assert optimizer.at_base(lambda: {p.dtype for p in network.parameters()}) == {torch.bfloat16}
        with pytest.raises(KeyError):
            optimizer.at_base(lambda: {}["data"])
        assert described(network.parameters()) == placed
        optimizer.step(losses=losses_of(network))
    assert described(network.parameters()) == placed
    assert all(torch.equal(p, value) for p, value in zip(network.parameters(), values, strict=True))


def test_at_base_in_fp32_is_x_itself(build):
    network = build("mixed")
    placed = described(network.parameters())
    assert optimizer_of(network, "float32", "low").at_base(lambda: described(network.parameters())) == placed


@pytest.mark.parametrize(("memory", "known"), WAYS)
def test_at_base_serves_forward_passes_that_no_probe_made(memory, known, build):
    """A validation may read whole what the loss reads by rows."""
    network = build("opt")
    batch = batches(network)[0]
    optimizer = optimizer_of(network, "bfloat16", memory, known, lr=0.0)
    optimizer.step(losses=losses_of(network))
    cast = copy.deepcopy(network).to(torch.bfloat16)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        expected = cast.model(**inputs).logits
    assert torch.equal(optimizer.at_base(lambda: network.model(**inputs).logits), expected)


@pytest.mark.parametrize("dtype", ["float64", "half", "fp8", ""])
def test_an_unknown_dtype_is_refused(dtype):
    message = f"compute_dtype='{dtype}' must be one of float32, bfloat16, float16"
    with pytest.raises(ValueError, match=message):
        ZerothOrderOptimizer(nn.Linear(2, 2).named_parameters(), compute_dtype=dtype)


def test_frozen_weights_are_cast_for_good_and_buffers_are_not():
    network = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.BatchNorm1d(4), nn.Linear(4, 2))
    cast_frozen(network, torch.bfloat16)
    assert [p.dtype for p in network.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 4
    assert {b.dtype for b in network.buffers()} == {torch.float32, torch.int64}
