"""The best checkpoint is the one whose own validation the monitor prefers, found by name among the run's own."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from hiso_pl.cli import program as cli
from hiso_pl.run.best import best_kept

pytestmark = pytest.mark.usefixtures("process_settings")

PLATEAU = '{"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau", "init_args": {"patience": 0, "threshold": 0.5}}'
RUN = [
    *("--seed_everything", "7", "--threads", "1", "--data", "hiso_pl.data.DigitsData", "--data.validation", "60"),
    *("--model.network", "hiso_pl.models.DigitsCNN", "--model.method.lr", "0.02", "--trainer.enable_progress_bar"),
    *("false", "--checkpoint.monitor", "val/loss", "--checkpoint.every_n_train_steps", "3", "--checkpoint.save_top_k"),
    *("-1", "--trainer.val_check_interval", "2", "--trainer.max_steps", "8", "--trainer.logger", "false"),
    *("--model.lr_scheduler", PLATEAU),
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    root = tmp_path_factory.mktemp("best") / "run"
    assert cli.main(["fit", *RUN, "--trainer.default_root_dir", str(root)]) == 0
    return root


def test_each_is_judged_by_its_own_validation(kept, caplog, tmp_path):
    """What it was kept by is what it measures when it is loaded; due after rounds 3 and 6, validated after 4 and 6."""
    names = ("step=4", "step=6")
    files = {name: kept / "checkpoints" / f"{name}.ckpt" for name in names}
    assert sorted(path.stem for path in (kept / "checkpoints").glob("step=*.ckpt")) == list(names)
    last = torch.load(kept / "checkpoints" / "last.ckpt", weights_only=True)
    [state] = [state for key, state in last["callbacks"].items() if key.startswith("ModelCheckpoint")]
    scores = {path.rpartition("/")[2]: float(score) for path, score in state["best_k_models"].items()}
    own = {}
    for name, path in files.items():
        caplog.clear()
        with caplog.at_level("INFO", logger="hiso_pl"):
            assert cli.main(["validate", *RUN, "--trainer.default_root_dir", str(kept), "--ckpt_path", str(path)]) == 0
        own[name] = float(caplog.messages[-1].split()[1])
        assert scores[f"{name}.ckpt"] == pytest.approx(own[name], abs=1e-4)
        # and a run goes on from it to the same state
        root = tmp_path / name
        shutil.copytree(kept, root)
        assert cli.main(["fit", *RUN, "--trainer.default_root_dir", str(root), "--ckpt_path", str(path)]) == 0
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in (kept, root)]
        assert summaries[0]["digest"] == summaries[1]["digest"]
        assert summaries[0]["metrics"]["val/loss"]["last"] == summaries[1]["metrics"]["val/loss"]["last"]
    best = min(own, key=own.get)
    assert best_kept(kept) == files[best]
    caplog.clear()
    with caplog.at_level("INFO", logger="hiso_pl"):
        assert cli.main(["validate", *RUN, "--trainer.default_root_dir", str(kept), "--ckpt_path", "best"]) == 0
    assert float(caplog.messages[-1].split()[1]) == own[best]


def test_a_fit_goes_on_from_the_last(kept, capsys):
    assert cli.main(["fit", *RUN, "--trainer.default_root_dir", str(kept), "--ckpt_path", "best"]) == 1
    assert "ckpt_path=best must be last for fit" in capsys.readouterr().err


def test_a_path_in_the_file_is_not_followed(kept, tmp_path):
    """The name is taken, and looked for among the run's checkpoints."""
    root = tmp_path / "run"
    shutil.copytree(kept, root)
    assert best_kept(root).parent == root / "checkpoints"  # the files still name the folder that they were copied from
    best_kept(root).unlink()
    with pytest.raises(ValueError, match=r"the best by val/loss is not in .* any more: name one by its path"):
        best_kept(root)


def test_without_a_metric_there_is_no_best(tmp_path):
    root = tmp_path / "run"
    more = ["--checkpoint.monitor", "null", "--checkpoint.save_top_k", "1", "--trainer.default_root_dir", str(root)]
    assert cli.main(["fit", *RUN, *more, "--trainer.max_steps", "2"]) == 0
    with pytest.raises(ValueError, match=r"keeps checkpoints by no metric: set checkpoint\.monitor"):
        best_kept(root)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        best_kept(tmp_path)
