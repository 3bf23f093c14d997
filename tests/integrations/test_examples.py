"""The examples of docstrings run as they are printed; and what is said where one is done as with gradients."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

import hiso_pl.integrations
import hiso_pl.zeroth_order
from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from tests.integrations.training import examples, model

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def blocks(module: ModuleType) -> list[str]:
    """The indented blocks of a module's docstring, each after ``::``."""
    found = re.findall(r"::\n\n((?:    .*\n|\n)+)", module.__doc__ or "")
    return [textwrap.dedent(block) for block in found]


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(24, 4, generator=generator)
    return DataLoader([(x, (x.sum() > 0).long()) for x in inputs], batch_size=8)


def test_a_plain_loop_fabric_and_a_module_make_the_same_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ends = []
    for block in blocks(hiso_pl.zeroth_order):
        names: dict[str, Any] = {"batches": batches()}
        torch.manual_seed(3)
        exec(block, names)
        optimizer = names["module"].optimizers().optimizer if "module" in names else names["optimizer"]
        assert optimizer.round == 3
        ends.append(digest(optimizer))
    assert len(ends) == 3
    assert len(set(ends)) == 1  # dropout is off, so it makes no difference


def test_the_example_of_transformers_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(hiso_pl.integrations)
    names: dict[str, Any] = {"model": model(), "examples": examples()}
    exec(block.replace('report_to="none"', 'report_to="none", use_cpu=True'), names)
    assert names["trainer"].rounds.round == 10


def test_a_closure_that_calls_backward_is_told_what_to_do_instead() -> None:
    network = torch.nn.Linear(4, 2)
    optimizer = ZerothOrderOptimizer(network.named_parameters(), lr=1e-2)
    before = digest(optimizer)

    def closure() -> torch.Tensor:
        with torch.enable_grad():
            loss = network(torch.ones(3, 4)).square().mean()
            loss.backward()
        return loss

    with pytest.raises(ValueError, match=r"the closure calls backward\(\), .*: let it return the loss"):
        optimizer.step(closure)
    assert digest(optimizer) == before

    def failing() -> torch.Tensor:
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        optimizer.step(failing)


@pytest.mark.parametrize("manual", [False, True])
def test_a_lightning_module_is_told_of_manual_optimization(manual: bool, tmp_path: Path) -> None:
    class Usual(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.network = torch.nn.Linear(4, 2)

        def configure_optimizers(self) -> Any:
            return ZerothOrderOptimizer(self.network.named_parameters(), lr=1e-2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if not manual:
                return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

            def closure() -> torch.Tensor:
                loss = torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])
                self.manual_backward(loss)
                return loss

            self.optimizers().step(closure)
            return None

    trainer = Trainer(max_epochs=1, accelerator="cpu", devices=1, default_root_dir=tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"a LightningModule sets self\.automatic_optimization = False and calls"):
        trainer.fit(Usual(), batches())
