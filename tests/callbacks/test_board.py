import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from hiso_pl.callbacks import RunFolder, TensorBoardPanels
from hiso_pl.callbacks.hyperparameters import chosen
from hiso_pl.lightning_privates import log_together

CURVES = {
    "train/loss", "scalar/mean_abs", "scalar/std", "scalar/max_abs", "scalar/snr", "scalar/headroom", "scalar/dropped",
    "time/round_s", "time/probe_s", "time/update_s", "comm/paper_kb", "comm/protocol_kb", "comm/measured_kb", "lr",
    "mu", "cost/forwards",
}  # fmt: skip
TEXT = """
seed_everything: 1
trainer: {max_steps: 7}
model:
  network: {class_path: mine.Net, init_args: {pretrained: /some/where/opt-125m, peft: {peft_type: IA3}}}
  method:
    class_path: hiso_pl.zeroth_order.Method
    init_args:
      lr: 0.01
      mu: 0.001
      num_directions: 2
      local_steps: 1
      preconditioner: {class_path: hiso_pl.zeroth_order.Diagonal}
      update_rule: {class_path: hiso_pl.zeroth_order.Momentum}
data:
  class_path: hiso_pl.data.PromptData
  init_args: {task: sst2, clients: 4, cohort: 2, batch_size: 8,
    partition: {class_path: hiso_pl.federation.Dirichlet, init_args: {alpha: 0.5, minimum: 1}}}
"""
OPTIONS = {
    "method": "HiSo Momentum", "lr": 0.01, "mu": 0.001, "num_directions": 2, "local_steps": 1, "clients": 4,
    "cohort": 2, "batch_size": 8, "partition": "Dirichlet(0.5)", "model": "opt-125m", "task": "sst2",
    "tuning": "IA3", "rounds": 7, "seed": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def events(stand_in, tmp_path_factory):
    root = tmp_path_factory.mktemp("board")
    board = TensorBoardPanels(every_n_rounds=2, hessian_every_n_rounds=3)
    history = stand_in.History()
    trainer = stand_in.make_trainer(root, 7, board, history, logger=TensorBoardLogger(str(root), "", ""))
    next(c for c in trainer.callbacks if isinstance(c, RunFolder)).config_text = TEXT
    module, data = stand_in.Module(logs=False), stand_in.Data()
    data.splits.test = data.splits.train
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    sizes = {"scalars": 0, "tensors": 0, "images": 0, "histograms": 0}
    found = EventAccumulator(str(root), size_guidance=sizes)
    found.Reload()
    found.path_of_events = str(max(root.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_size))
    return found, history.seen


def steps(found, tag):
    return [event.step for event in found.Scalars(tag)]


def test_curves_are_at_the_number_of_rounds_done(events):
    found, _ = events
    assert set(found.Tags()["scalars"]) >= CURVES
    for tag in CURVES:
        assert steps(found, tag) == [2, 4, 6, 7], tag
    assert [event.value for event in found.Scalars("comm/paper_kb")] == [
        pytest.approx(rounds * 2 * 2 * 4 / 1024) for rounds in (2, 4, 6, 7)
    ]
    # two clients with P + 1 = 3 forwards each
    assert [event.value for event in found.Scalars("cost/forwards")] == [rounds * 2 * 3 for rounds in (2, 4, 6, 7)]
    assert [event.value for event in found.Scalars("lr")] == pytest.approx([0.01] * 4)


def test_the_curves_of_a_round_are_one_event(events):
    found, _ = events
    rows = [event for event in EventFileLoader(found.path_of_events).Load() if event.step == 2]
    [together] = [event for event in rows if any(value.tag == "mu" for value in event.summary.value)]
    assert {value.tag for value in together.summary.value} == CURVES
    assert {found.Scalars(tag)[0].wall_time for tag in CURVES} == {together.wall_time}


def test_a_prefix_of_the_logger_stays(tmp_path):
    board = TensorBoardLogger(str(tmp_path), "", "", prefix="mine")
    log_together(board, {"lr": 0.5, "mu": float("nan")}, 3)
    board.save()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("mine-lr")] == [(3, 0.5)]
    assert np.isnan(found.Scalars("mine-mu")[0].value)


def test_the_hessian_before_the_first_round_and_now_and_then(events):
    found, _ = events
    values = []
    for name in ("min", "p01", "median", "p99", "max"):
        assert steps(found, f"hessian/{name}") == [0, 3, 6]
        assert found.Scalars(f"hessian/{name}")[0].value == 1.0
        values.append(found.Scalars(f"hessian/{name}")[-1].value)
    assert values == sorted(values)
    assert 0 < values[0] < values[-1]
    looks = found.Histograms("hessian_log10/weight")
    assert [look.step for look in looks] == [0, 3, 6]
    assert all(look.histogram_value.num == 40 for look in looks)
    assert looks[0].histogram_value.min <= 0 <= looks[0].histogram_value.max
    assert looks[-1].histogram_value.min == pytest.approx(np.log10(values[0]))
    assert looks[-1].histogram_value.max == pytest.approx(np.log10(values[-1]))


def test_validation_by_round_and_by_bytes(events):
    found, seen = events
    rounds = [0, 3, 6, 7]
    assert [r for r, _ in seen] == rounds
    for name in ("loss", "accuracy"):
        assert steps(found, f"val/{name}") == steps(found, f"val_best/{name}") == rounds
        assert steps(found, f"at a glance/val {name}") == rounds
        assert steps(found, f"val_by_paper_bytes/{name}") == [r * 16 for r in rounds]
    for tag in ("val/loss", "val_by_paper_bytes/loss", "at a glance/val loss"):
        assert [e.value for e in found.Scalars(tag)] == pytest.approx([v for _, v in seen])
    best = [min(v for _, v in seen[: i + 1]) for i in range(4)]
    assert [e.value for e in found.Scalars("val_best/loss")] == pytest.approx(best)
    best = [max(1 / (1 + v) for _, v in seen[: i + 1]) for i in range(4)]
    assert [e.value for e in found.Scalars("val_best/accuracy")] == pytest.approx(best)
    assert steps(found, "at a glance/train loss") == [3, 6, 7]
    assert found.Scalars("at a glance/train loss")[-1].value == found.Scalars("train/loss")[-1].value


def test_what_is_seen_first_is_training_and_validation(events):
    """TensorBoard orders groups by name."""
    found, _ = events
    first = sorted(found.Tags()["scalars"] + found.Tags()["histograms"] + found.Tags()["images"])[:3]
    assert first == ["at a glance/train loss", "at a glance/val accuracy", "at a glance/val loss"]
    layout = Layout.FromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [category.title for category in layout.category][:2] == ["Training and validation", "Communication"]
    [chart] = layout.category[1].chart
    assert list(chart.multiline.tag) == ["^comm/"]
    assert not any(tag.startswith(("final", "epoch")) for tag in found.Tags()["scalars"])


def test_configuration_and_partition(events):
    found, _ = events
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("```yaml\nmodel:\n  method:\n")
    assert text.index("data:") < text.index("seed_everything:") < text.index("trainer:")
    assert yaml.safe_load(text.removeprefix("```yaml").removesuffix("```")) == yaml.safe_load(TEXT)
    clients = found.Tensors("partition/text_summary")[0].tensor_proto.string_val[0].decode()
    assert clients.splitlines()[-1] == "| 0 | 3 |"
    assert found.Images("partition")[0].width > 300
    assert [picture.step for picture in found.Images("losses by client")] == [7]
    assert [look.step for look in found.Histograms("train/loss_by_client")] == [3, 6]


def test_the_options_that_matter_stand_beside_last_best_and_test_metrics(events):
    found, _ = events

    def content(name):
        return HParamsPluginData.FromString(found.SummaryMetadata(f"_hparams_/{name}").plugin_data.content)

    given = {name: value for name, value in content("session_start_info").session_start_info.hparams.items()}
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()} == OPTIONS
    table = content("experiment").experiment
    first = {option.name for option in table.hparam_infos if option.differs}
    assert first == {"method", "lr", "model", "partition", "task"}
    metrics = {metric.name.tag for metric in table.metric_infos}
    assert metrics == {f"{kind}/{name}" for kind in ("val", "val_best", "test") for name in ("loss", "accuracy")}
    assert (metrics - {"test/loss"}) <= set(found.Tags()["scalars"])  # the stand-in measures no loss at its test
    assert [(event.step, event.value) for event in found.Scalars("test/accuracy")] == [(7, 0.5)]


def test_a_method_is_named_by_what_it_is_made_of():
    parts = "preconditioner: {class_path: hiso_pl.zeroth_order.Scalar}, directions: "
    text = "model: {method: {class_path: hiso_pl.zeroth_order.Method, init_args: {lr: 0.1, " + parts + "%s}}}"
    assert [chosen(text % word)["method"] for word in ("shared", "client")] == ["HiSo Scalar", "HiSo Scalar own"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_rounds": 0}, "every_n_rounds=0 must be at least 1"),
        ({"hessian_every_n_rounds": -1}, "hessian_every_n_rounds=-1 must be at least 0"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        TensorBoardPanels(**options)
