"""What a round refuses before it probes: a network that is not one function, and data of another round."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from hiso_pl.data.digits import DigitsData
from hiso_pl.models import DigitsCNN, DigitsViT
from hiso_pl.module import FederatedModule
from hiso_pl.stages import Stages
from hiso_pl.zeroth_order.digest import digest

pytestmark = pytest.mark.usefixtures("process_settings")


class Meddling(DigitsData):
    """Gives the data of another round in one of them."""

    round, given = -1, -1

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch._replace(index=self.given) if batch.index == self.round else batch


class Training(Callback):
    """Puts a module of the network into training mode before a round, and notes the state before each."""

    def __init__(self, round=-1):
        self.round, self.digests = round, []

    def finished(self, module):
        self.digests.append(digest(module.optimizer))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.digests.append(digest(pl_module.optimizer))
        if batch_idx == self.round:
            pl_module.network.second.train()


@pytest.fixture
def fit(tmp_path):
    """Runs four rounds."""

    def fit(callback, data, network=None, stages=None):
        module = FederatedModule(network or DigitsCNN(channels=2), stages=stages)
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=4,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            default_root_dir=tmp_path,
            callbacks=[callback],
        )
        try:
            trainer.fit(module, datamodule=data)
        finally:
            callback.finished(module)
        return module

    return fit


def data_of():
    return Meddling(clients=4, cohort=2, batch_size=4)


def test_rounds_go_well_otherwise(fit):
    callback = Training()
    assert fit(callback, data_of()).optimizer.round == 4
    assert len(set(callback.digests)) == 5


def test_a_network_in_training_mode_is_refused_at_any_round(fit):
    """Promise 8: also where it is one module within it, as a dropout or a batch norm would be."""
    callback = Training(2)
    with pytest.raises((RuntimeError, ValueError), match="training mode"):
        fit(callback, data_of())
    assert callback.digests[2] == callback.digests[3]


@pytest.mark.parametrize("given", [1, 3])
def test_data_of_another_round_is_refused(fit, given):
    data, callback = data_of(), Training()
    data.round, data.given = 2, given
    with pytest.raises((RuntimeError, ValueError), match=f"round {given} given, round 2 comes next"):
        fit(callback, data)
    assert callback.digests[2] == callback.digests[3]


class Nobody(Callback):
    """Looks at nothing."""

    def finished(self, module):
        pass


def test_a_fit_leaves_the_network_where_its_last_round_led(fit, tmp_path):
    """Also where the last round's update would wait for the next one's probes."""
    found = []
    for stages in (None, Stages(2, offload_dir=str(tmp_path / "scratch"))):
        torch.manual_seed(0)
        network = fit(Nobody(), data_of(), DigitsViT(), stages).network
        found.append([p.detach().clone() for p in network.parameters()])
    assert all(map(torch.equal, *found))
