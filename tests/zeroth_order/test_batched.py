"""Several points in one forward pass, over frozen weights that all of them share."""

import math

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from hiso_pl.models import CausalLM
from hiso_pl.models.adapters import LoRA
from hiso_pl.zeroth_order import Steps, ZerothOrderOptimizer
from hiso_pl.zeroth_order.batched import AUTO_LIMIT, AUTO_SHARE, resolve
from hiso_pl.zeroth_order.digest import digest
from hiso_pl.zeroth_order.interfaces import LocalExchange, Slots

DIRECTIONS, MU = 4, 1e-2
POINTS = {"forward": DIRECTIONS + 1, "central": 2 * DIRECTIONS}

TOLERANCE = 1e-3
"""Between numbers of points a forward pass differs in the order of its sums alone: by a few units in the last place of
the loss, 1.2e-7 at a loss near 1. Divided by mu that is 1.2e-5 a unit, of which 80 are allowed for."""


class Blocks(nn.Module):
    """A norm, frozen products wide enough for their order of sums to matter, and a head."""

    def __init__(self, width=96):
        super().__init__()
        self.e = nn.Embedding(40, width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.head = nn.Linear(width, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.e(x).mean(1) + self.down(torch.tanh(self.up(self.norm(self.e(x).mean(1))))))

    def loss(self, batch):
        return nn.functional.cross_entropy(self(batch["input_ids"]), batch["label"])


def batches():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([8, 3, 5, 6])
    mask = (torch.arange(8) < lengths[:, None]).long()
    ids = [torch.randint(4, 40, (4, 8), generator=generator) for _ in range(2)]
    common = {"attention_mask": mask, "answer_position": lengths - 1, "label_words": torch.tensor([4, 5])}
    labels = torch.tensor([0, 1, 1, 0])
    return [{**common, "input_ids": torch.where(mask.bool(), i, torch.tensor(1)), "label": labels} for i in ids]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny language model's folder."""
    config = transformers.OPTConfig(
        vocab_size=40,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=3,
        hidden_size=16,
        word_embed_proj_dim=8,
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
    """Builds a network of which a part is trained, the same one every time."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(part):
        torch.manual_seed(0)
        if part == "lora":
            network = CausalLM(folder, peft=LoRA(r=2, alpha=4, target_modules="all-linear"))
            with torch.no_grad():
                for name, p in network.named_parameters():
                    if "lora_B" in name:  # zero, which would leave the other half without effect
                        p.normal_(std=0.3)
            return network
        network = CausalLM(folder) if part == "norms of a language model" else Blocks().eval()
        for name, p in network.named_parameters():
            wanted = {"head": "head", "norm": "norm", "norms of a language model": "layer_norm", "all": ""}[part]
            p.requires_grad_(wanted in name)
        return network

    return make


PARTS = ["lora", "norms of a language model", "head", "norm"]


def trainable(network):
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


def optimizer_of(trained, number, **options):
    chosen = {"lr": 0.02, "mu": MU, "num_directions": DIRECTIONS, "seed": 5, "network": trained, **options}
    return ZerothOrderOptimizer(trainable(trained), directions_per_forward=number, **chosen)


def losses_of(network):
    def of(batch):
        return lambda k: network.loss({**batch, "label": batch["label"].roll(k)})

    return [of(batch) for batch in batches()]


def after(network, number, rounds, **options):
    optimizer = optimizer_of(network, number, **options)
    for _ in range(rounds):
        optimizer.step(losses=losses_of(network))
    return optimizer


@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("part", PARTS)
def test_scalars_do_not_depend_on_the_number_but_by_rounding(part, difference, build):
    points = POINTS[difference]
    expected = after(build(part), 1, 1, difference=difference, local_steps=2).report
    assert np.abs(expected.sent).max() > 1e-2
    for number in (2, 3, points, points + 3, "auto"):
        network = build(part)
        placed = [(p.data_ptr(), p.stride()) for p in network.parameters()]
        frozen = [p.clone() for p in network.parameters() if not p.requires_grad]
        optimizer = after(network, number, 1, difference=difference, local_steps=2)
        found = optimizer.report
        scale = np.maximum(1.0, np.abs(expected.sent))
        assert (np.abs(found.sent - expected.sent) <= TOLERANCE * scale).all()
        assert found.slot_losses == pytest.approx(expected.slot_losses, rel=1e-5)
        assert [(p.data_ptr(), p.stride()) for p in network.parameters()] == placed
        still = [p for p in network.parameters() if not p.requires_grad]
        assert all(torch.equal(a, b) for a, b in zip(still, frozen, strict=True))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("number", [2, "auto"])
def test_the_same_number_gives_the_same_bits(part, number, build):
    runs = [after(build(part), number, 2, local_steps=2) for _ in range(2)]
    assert digest(runs[0]) == digest(runs[1])
    assert runs[0].report.sent.tobytes() == runs[1].report.sent.tobytes()


def test_probing_leaves_the_base_weights_bit_identical(build):
    network = build("norm")
    before = [p.detach().clone() for p in network.parameters()]
    after(network, 3, 2, lr=0.0, mu=0.5, local_steps=2)
    assert all(torch.equal(p, base) for p, base in zip(network.parameters(), before, strict=True))

    batch = batches()[0]

    def failing(k):
        network.loss(batch)
        raise KeyError("data")

    optimizer = optimizer_of(network, 3)
    with pytest.raises(KeyError):
        optimizer.step(losses=[failing])
    assert all(torch.equal(p, base) for p, base in zip(network.parameters(), before, strict=True))
    assert all(type(p) is nn.Parameter for p in network.parameters())


@pytest.mark.parametrize("difference", ["forward", "central"])
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 20])
def test_there_are_no_more_forward_passes_than_needed(difference, number, build):
    network = build("head")
    after(network, number, 1, difference=difference, local_steps=2)
    looks = 3  # the first is watched, two more show whether the loss is the same each time
    assert network.calls == 2 * 2 * math.ceil(POINTS[difference] / number) + looks


class Watched(Blocks):
    """Keeps the number of points of each of its forward passes, where there are several."""

    def __init__(self):
        super().__init__()
        self.points = []

    def forward(self, x):
        if torch._C._functorch.is_batchedtensor(self.norm.weight):
            self.points.append(torch._C._functorch.get_unwrapped(self.norm.weight).shape[0])
        return super().forward(x)


def watched():
    torch.manual_seed(0)
    network = Watched().eval()
    for name, p in network.named_parameters():
        p.requires_grad_("norm" in name)
    return network


def test_passes_that_do_not_come_out_even_are_filled_up(build):
    """A pass of another number of points would round differently."""
    network = watched()
    optimizer = optimizer_of(network, 3)
    optimizer.step(losses=losses_of(network)[:1])
    assert network.points == [3, 3]  # for five points
    plain = optimizer_of(build("norm"), 1)
    plain.step(losses=losses_of(plain.network)[:1])
    assert optimizer.report.sent == pytest.approx(plain.report.sent, rel=TOLERANCE, abs=TOLERANCE)


def test_a_slot_that_is_not_finite_leaves_the_others_alone(build):
    network = build("norm")
    good, bad = losses_of(network)
    optimizer = optimizer_of(network, 3, local_steps=2)
    optimizer.step(losses=[good, lambda k: bad(k) * float("nan")])
    assert optimizer.report.dropped == (1,)
    alone = optimizer_of(build("norm"), 3, local_steps=2)
    alone.step(losses=losses_of(alone.network)[:1])
    assert optimizer.report.sent[0].tobytes() == alone.report.sent[0].tobytes()


# The number


def test_auto_goes_by_the_part_that_is_trained(build):
    assert optimizer_of(build("norm"), "auto").points_per_forward() == DIRECTIONS + 1
    assert optimizer_of(build("norm"), "auto", difference="central").points_per_forward() == 2 * DIRECTIONS
    assert optimizer_of(build("norms of a language model"), "auto").points_per_forward() == DIRECTIONS + 1
    assert optimizer_of(build("all"), "auto").points_per_forward() == 1
    assert optimizer_of(build("norm"), "auto", num_directions=50).points_per_forward() == AUTO_LIMIT
    assert resolve("auto", points=6, trained=math.floor(100 * AUTO_SHARE), total=100) == 6
    assert resolve("auto", points=6, trained=math.floor(100 * AUTO_SHARE) + 1, total=100) == 1
    network = build("all")
    after(network, "auto", 1, local_steps=2)
    assert network.calls == 2 * 2 * POINTS["forward"] + 3


def test_auto_is_the_same_number_in_every_round(build):
    """A resumed run must find the number that the run began with, whatever its schedules have come to."""
    schedule = Steps([1, 2], [1, 7])
    straight = after(build("norm"), "auto", 4, num_directions_schedule=schedule)
    begun = after(build("norm"), "auto", 2, num_directions_schedule=schedule)
    network = build("norm")
    with torch.no_grad():
        for (_, p), (_, value) in zip(trainable(network), trainable(begun.network), strict=True):
            p.copy_(value)
    resumed = optimizer_of(network, "auto", num_directions_schedule=schedule)
    resumed.load_state_dict(begun.state_dict())
    assert resumed.points_per_forward() == straight.points_per_forward() == DIRECTIONS + 1
    for _ in range(2):
        resumed.step(losses=losses_of(network))
    assert digest(resumed) == digest(straight)


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        (0, {}, "directions_per_forward=0 must be at least 1, or 'auto'"),
        (-1, {}, "directions_per_forward=-1 must be at least 1"),
        (True, {}, "directions_per_forward=True must be at least 1"),
        (2.0, {}, r"directions_per_forward=2\.0 must be at least 1"),
        ("all", {}, "directions_per_forward='all' must be at least 1, or 'auto'"),
        (2, {"memory": "low"}, "directions_per_forward=2 must be 1 with memory='low'"),
        ("auto", {"memory": "low"}, "directions_per_forward=auto must be 1 with memory='low'"),
        (2, {"network": None}, "directions_per_forward=2 needs network="),
        ("auto", {"network": None}, "directions_per_forward=auto needs network="),
        (2, {"network": nn.Linear(2, 2).eval()}, "network=Linear does not hold 2 of the parameters"),
    ],
)
def test_what_cannot_be_is_refused(number, options, message, build):
    network = build("norm")
    with pytest.raises(ValueError, match=message):
        optimizer_of(network, number, **options).step(losses=losses_of(network))


class Asking(nn.Module):
    """Goes by the value of a weight."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x):
        return self.l(x) if self.l.bias[0].item() > 0 else self.l(-x)


class Recurrent(nn.Module):
    """Has an operator without a batched form, and holds its weights beside the module's own table of them."""

    def __init__(self):
        super().__init__()
        self.l = nn.LSTM(4, 4)

    def forward(self, x):
        return self.l(x)[0]


class Numbers(Asking):
    """Takes its weights out of the graph of operators."""

    def forward(self, x):
        return x @ torch.tensor(self.l.weight.tolist())


@pytest.mark.parametrize("kind", [Asking, Recurrent, Numbers])
def test_a_network_that_cannot_be_mapped_is_told_to_take_one_at_a_time(kind):
    torch.manual_seed(0)
    network, x = kind().eval(), torch.randn(3, 4)
    placed = [p.data_ptr() for p in network.parameters()]
    optimizer = ZerothOrderOptimizer(network.named_parameters(), network=network, directions_per_forward=2)
    with pytest.raises(ValueError, match=r"^directions_per_forward=2 must be 1 for this network.*\(.+\)$"):
        optimizer.step(lambda: network(x).square().mean())
    assert [p.data_ptr() for p in network.parameters()] == placed
    assert all(type(p) is nn.Parameter for p in network.parameters())
    one = ZerothOrderOptimizer(network.named_parameters(), network=network, directions_per_forward=1)
    one.step(lambda: network(x).square().mean())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("not enough memory: you tried")])
def test_memory_that_runs_out_is_not_taken_for_a_network_that_cannot_be_mapped(error, build):
    network = build("norm")
    loss = losses_of(network)[0]

    def failing(k):
        if torch._C._functorch.is_batchedtensor(network.norm.weight):
            raise error
        return loss(k)

    with pytest.raises(type(error)) as caught:
        optimizer_of(network, 2).step(losses=[failing])
    assert caught.value is error


def test_a_loss_that_is_not_fp32_is_refused(build):
    network = build("norm")
    loss = losses_of(network)[0]
    with pytest.raises(ValueError, match=r"one float32 number.*torch\.float64"):
        optimizer_of(network, 2).step(losses=[lambda k: loss(k).double()])


# What must not go unnoticed


class Holding(nn.Module):
    """Keeps its parameters in a list of its own, past which no other values can be put."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 4)
        self.held = [self.l.weight, self.l.bias]

    def forward(self, x):
        return nn.functional.linear(x, *self.held)


@pytest.mark.parametrize("penalty", [False, True])
def test_parameters_held_elsewhere_are_not_taken_for_constants(penalty):
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    network = (nn.Linear(4, 4) if penalty else Holding()).eval()
    held = list(network.parameters())

    def loss():
        return network(x).square().mean() + (sum(p.square().sum() for p in held) if penalty else 0.0)

    optimizer = ZerothOrderOptimizer(network.named_parameters(), network=network, directions_per_forward=2)
    with pytest.raises(ValueError, match="directions_per_forward=2 must be 1 for this network"):
        optimizer.step(loss)


class Recording(LocalExchange):
    """One of several processes that share a slot: keeps what it would send."""

    def __call__(self, rows, slots):
        self.rows = rows.clone()
        return super().__call__(rows, slots)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_processes_that_share_a_slot_find_the_losses_that_one_alone_finds(ranks):
    """Promise 2: whatever the number of processes, and so in passes of the same number of points."""
    found = []
    for world in (1, ranks):
        total = 0.0
        for place in range(world):
            network, exchange = watched(), Recording()
            optimizer = optimizer_of(network, 3, exchange=exchange)
            slots = Slots(1, (0,), (0,), (1.0,), ((place, world),))
            optimizer.step(losses=losses_of(network)[:1], slots=slots)
            assert set(network.points) <= {3}
            total = exchange.rows + total
        found.append(total)
    assert torch.equal(*found)
