"""The result depends on the configuration and the seed, not on how many ranks carried it."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("default", (2, 3, 4)),
        ("options", (3,)),
        ("weighted", (4,)),
        ("adam", (2, 3)),
        ("fzoo", (3,)),
        ("vit", (3,)),
        ("crowd", (2,)),
        ("fixed", (2, 3)),
        ("lora", (2,)),
        ("lora batched", (2,)),
        ("nan", (2,)),
        ("spare", (3, 4)),
        ("spare with steps", (3,)),
        ("own", (2, 3, 4)),
        ("own with steps", (3,)),
        ("few bits", (2, 3)),
        ("robust", (2,)),
        ("absent", (2, 3)),
        ("block", (2, 3, 4)),
        ("16 bit", (2,)),
        ("candidates", (3,)),
        ("generation", (3,)),
    ],
)
def test_every_number_of_ranks_gives_the_same_bits(matrix, name, counts):
    alone = matrix(1)[name]
    assert alone.summary["ranks"] == 1
    metrics = alone.summary["metrics"]
    assert metrics["val/loss"]["first"] != metrics["val/loss"]["last"]
    for ranks in counts:
        together = matrix(ranks)[name]
        assert together.summary["ranks"] == ranks
        assert together.result() == alone.result()


def test_metrics_within_a_run_are_the_same_on_every_rank(matrix):
    expected = json.loads((matrix(1)["default"].root.parent / "fit-metrics.0").read_text())
    for ranks in (2, 3, 4):
        folder = matrix(ranks)["default"].root.parent
        for rank in range(ranks):
            assert json.loads((folder / f"fit-metrics.{rank}").read_text()) == expected


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_is_measured_alike_on_any_number_of_ranks(matrix, command):
    split = {"validate": "val", "test": "test"}[command]
    found = {}
    for ranks in (1, 3):
        run = matrix(ranks)[f"{command}@default"]
        assert run.statuses == [0] * ranks, run.errors
        for rank in range(ranks):
            found[ranks, rank] = json.loads((run.root.parent / f"{command}-metrics.{rank}").read_text())
            assert set(found[ranks, rank]) == {f"{split}/loss", f"{split}/accuracy"}
    assert all(metrics == found[1, 0] for metrics in found.values())
    if command == "validate":
        last = {name: entry["last"] for name, entry in matrix(1)["default"].summary["metrics"].items()}
        assert found[1, 0] == pytest.approx(last, rel=1e-6)  # Lightning keeps metrics in fp32


def test_predictions_are_each_example_once_and_in_order(matrix):
    texts = []
    for ranks in (1, 3):
        run = matrix(ranks)["predict@default"]
        assert run.statuses == [0] * ranks, run.errors
        texts.append((run.root / "predictions.jsonl").read_text())
    assert texts[0] == texts[1]
    lines = [json.loads(line) for line in texts[0].splitlines()]
    assert [line["index"] for line in lines] == list(range(360))
    for line in lines:
        assert line["prediction"] == max(line["scores"], key=line["scores"].get)
    accuracy = sum(line["prediction"] == line["label"] for line in lines) / len(lines)
    measured = json.loads((matrix(1)["test@default"].root.parent / "test-metrics.0").read_text())
    assert accuracy == pytest.approx(measured["test/accuracy"], rel=1e-6)


def test_generated_answers_are_each_example_once_and_in_order(matrix):
    texts = []
    for ranks in (1, 3):
        run = matrix(ranks)["predict@generation"]
        assert run.statuses == [0] * ranks, run.errors
        texts.append((run.root / "predictions.jsonl").read_text())
    assert texts[0] == texts[1]
    lines = [json.loads(line) for line in texts[0].splitlines()]
    assert [line["index"] for line in lines] == list(range(20))
    for line in lines:
        assert line["input"] == f"{line['references'][0]} It"
        assert 0.0 <= line["em"] <= line["f1"] <= 1.0
    metrics = matrix(1)["generation"].summary["metrics"]
    assert set(metrics) == {"val/loss", "val/em", "val/f1"}
    assert metrics["val/loss"]["first"] != metrics["val/loss"]["last"]


def test_the_options_of_these_runs_act(matrix):
    names = (
        "default",
        "options",
        "weighted",
        "vit",
        "fixed",
        "nan",
        "lora",
        "spare",
        "spare with steps",
        "few bits",
        "16 bit",
    )
    names += ("own", "own with steps")
    assert len({matrix(1)[name].summary["digest"] for name in names}) == len(names)


def test_spare_ranks_help_and_their_exchanges_are_counted(matrix):
    helped, steps = matrix(3)["spare"].summary, matrix(3)["spare with steps"].summary
    # rounds x (slots x losses of a local step + a ballot) fp32 numbers, once a round or once a local step
    assert helped["comm"]["measured_kb"] * 1024 == 12 * (2 * 4 + 1) * 4
    assert steps["comm"]["measured_kb"] * 1024 == 12 * 3 * (1 * 4 + 1) * 4
