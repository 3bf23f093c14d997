"""What a run shows reaches every logger, and is there once however often the run is resumed."""

import csv
import re
import shutil
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hiso_pl.callbacks import RunFolder, TensorBoardPanels
from hiso_pl.callbacks.loggers import go_on

TEXT = """
model:
  method:
    class_path: hiso_pl.zeroth_order.Method
    init_args: {lr: 0.01, mu: 0.001, preconditioner: {class_path: hiso_pl.zeroth_order.Diagonal}}
data: {class_path: mine.Data, init_args: {clients: 4}}
"""
TIMES = ("time/", "epoch")


@pytest.fixture
def fit(stand_in):
    """A fit, or what comes after a checkpoint as the program resumes it."""

    def fit(root, rounds, loggers, ckpt=None, done=0, rounds_between=2):
        if ckpt is not None:
            go_on(loggers, root, done)
        board = TensorBoardPanels(hessian_every_n_rounds=rounds_between)
        trainer = stand_in.make_trainer(root, rounds, board, logger=loggers)
        next(c for c in trainer.callbacks if isinstance(c, RunFolder)).config_text = TEXT
        module, data = stand_in.Module(logs=False), stand_in.Data()
        data.splits.test = data.splits.train
        trainer.fit(module, datamodule=data, ckpt_path=ckpt)
        trainer.test(module, datamodule=data, verbose=False)
        return trainer

    return fit


def of_files(root):
    """Without a version, and in folders that they share: each has one of its own there."""
    return [CSVLogger(str(root), "logs"), TensorBoardLogger(str(root), "logs", default_hp_metric=False)]


def rows(root):
    """Every cell of a run's one file of rows: its column, step and value."""
    [path] = root.rglob("metrics.csv")
    with path.open(newline="") as file:
        cells = [
            (name, int(row["step"]), float(value))
            for row in csv.DictReader(file)
            for name, value in row.items()
            if value and name != "step" and not name.startswith(TIMES)
        ]
    return sorted(cells)


def points(root):
    """Every point of a run that TensorBoard shows."""
    paths = list(root.rglob("events.out.tfevents.*"))
    [_] = {path.parent for path in paths}
    # their names tell second and number, which of writers of one process are no order of letters: 9 and 10
    shown = root.with_name(f"{root.name}-shown")
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir()
    for place, path in enumerate(sorted(paths, key=lambda path: tuple(map(int, re.findall(r"\d+", path.name))))):
        shutil.copy(path, shown / f"events.out.tfevents.{place:03}")
    found = EventAccumulator(str(shown), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in found.Tags()["scalars"] if not tag.startswith(TIMES)]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in sorted(tags)}


def test_loggers_of_files_hold_every_point_once_however_often_a_run_is_resumed(fit, tmp_path):
    straight, root, kept = tmp_path / "straight", tmp_path / "resumed", tmp_path / "kept.ckpt"
    fit(straight, 9, of_files(straight))
    fit(root, 3, of_files(root))
    shutil.copy(root / "checkpoints" / "last.ckpt", kept)
    fit(root, 6, of_files(root), kept, 3)
    fit(root, 9, of_files(root), kept, 3)  # what rounds 4 to 6 have left is of a future that is computed again
    # a test is of the end of each part, losses by stretch of the run
    shown, expected = points(root), points(straight)
    assert shown.pop("test/accuracy")[-1] == expected.pop("test/accuracy")[-1] == (9, 0.5)
    assert shown == expected
    assert [step for step, _ in shown["val_by_paper_bytes/loss"]] == [0, 48, 96, 144]
    found = [cell for cell in rows(root) if cell[0] != "test/accuracy"]
    expected = [cell for cell in rows(straight) if cell[0] != "test/accuracy"]
    assert found == expected
    assert {name for name, *_ in found} >= {"train/loss", "val/loss", "val_best/accuracy", "hessian/median"}
    # the validation's own row has the KB sent as well, to draw one against the other
    [path] = root.rglob("metrics.csv")
    own = [row for row in csv.DictReader(path.open(newline="")) if row["val/loss"]]
    assert [float(row["comm/paper_kb"]) for row in own] == [r * 16 / 1024 for r in (0, 3, 6, 9)]


def test_what_is_refused_at_its_start_leaves_the_rows(fit, tmp_path):
    fit(tmp_path, 3, of_files(tmp_path))
    before = rows(tmp_path)
    loggers = of_files(tmp_path)
    go_on(loggers, tmp_path, 1)
    assert loggers[0].log_dir.endswith("version_0")
    loggers[0].save()  # Lightning does so before a run's first round
    loggers[0].finalize("failed")
    assert rows(tmp_path) == before


@pytest.mark.parametrize("content", [b"\xff\xfe", b"loss,epoch\n1,2\n"])
def test_a_file_that_holds_no_rows_of_a_run_is_left_alone(tmp_path, content):
    logger = CSVLogger(str(tmp_path), "rows", 0)
    path = tmp_path / "rows" / "version_0" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} must hold the rows of the run so far: .*; move it away"):
        go_on([logger], tmp_path, 3)
    assert path.read_bytes() == content


def test_versions_elsewhere_may_be_of_another_run(fit, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    fit(tmp_path / "run", 3, [CSVLogger(str(elsewhere))])
    logger = CSVLogger(str(elsewhere))
    go_on([logger], tmp_path / "run", 3)
    assert logger.version == 1


class Run(SimpleNamespace):
    """Of wandb's run what Lightning's logger and the board use."""

    def log(self, values):
        self.history.append(values)


@pytest.fixture
def wandb(monkeypatch):
    """In the place of wandb, which is no dependency: names and arguments as of wandb 0.22."""
    module, lib, run = (ModuleType(name) for name in ("wandb", "wandb.sdk.lib", "wandb.wandb_run"))
    config = SimpleNamespace(update=lambda params, allow_val_change: module.options.update(params))
    module.history, module.options, module.run, module.resumed = [], {}, None, False
    module.summary = {}
    module.init = lambda **options: Run(
        history=module.history, config=config, resumed=module.resumed, summary=module.summary, id=options["id"]
    )
    module.Image = lambda pixels: ("image", pixels.shape)
    module.Table = lambda columns, data, dataframe: ("table", columns, data)
    module.Histogram = lambda np_histogram: ("histogram", *np_histogram)
    lib.RunDisabled, run.Run = type("RunDisabled", (), {}), Run
    for name, found in (("wandb", module), ("wandb.sdk", ModuleType("wandb.sdk"))):
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib", lib)
    monkeypatch.setitem(sys.modules, "wandb.wandb_run", run)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return module


def by_name(history):
    found: dict[str, list] = {}
    for entry in history:
        for name, value in entry.items():
            found.setdefault(name, []).append((entry["trainer/global_step"], value))
    return found


def test_wandb_takes_curves_texts_pictures_and_histograms(fit, wandb, tmp_path):
    fit(tmp_path, 3, [WandbLogger(id="one"), *of_files(tmp_path)])
    found = by_name(wandb.history)
    for name in ("train/loss", "val/loss", "val_best/accuracy", "test/accuracy", "scalar/headroom"):
        values = [(step, pytest.approx(value)) for step, value in points(tmp_path)[name]]
        assert found[name] == values, name
    row = next(entry for entry in wandb.history if "val/loss" in entry and entry["trainer/global_step"] == 3)
    assert row["comm/paper_kb"] == 48 / 1024  # in the same row: a curve by KB
    [(_, [(kind, shape)])] = found["partition"]
    assert (kind, len(shape)) == ("image", 3)
    [(_, (kind, _, [[text]]))] = found["config/text"]
    assert (kind, text.splitlines()[1]) == ("table", "model:")
    steps = [step for step, (kind, counts, edges) in found["hessian_log10/weight"] if len(edges) == len(counts) + 1]
    assert steps == [0, 2]
    assert wandb.options["method"] == "HiSo"
    assert not any(name.startswith(("at a glance", "val_by_paper_bytes")) for name in found)
    # gone on with by its id: the points that it has are not given again
    known = list(wandb.history)
    wandb.resumed, wandb.summary["trainer/global_step"] = True, 5
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(tmp_path, 7, [WandbLogger(id="one")], last, 3)
    assert [step for step, _ in by_name(wandb.history[len(known) :])["train/loss"]] == [6, 7]


class Client:
    """In the place of MLflow's client: names and arguments as of mlflow 3."""

    def __init__(self, tracking_uri):
        self.artifacts, self.params, self.metrics = {}, {}, []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="0", lifecycle_stage="active")

    def create_run(self, experiment_id, tags):
        return SimpleNamespace(info=SimpleNamespace(run_id="run"))

    def get_run(self, run_id):
        return SimpleNamespace(data=SimpleNamespace(params=self.params), info=SimpleNamespace(experiment_id="0"))

    def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        self.metrics.extend(metrics)
        for param in params:
            assert param.key not in self.params, "MLflow refuses to change a parameter"
            self.params[param.key] = param.value

    def get_metric_history(self, run_id, key):
        return [metric for metric in self.metrics if metric.key == key]

    def log_text(self, run_id, text, artifact_file):
        self.artifacts[artifact_file] = text

    def log_image(self, run_id, image, artifact_file=None, key=None, step=None, timestamp=None, synchronous=None):
        assert image.dtype == np.uint8
        self.artifacts[artifact_file] = image

    def set_terminated(self, run_id, status=None):
        pass


@pytest.fixture
def mlflow(monkeypatch):
    """A maker of loggers of one run, for want of MLflow, which is no dependency."""
    names = ("mlflow", "mlflow.tracking", "mlflow.tracking.context", "mlflow.entities")
    modules = {name: ModuleType(name) for name in names}
    client = Client(None)
    modules["mlflow"].set_tracking_uri = lambda uri: None
    modules["mlflow.tracking"].MlflowClient = lambda uri: client
    modules["mlflow.tracking"].context = modules["mlflow.tracking.context"]
    modules["mlflow.tracking.context"].resolve_tags = lambda tags: tags
    modules["mlflow.entities"].Metric = modules["mlflow.entities"].Param = SimpleNamespace
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", True)
    return client, lambda run_id=None: MLFlowLogger(tracking_uri="nowhere", run_id=run_id, prefix="mine")


def test_mlflow_takes_curves_and_keeps_texts_and_pictures(fit, mlflow, tmp_path):
    client, logger = mlflow
    fit(tmp_path, 3, [logger()])
    steps = [metric.step for metric in client.get_metric_history("run", "mine-val/loss")]
    assert steps == [0, 3]
    assert client.params["method"] == "HiSo"
    assert set(client.artifacts) == {"config.md", "partition.md", "partition.png", "losses by client.png"}
    known = len(client.metrics)
    client.metrics.append(SimpleNamespace(key="mine-train/loss", step=5, value=0.0, timestamp=0))
    fit(tmp_path, 7, [logger("run")], tmp_path / "checkpoints" / "last.ckpt", 3)
    added = client.metrics[known + 1 :]
    assert [metric.step for metric in added if metric.key == "mine-train/loss"] == [6, 7]
    assert [metric.step for metric in added if metric.key == "mine-lr"] == [4, 5, 6, 7]


def test_a_logger_of_another_kind_takes_the_numbers(fit, stand_in, tmp_path):
    memory = stand_in.Memory()
    fit(tmp_path, 3, [memory])
    assert {step for name, step in memory.points if name == "train/loss"} == {1, 2, 3}
    assert memory.points["comm/paper_kb", 0] == 0.0


def test_curves_are_on_disk_when_a_checkpoint_is(fit, stand_in, tmp_path):
    """A kill after a checkpoint takes nothing that a resumed run would not make again."""
    seen = []

    class Killed(CSVLogger):
        def finalize(self, status):
            seen.append(rows(tmp_path))

    fit(tmp_path, 3, [Killed(str(tmp_path), flush_logs_every_n_steps=10**6)])
    assert {step for name, step, _ in seen[0] if name == "train/loss"} == {1, 2, 3}
