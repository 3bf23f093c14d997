import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from hiso_pl.callbacks import RunFolder, TensorBoardPanels
from hiso_pl.callbacks.board import SAMPLE, hessian_statistics, scalar_statistics
from hiso_pl.callbacks.pictures import partition_picture
from hiso_pl.lightning_privates import log_together

CURVES = {
    "train/loss", "scalar/mean_abs", "scalar/std", "scalar/max_abs", "scalar/dropped", "time/round_s", "time/probe_s",
    "time/update_s", "comm/paper_kb", "comm/protocol_kb", "comm/measured_kb", "lr", "mu",
}  # fmt: skip


@pytest.fixture(scope="module")
def events(stand_in, tmp_path_factory):
    root = tmp_path_factory.mktemp("board")
    board = TensorBoardPanels(every_n_rounds=2, hessian_every_n_rounds=3)
    history = stand_in.History()
    trainer = stand_in.make_trainer(root, 7, board, history, logger=TensorBoardLogger(str(root), "", ""))
    text = "seed: 1\nmodel:\n  lr: 0.01\n"
    next(c for c in trainer.callbacks if isinstance(c, RunFolder)).config_text = text
    trainer.fit(stand_in.Module(), datamodule=stand_in.Data())
    found = EventAccumulator(str(root), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    found.Reload()
    found.path_of_events = str(next(root.glob("events.out.tfevents.*")))
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


def test_the_hessian_now_and_then(events):
    found, _ = events
    values = []
    for name in ("min", "p01", "median", "p99", "max"):
        assert steps(found, f"hessian/{name}") == [3, 6]
        values.append(found.Scalars(f"hessian/{name}")[-1].value)
    assert values == sorted(values)
    assert 0 < values[0] < values[-1]


def test_validation_by_round_and_by_bytes(events):
    found, seen = events
    assert steps(found, "val/loss") == [2, 5, 6]
    assert steps(found, "val_by_paper_bytes/loss") == [rounds * 16 for rounds in (0, 3, 6, 7)]
    assert [e.value for e in found.Scalars("val_by_paper_bytes/loss")] == pytest.approx([v for _, v in seen])
    assert "val_by_paper_bytes/accuracy" in found.Tags()["scalars"]


def test_configuration_partition_and_hyperparameters(events):
    found, seen = events
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "model:\n  lr: 0.01" in text
    clients = found.Tensors("partition/text_summary")[0].tensor_proto.string_val[0].decode()
    assert clients.splitlines()[-1] == "| 0 | 3 |"
    picture = found.Images("partition")[0]
    assert picture.width > 300
    assert found.Scalars("final/val_loss")[0].value == pytest.approx(seen[-1][1])
    assert "_hparams_/session_start_info" in found.summary_metadata


def test_quantiles_come_from_an_even_sample_across_tensors():
    small = hessian_statistics([torch.arange(100.0), torch.empty(0), torch.arange(100.0, 201.0).reshape(101, 1)])
    assert small == {
        "hessian/min": 0.0, "hessian/max": 200.0, "hessian/p01": 2.0, "hessian/median": 100.0, "hessian/p99": 198.0,
    }  # fmt: skip
    large = torch.arange(float(3 * SAMPLE))
    points = hessian_statistics([large[: SAMPLE + 5], large[SAMPLE + 5 :]])
    assert points["hessian/max"] == float(large[-1])
    assert points["hessian/median"] == pytest.approx(1.5 * SAMPLE, rel=1e-3)
    assert hessian_statistics([]) == {}


def test_scalar_statistics():
    points = scalar_statistics(np.array([[3.0, -1.0]], dtype=np.float32))
    assert points == {"scalar/mean_abs": 2.0, "scalar/std": 2.0, "scalar/max_abs": 3.0}


def test_the_partition_is_a_bar_for_each_client():
    counts = np.array([[10, 0], [5, 5], [0, 2]])
    picture = partition_picture(counts, (" terrible", " great"))
    assert picture.dtype == np.uint8
    middles = [picture[6 + 18 * client + 9] for client in range(3)]
    coloured = [
        [(row == colour).all(axis=1).sum() for colour in ((0x44, 0x77, 0xAA), (0xEE, 0x66, 0x77))] for row in middles
    ]
    bars = [[int(n) for n in row] for row in coloured]
    assert bars[0][0] > 215
    assert abs(bars[1][0] - bars[1][1]) < 15
    assert bars[2][0] == 0
    assert 40 < bars[2][1] < 60
    assert partition_picture(np.ones((500, 60), dtype=np.int64), [str(c) for c in range(60)]).shape[0] < 4000


def dark(picture, rows):
    """Dark pixels, that is letters, right of the bars."""
    return int((picture[rows, 62 + 220 + 4 :].max(axis=-1) < 90).sum())


def test_without_classes_the_sizes_stand_beside_the_bars():
    counts = np.array([[1000], [10], [0]])
    picture = partition_picture(counts, ())
    assert np.array_equal(picture, partition_picture(counts, ("answer",)))
    letters = [dark(picture, slice(6 + 18 * client, 24 + 18 * client)) for client in range(3)]
    assert letters[0] > letters[1] > letters[2] > 0


def test_many_classes_have_colours_of_their_own_and_the_last_are_counted():
    counts = np.eye(60, dtype=np.int64)
    picture = partition_picture(counts, [str(c) for c in range(60)])
    colours = {tuple(picture[6 + 18 * client + 9, 62 + 5].tolist()) for client in range(60)}
    assert len(colours) == 60
    assert dark(picture, slice(6 + 18 * 40, 6 + 18 * 41)) > 0  # "20 more"
    assert dark(picture, slice(6 + 18 * 41, None)) == 0


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
