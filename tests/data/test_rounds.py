"""The data module: rounds for any rank count and any start, and evaluation batches dealt whole."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device

from hiso_pl.data.examples import Batch, ExampleSet, Splits
from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.module import FederatedDataModule
from hiso_pl.data.rounds import Round
from hiso_pl.federation import IID, ByColumn, Dirichlet, Fraction, LabelFlip, LogNormal, SignFlip
from hiso_pl.zeroth_order import Method
from hiso_pl.zeroth_order.interfaces import Slots


class Numbers(ExampleSet):
    """Example i is the number ``first + i``; it keeps a list of all it was asked for."""

    classes = ("even", "odd", "never")

    def __init__(self, count: int, first: int = 0) -> None:
        self.numbers = np.arange(first, first + count)
        self.labels = self.numbers % 2
        self.asked: list[int] = []

    @property
    def attributes(self) -> dict[str, np.ndarray]:
        return {**super().attributes, "length": self.numbers, "column:decade": self.numbers // 10}

    def collate(self, indices: np.ndarray) -> Batch:
        self.asked += indices.tolist()
        return {"number": torch.from_numpy(self.numbers[indices]), "label": torch.from_numpy(self.labels[indices])}

    def fingerprint(self) -> str:
        return f"{self.numbers[0]}+{len(self)}"


class NumbersData(FederatedDataModule):
    """Counts how often it is loaded."""

    def __init__(self, train: int = 100, val: int = 21, test: int = 0, **base) -> None:
        super().__init__(**{"clients": 6, "cohort": 4, "batch_size": 5, "eval_batch_size": 4, **base})
        self.counts = (train, val, test)
        self.loads = 0

    def load(self) -> Splits:
        self.loads += 1
        train, val, test = self.counts
        return Splits(Numbers(train), Numbers(val, 1000), Numbers(test, 2000) if test else None)


def ready(
    rank: int = 0, world: int = 1, start: int = 0, local_steps: int = 1, local_epochs: int = 0, method=None, **settings
) -> NumbersData:
    data = NumbersData(**settings)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=start)
    data.take(ModelFacts(local_steps, local_epochs, method=method))
    data.setup("fit")
    return data


def play(data: NumbersData, rounds: int) -> list[Round]:
    return list(itertools.islice(data.train_dataloader(), rounds))


def by_slot(rounds: list[Round]) -> dict[tuple[int, int], list[list[int]]]:
    """The numbers of each (round, slot), by local step."""
    return {
        (one.index, slot): [batch["number"].tolist() for batch in batches]
        for one in rounds
        for slot, batches in zip(one.slots.own, one.batches, strict=True)
    }


def test_a_round_is_what_its_names_say() -> None:
    data = ready(local_steps=3, partition=Dirichlet(0.5))
    for index, one in enumerate(play(data, 4)):
        assert one.index == index
        assert one.slots.size == len(one.slots.clients) == len(one.batches) == 4
        assert one.slots.weights == tuple(float(data.ownership.sizes[client]) for client in one.slots.clients)
        for client, batches in zip(one.slots.clients, one.batches, strict=True):
            assert len(batches) == 3
            for batch in batches:
                assert set(batch["number"].tolist()) <= set(data.parts[client].tolist())
                assert len(batch["number"]) == min(5, data.ownership.sizes[client])


def test_epochs_go_over_all_of_a_clients_examples_in_an_order_of_their_own() -> None:
    data = ready(local_epochs=2, partition=Dirichlet(0.5))
    rounds, orders = play(data, 4), set()
    for one in rounds:
        for slot, (client, batches) in enumerate(zip(one.slots.clients, one.batches, strict=True)):
            own = data.parts[client].tolist()
            each = -(-len(own) // 5)
            assert one.slots.steps[slot] == len(batches) == 2 * each
            numbers = [batch["number"].tolist() for batch in batches]
            assert all(len(batch) == 5 for half in (numbers[:each], numbers[each:]) for batch in half[:-1])
            for epoch in (numbers[:each], numbers[each:]):
                assert sorted(itertools.chain(*epoch)) == sorted(own)
                orders.add((client, str(epoch)))
    assert len(orders) >= 30  # of 32 passes; two of a client with few examples may be alike
    shared = [play(ready(rank, 3, local_epochs=2, partition=Dirichlet(0.5)), 4) for rank in range(3)]
    assert {key: value for part in shared for key, value in by_slot(part).items()} == by_slot(rounds)
    assert {one.slots.steps for part in shared for one in part} == {one.slots.steps for one in rounds}
    assert {one.slots.steps for one in play(ready(), 2)} == {()}


def test_rounds_are_the_ones_written_down() -> None:
    first = play(ready(), 2)
    assert [one.slots.clients for one in first] == [(0, 2, 3, 4), (1, 2, 3, 5)]
    assert first[0].batches[0][0]["number"].tolist() == [23, 66, 67, 89, 93]


@pytest.mark.parametrize("world", [2, 3, 5, 6])
def test_every_rank_count_plays_the_same_rounds(world: int) -> None:
    alone = by_slot(play(ready(local_steps=2), 8))
    together = {}  # type: ignore[var-annotated]
    for rank in range(world):
        rounds = play(ready(rank, world, local_steps=2), 8)
        assert [one.slots.clients for one in rounds] == [one.slots.clients for one in play(ready(), 8)]
        mine = by_slot(rounds)
        assert not together.keys() & mine.keys()
        together |= mine
    assert together == alone


ABSENT = {
    "availability": Fraction(0.6),
    "dropout": 0.2,
    "deadline": 3.0,
    "speeds": LogNormal(15.0, 0.7, latency=0.0),
    "method": Method(num_directions=3),
}


@pytest.mark.parametrize("world", [1, 2, 3, 5, 6])
def test_slots_whose_client_does_not_answer_are_evaluated_by_nobody(world: int) -> None:
    alone, count = play(ready(**ABSENT), 40), 0
    assert {one.slots.size for one in alone} == {4}
    numbers = [len(one.slots.absent) for one in alone]
    assert {0, 1, 2, 3} <= set(numbers)
    together, loads = {}, []  # type: ignore[var-annotated]
    for rank in range(world):
        rounds = play(ready(rank, world, spare_ranks="idle", **ABSENT), 40)
        assert [one.slots[2:4] + one.slots[5:] for one in rounds] == [one.slots[2:4] + one.slots[5:] for one in alone]
        mine = by_slot(rounds)
        assert not together.keys() & mine.keys()
        together |= mine
        loads.append([len(one.slots.own) for one in rounds])
        count += sum(map(len, (one.slots.own for one in rounds)))
        if world == 6:
            assert all(one.slots.clients[slot] == rank for one in rounds for slot in one.slots.own)
    assert together == by_slot(alone)
    assert count == sum(4 - n for n in numbers)
    assert world == 6 or all(max(each) - min(each) <= 1 for each in zip(*loads, strict=True))


def test_spare_ranks_help_those_that_are_there() -> None:
    alone = by_slot(play(ready(**ABSENT), 40))
    ranks = [play(ready(rank, 5, **ABSENT), 40) for rank in range(5)]
    for rounds in zip(*ranks, strict=True):
        slots = rounds[0].slots
        there = [slot for slot in range(4) if slot not in slots.absent]
        shares = Counter((one.slots.own[0], one.slots.shares[0]) for one in rounds if one.slots.own)
        whole = {(slot, (i, of)) for slot, (_, of) in shares for i in range(of)}
        assert set(shares) == whole
        assert {slot for slot, _ in whole} == set(there)
        assert sum(shares.values()) == (5 if there else 0)
        for one in rounds:
            assert all(by_slot([one])[one.index, slot] == alone[one.index, slot] for slot in one.slots.own)


def test_absence_needs_no_state() -> None:
    whole = play(ready(**ABSENT), 12)
    later = play(ready(start=5, **ABSENT), 7)
    assert [one.slots for one in later] == [one.slots for one in whole[5:]]
    assert [one.attendance for one in later] == [one.attendance for one in whole[5:]]
    assert by_slot(later) == by_slot(whole[5:])
    assert [one.attendance for one in play(ready(), 3)] == [None] * 3


def test_a_loader_begins_where_the_trainer_stands() -> None:
    whole = play(ready(local_steps=2), 9)
    assert by_slot(play(ready(start=4, local_steps=2), 5)) == by_slot(whole[4:])


def test_workers_load_the_same_rounds() -> None:
    loaded = play(ready(num_workers=2), 6)
    assert by_slot(loaded) == by_slot(play(ready(), 6))
    assert isinstance(loaded[0].slots, Slots)
    assert isinstance(loaded[0].slots.own, tuple)


def test_under_fixed_hosting_no_rank_opens_anothers_examples() -> None:
    for rank in range(6):
        data = ready(rank, 6)
        dataset = data.train_dataloader().dataset
        rounds = play(data, 10)
        assert set(data.splits.train.asked) <= set(data.parts[rank].tolist())  # type: ignore[attr-defined]
        assert set(dataset.hosted) == {rank}  # type: ignore[attr-defined]
        assert all(one.slots.clients[slot] == rank for one in rounds for slot in one.slots.own)


def test_a_round_survives_being_moved_to_a_device() -> None:
    one = play(ready(2, 6), 3)
    moved = [move_data_to_device(each, torch.device("cpu")) for each in one]
    assert by_slot(moved) == by_slot(one)
    assert all(isinstance(each, Round) and isinstance(each.slots.own, tuple) for each in moved)
    assert pickle.loads(pickle.dumps(one[0].slots)) == one[0].slots


def test_the_train_loader_has_no_length() -> None:
    with pytest.raises(TypeError):
        len(ready().train_dataloader())


def evaluated(world: int, **settings) -> dict[int, list[list[int]]]:
    """The batches of each rank, as positions in the split."""
    ranks = {}
    for rank in range(world):
        batches = list(ready(rank, world, **settings).val_dataloader())
        assert all(torch.equal(batch["number"], batch["index"] + 1000) for batch in batches)
        ranks[rank] = [batch["index"].tolist() for batch in batches]
    return ranks


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_example_is_evaluated_once_in_the_same_batches(world: int) -> None:
    ranks = evaluated(world)
    dealt = [ranks[number % world][number // world] for number in range(6)]
    assert dealt == evaluated(1)[0]
    assert list(itertools.chain(*dealt)) == list(range(21))
    assert sum(map(len, ranks.values())) == 6
    assert [len(ready(rank, world).val_dataloader()) for rank in range(world)] == [6 // world] * world


def test_a_rank_without_a_batch_has_a_loader_that_ends_at_once() -> None:
    assert evaluated(3, val=7)[2] == []
    for rank in range(3):
        with pytest.raises(TypeError):
            len(ready(rank, 3, val=7).val_dataloader())


def test_predict_prefers_the_test_split() -> None:
    assert next(iter(ready(test=3).predict_dataloader()))["number"].tolist() == [2000, 2001, 2002]
    assert next(iter(ready().predict_dataloader()))["number"].tolist() == [1000, 1001, 1002, 1003]
    assert [batch["number"].tolist() for batch in ready(test=3).test_dataloader()] == [[2000, 2001, 2002]]
    with pytest.raises(ValueError, match=r"^there is no test split"):
        ready().test_dataloader()


def test_a_partition_divides_by_what_it_names() -> None:
    natural = ready(train=60, partition=ByColumn("decade"))
    assert [part.tolist() for part in natural.parts] == [list(range(10 * i, 10 * i + 10)) for i in range(6)]
    assert play(natural, 1)[0].slots.weights == (10.0,) * 4
    by_length = ready(partition=Dirichlet(0.05, by="length", bins=4)).parts
    quarters = Dirichlet(0.05)(np.arange(100) // 25, 6, seed=0)
    assert [part.tolist() for part in by_length] == [part.tolist() for part in quarters]
    with pytest.raises(ValueError, match=r"column:century.*label, length, column:decade"):
        ready(partition=ByColumn("century"))


def test_data_is_loaded_once_and_without_a_trainer_too() -> None:
    data = NumbersData()
    data.setup("fit")
    data.setup("validate")
    assert data.loads == 1
    assert data.ownership.sizes.tolist() == [17, 17, 17, 17, 16, 16]
    assert by_slot(play(data, 3)) == by_slot(play(ready(), 3))


def test_a_checkpoint_knows_the_data_it_was_made_with() -> None:
    data = ready()
    data.trainer.state = SimpleNamespace(fn="fit")
    saved = data.state_dict()
    assert saved == data.fingerprints()
    data.load_state_dict(saved)
    other = ready(val=22)
    other.trainer.state = SimpleNamespace(fn="validate")
    other.load_state_dict(saved)  # a checkpoint may be measured on anything
    other.trainer.state.fn = "fit"
    with pytest.raises(ValueError, match=r"^this run differs from the checkpoint's in its validation data: give"):
        other.load_state_dict(saved)
    assert NumbersData().state_dict() == {}


def test_fingerprints_tell_data_and_partition_apart() -> None:
    prints = ready().fingerprints()
    assert set(prints) == {"partition", "train data", "validation data"}
    assert ready(seed=1).fingerprints()["partition"] != prints["partition"]
    assert ready(val=22).fingerprints()["validation data"] != prints["validation data"]
    assert set(ready(test=1).fingerprints()) == {*prints, "test data"}


def test_loaders_leave_torchs_generator_alone() -> None:
    before = torch.random.get_rng_state()
    data = ready()
    play(data, 2)
    list(data.val_dataloader())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cohort": 9, "clients": 8}, r"^cohort=9 must be in \[1, clients=8\]$"),
        ({"cohort": 0}, r"^cohort=0 must be in \[1, clients=6\]$"),
        ({"clients": 0}, "^clients=0 must be at least 1$"),
        ({"batch_size": 0}, "^batch_size=0 must be at least 1$"),
        ({"eval_batch_size": -1}, "^eval_batch_size=-1 must be at least 1$"),
        ({"num_workers": -1}, "^num_workers=-1 must be at least 0$"),
        ({"hosting": "both"}, "^hosting='both' must be one of"),
        ({"seed": -1}, "^seed=-1 must be"),
        ({"dropout": 1.0}, "^dropout=1.0 must be at least 0 and below 1$"),
        ({"deadline": 5.0}, "^deadline=5.0 needs to know what clients take"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NumbersData(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"world": 7}, "^7 ranks but only 6 clients"),
        ({"world": 5, "hosting": "fixed"}, "^hosting=fixed needs a rank for every client"),
        ({"train": 5}, "^minimum=1 examples for each of clients=6 needs 6 training examples"),
        ({"train": 5, "partition": IID(minimum=0)}, "^client 5 owns no training example"),
        ({"train": 0}, "^the training split has 0 examples"),
        ({"val": 0}, "^the validation split has 0 examples"),
        ({"speeds": LogNormal()}, "^speeds need to know what a client computes"),
        ({**ABSENT, "deadline": 0.01}, "^deadline=0.01 is met by nobody: the fastest of clients=6, client"),
    ],
)
def test_what_does_not_fit_is_refused_in_setup(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready(**settings)


def test_labels_outside_the_classes_are_refused() -> None:
    data = NumbersData()
    splits = data.load()
    splits.val.labels[3] = 3
    data.load = lambda: splits
    with pytest.raises(ValueError, match=r"^validation labels in \[0, 3\] must be in \[0, 3\)$"):
        data.setup()


def test_without_classes_every_label_is_zero() -> None:
    data = NumbersData()
    splits = data.load()
    for split in splits[:2]:
        split.classes, split.labels = (), np.zeros(len(split), dtype=np.int64)
    data.load = lambda: splits
    data.setup()
    del data.splits
    splits.train.labels[3] = 1
    with pytest.raises(ValueError, match=r"^training labels in \[0, 1\] must be in \[0, 1\)$"):
        data.setup()


def test_lightnings_own_sampler_is_refused() -> None:
    data = NumbersData()
    connector = SimpleNamespace(use_distributed_sampler=True, is_distributed=True)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2, _accelerator_connector=connector)
    with pytest.raises(ValueError, match=r"^trainer\.use_distributed_sampler=True must be false"):
        data.setup("fit")


class Unprepared(NumbersData):
    def prepare_data(self) -> None:
        raise OSError("the shelf is empty")


def test_alone_a_failed_preparation_is_raised_at_once() -> None:
    with pytest.raises(OSError, match="the shelf is empty"):
        Unprepared().prepare_data()


class Spy(LightningModule):
    """Writes down what a real trainer hands to its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.automatic_optimization = False
        self.rounds: list[Round] = []
        self.indices: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Round, batch_idx: int) -> None:
        self.rounds.append(batch)
        self.optimizers().step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.indices += batch["index"].tolist()

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return batch["index"]


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_plays_rounds_and_resumes_at_the_next(tmp_path) -> None:
    def trainer(rounds: int) -> Trainer:
        return Trainer(
            accelerator="cpu", max_steps=rounds, max_epochs=-1, val_check_interval=2, check_val_every_n_epoch=None,
            num_sanity_val_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip

    first, second = Spy(), Spy()
    begun, data = trainer(3), NumbersData()
    data.take(ModelFacts(local_steps=2))
    begun.fit(first, data)
    begun.save_checkpoint(tmp_path / "at3.ckpt")
    assert first.indices == list(range(21))
    data = NumbersData()
    data.take(ModelFacts(local_steps=2))
    resumed = trainer(5)
    resumed.fit(second, data, ckpt_path=tmp_path / "at3.ckpt")
    assert by_slot(first.rounds + second.rounds) == by_slot(play(ready(local_steps=2), 5))
    predictions = resumed.predict(second, data)
    assert torch.cat(predictions).tolist() == list(range(21))


@pytest.mark.parametrize("hosting", ["dealt", "fixed"])
def test_labels_of_hostile_clients_are_flipped_in_their_minibatches_and_nowhere_else(hosting: str) -> None:
    attack = LabelFlip(clients=[1, 4], start=2)
    facts = ModelFacts(2, attack=attack, seed=0)
    seen: dict[bool, int] = {True: 0, False: 0}
    for rank in range(6 if hosting == "fixed" else 2):
        data = NumbersData(hosting=hosting, partition=Dirichlet(0.5))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=6 if hosting == "fixed" else 2, global_step=0)
        data.take(facts)
        data.setup("fit")
        honest = ready(rank, 6 if hosting == "fixed" else 2, 0, 2, hosting=hosting, partition=Dirichlet(0.5))
        for one, plain in zip(play(data, 6), play(honest, 6), strict=True):
            assert (one.slots, len(one.batches)) == (plain.slots, len(plain.batches))
            for slot, batches, same in zip(one.slots.own, one.batches, plain.batches, strict=True):
                hostile = one.slots.clients[slot] in (1, 4) and one.index >= 2
                for batch, true in zip(batches, same, strict=True):
                    seen[hostile] += 1
                    assert torch.equal(batch["number"], true["number"])
                    # three classes, of which the middle one stays
                    assert torch.equal(batch["label"], 2 - true["label"] if hostile else true["label"])
        assert data.fingerprints() == honest.fingerprints()
        assert np.array_equal(data.splits.train.labels, honest.splits.train.labels)
        pickle.loads(pickle.dumps(data.train_dataloader().dataset))  # a loader's worker gets it so
    assert min(seen.values()) > 5


def test_labels_that_are_none_cannot_be_flipped() -> None:
    class Answers(NumbersData):
        def load(self) -> Splits:
            splits = super().load()
            for examples in splits[:2]:
                assert examples is not None
                examples.classes, examples.labels = (), np.zeros_like(examples.labels)
            return splits

    data = Answers()
    data.take(ModelFacts(attack=LabelFlip(), seed=0))
    with pytest.raises(ValueError, match=r"^attack=LabelFlip\(.*\) flips labels, so the task must be one with classes"):
        data.setup("fit")
    other = Answers()
    other.take(ModelFacts(attack=SignFlip(), seed=0))
    other.setup("fit")
