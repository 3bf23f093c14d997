"""What a data module is told of the model, and what it makes of it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

from hiso_pl.data import DigitsData, ModelFacts, facts_of
from hiso_pl.federation import Clip, SignFlip
from hiso_pl.first_order import FedAvg
from hiso_pl.models import DigitsCNN
from hiso_pl.module import FederatedModule
from hiso_pl.zeroth_order import Method


def module(**options) -> FederatedModule:
    with torch.random.fork_rng():
        return FederatedModule(DigitsCNN(channels=2), Method(lr=0.01, **options))


def digits(**options) -> DigitsData:
    return DigitsData(**{"clients": 4, "cohort": 2, "batch_size": 4, **options})


def test_the_facts_are_the_models_own():
    model = module(local_steps=1)
    trained = sum(p.numel() for _, p in model.trainable())
    assert facts_of(model) == ModelFacts(num_labels=10, method=model.method, trained=trained)
    model = module(local_steps=3, transform=Clip(1.0))
    model.network.max_positions, model.network.tokenizer_source = 9, "there"
    model.change_on_resume = ["data.init_args.train_file"]
    assert facts_of(model) == ModelFacts(
        local_steps=3,
        withholds_losses=True,
        max_positions=9,
        tokenizer_source="there",
        data_may_change=True,
        num_labels=10,
        method=model.method,
        trained=trained,
    )
    model.change_on_resume = ["model", "database"]
    assert not facts_of(model).data_may_change


def fit(model: FederatedModule, data: DigitsData, folder) -> None:
    Trainer(
        accelerator="cpu", max_steps=2, max_epochs=-1, val_check_interval=2, check_val_every_n_epoch=None,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder,
    ).fit(model, data)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("taken", "own"), [(None, 3), (3, 1)])
def test_local_steps_that_differ_end_the_run(tmp_path, taken, own):
    data = digits()
    if taken is not None:
        data.take(ModelFacts(local_steps=taken))
    message = rf"^the data are for local_steps={taken or 1}, the method takes {own}: hand it over by data\.take"
    with pytest.raises(ValueError, match=message):
        fit(module(local_steps=own), data, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_script_of_ones_own_hands_them_over_in_a_line(tmp_path):
    model, data = module(local_steps=3), digits()
    data.take(facts_of(model))
    fit(model, data, tmp_path)
    assert model.optimizer.round == 2
    assert model.last_validation["val/accuracy"] >= 0.0
    assert model.traffic.protocol_bytes == 2 * 4 * 3 * model.method.num_directions * (2 / 4 + 1)
    data.take(facts_of(model))  # the same once more
    with pytest.raises(ValueError, match=r"^data were prepared for another model, or for none: take"):
        data.take(ModelFacts(local_steps=2))


@pytest.mark.parametrize(
    ("option", "facts", "shares"),
    [
        ("auto", ModelFacts(), True),
        ("help", ModelFacts(local_steps=2), True),
        ("idle", ModelFacts(), False),
        ("auto", ModelFacts(local_steps=2), False),
        ("auto", ModelFacts(withholds_losses=True), False),
        ("auto", ModelFacts(undivided="FedAvg"), False),
    ],
)
def test_spare_ranks_help_where_raw_losses_may_leave_a_client(option, facts, shares):
    data = digits(spare_ranks=option)
    data.trainer = SimpleNamespace(global_rank=2, world_size=3, global_step=0)
    data.take(facts)
    data.setup("fit")
    rounds = list(itertools.islice(data.train_dataloader(), 6))
    assert any(one.slots.shares for one in rounds) == shares
    assert {one.slots.population for one in rounds} == {4}


def test_help_is_refused_where_a_transform_decides_what_leaves_a_client():
    with pytest.raises(ValueError, match=r"^spare_ranks='help' must be idle or auto: it sends raw losses") as caught:
        digits(spare_ranks="help").take(ModelFacts(withholds_losses=True))
    assert "\n" not in str(caught.value)


def test_help_is_refused_where_a_slot_is_the_work_of_one_rank():
    with torch.random.fork_rng():
        facts = facts_of(FederatedModule(DigitsCNN(channels=2), FedAvg(local_epochs=2)))
    assert facts._replace(method=None, trained=0) == ModelFacts(local_epochs=2, undivided="FedAvg", num_labels=10)
    with pytest.raises(ValueError, match=r"^spare_ranks='help' must be idle or auto: with FedAvg a slot is one rank's"):
        digits(spare_ranks="help").take(facts)


@pytest.mark.parametrize(
    ("attack", "options", "said"),
    [
        (SignFlip(clients=[4]), {}, r"^attack\.clients=\[4\] must be below clients=4: they are numbered from 0$"),
        (SignFlip(), {"seed": 5}, r"^seed=5 must be the model's, 0: it says which clients are hostile$"),
    ],
)
def test_hostile_clients_that_cannot_be_are_refused_before_anything_is_loaded(attack, options, said):
    with pytest.raises(ValueError, match=said):
        digits(**options).take(facts_of(module(attack=attack)))
