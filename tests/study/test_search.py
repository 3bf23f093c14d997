"""Rates are found by the folders' content alone: whatever order runs end in, and wherever a study is stopped."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hiso_pl.report.comparison import aim_of, compare
from hiso_pl.report.run import read_runs
from hiso_pl.study.file import study_of
from hiso_pl.study.folders import note_asked
from hiso_pl.study.grid import Ask, Grid
from hiso_pl.study.search import Search, way_of
from hiso_pl.study.ways import WAYS

TOTAL, EVERY = 80, 10
RATES = [0.01, 0.02, 0.04, 0.08, 0.16]
BEST = {"A": 0.04, "B": 0.02}


def resolve(arguments: Sequence[str]) -> Mapping[str, str]:
    """A stand-in for the parser of fit."""
    words = dict(word.removeprefix("--").split("=", 1) for word in arguments if "=" in word)
    asked = {"trainer.max_steps": str(TOTAL), "trainer.val_check_interval": str(EVERY), "test_at_end": "False"}
    return {**asked, "model.method.init_args.lr": "0.02", **words}


def accuracy(ask: Ask, done: int) -> float:
    """Better with rounds, best at a method's own rate, and a little apart by seed; far off it diverges."""
    setting = ask.setting
    away = abs(math.log2(setting.lr / BEST.get(setting.method, 0.04)))
    return 0.9 * done / (done + 20.0 + 10.0 * away) + 0.001 * setting.seed


def work(ask: Ask, rounds: int, stopped: bool = False) -> None:
    """Leaves in a run's folder what its rounds up to one leave."""
    ask.folder.mkdir(parents=True, exist_ok=True)
    note_asked(ask.folder, ask.setting, ask.configuration, ask.until)
    lines = ["step,val/accuracy,val/loss,comm/paper_kb,comm/protocol_kb,cost/forwards,time/round_s"]
    for done in range(0, rounds + 1, EVERY):
        value = accuracy(ask, done)
        lines.append(f"{done},{value:.6f},{2.0 - value:.6f},{done},{done},{done},0.5")
    (ask.folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (ask.folder / "config.yaml").write_text(f"trainer: {{max_steps: {TOTAL}}}\ntest_at_end: false\n")
    values = [accuracy(ask, done) for done in range(0, rounds + 1, EVERY)]
    metrics = {
        "val/accuracy": {"first": values[0], "last": values[-1], "best": max(values)},
        "val/loss": {"first": 2 - values[0], "last": 2 - values[-1], "best": 2 - max(values)},
    }
    comm = {"paper_kb": rounds, "protocol_kb": rounds, "measured_kb": 0}
    summary: dict[str, Any] = {"rounds": rounds, "interrupted": rounds < TOTAL, "metrics": metrics, "comm": comm}
    (ask.folder / "summary.json").write_text(json.dumps(summary | ({"stopped": "no client left"} if stopped else {})))


def search_of(root: Path, rates: Any, **given: Any) -> Search:
    data = {"config": "quickstart", "methods": {"A": {}, "B": {}}, "lrs": RATES, "seeds": [1, 2], **given}
    study = study_of({**data, "rates": rates})
    return Search(Grid(study, root, resolve), way_of(study.rates, WAYS))


def carry_out(
    new: Callable[[], Search], seed: int = 0, dies: float = 0.0, diverges: Callable[[Ask], bool] = lambda _: False
) -> tuple[Search, list[tuple[str, float, int, int | None]]]:
    """Works a study off in an order by chance; with a chance the study is killed, its run at any round, and begun anew.

    Returns:
        The search at its end, and what it was asked for.
    """
    chance, search = random.Random(seed), new()
    asked = []
    while asks := search.next():
        ask = chance.choice(asks)
        to = ask.until or TOTAL
        if chance.random() < dies:
            if not ask.folder.exists():
                work(ask, chance.randrange(0, to, EVERY))
            search = new()
        elif diverges(ask):
            work(ask, to - EVERY, stopped=True)
        else:
            work(ask, to)
            asked.append((ask.setting.method, ask.setting.lr, ask.setting.seed, ask.until))
    assert search.reached == search.foreseen
    return search, sorted(asked, key=str)


def table(root: Path) -> tuple[Any, ...]:
    runs = read_runs([root])
    comparison = compare(runs, aim_of(runs, "val/accuracy", "rounds", [0.5]))
    notes = [note.replace(str(root), "") for note in comparison.notes]
    return comparison.grid.drop(columns="folder").to_csv(), notes, [group.chosen for group in comparison.groups]


def test_a_grid_goes_seed_by_seed_with_all_rates(tmp_path: Path) -> None:
    search = search_of(tmp_path, "grid")
    assert search.foreseen == 20
    asks = search.next()
    assert [(a.setting.method, a.setting.lr, a.setting.seed) for a in asks] == [
        (m, lr, seed) for seed in (1, 2) for m in "AB" for lr in RATES
    ]
    assert {ask.until for ask in asks} == {None}
    work(asks[3], TOTAL)
    work(asks[4], TOTAL - EVERY)
    left = search.next(failed=[asks[0].setting])
    assert left == [ask for ask in asks if ask not in (asks[0], asks[3])]
    assert (search.reached, search.foreseen) == (1, 20)


def test_halving_goes_on_with_the_better_half_and_ends_with_all_seeds_of_the_best(tmp_path: Path) -> None:
    search, asked = carry_out(lambda: search_of(tmp_path, "halving"))
    assert [ask[1:] for ask in asked if ask[0] == "A"] == sorted(
        [
            *((lr, 1, 20) for lr in RATES),  # a quarter of the rounds
            *((lr, 1, 40) for lr in (0.02, 0.04, 0.08)),  # half of them
            *((lr, 1, None) for lr in (0.02, 0.04)),
            (0.04, 2, None),
        ],
        key=str,
    )
    assert {lr for method, lr, seed, _ in asked if method == "B" and seed == 2} == {0.02}
    assert table(tmp_path)[2] == [0.04, 0.02]
    assert "Given up before the last round, as the study's search for rates has it: 6 of 12 runs." in table(tmp_path)[1]
    assert not any(note.startswith("Not complete") for note in table(tmp_path)[1])
    assert search.next() == []


@pytest.mark.parametrize(
    "rates", ["grid", "halving", {"optuna": {"trials": 4}}, {"halving": {"neighbours": True, "extend": 2}}]
)
def test_the_table_is_the_same_whatever_order_runs_end_in_and_wherever_the_study_is_killed(
    tmp_path: Path, rates: Any
) -> None:
    tables, asks = [], []
    for seed, dies in ((0, 0.0), (1, 0.0), (2, 0.3), (3, 0.6)):
        root = tmp_path / str(seed)
        asks.append(carry_out(lambda root=root: search_of(root, rates), seed, dies)[1])  # type: ignore[misc]
        tables.append(table(root))
    assert all(other == tables[0] for other in tables)
    assert asks[0] == asks[1]


@pytest.mark.parametrize(("way", "seeds"), [("halving", [1]), ("grid", [1, 2])])
def test_a_best_at_the_edge_is_gone_beyond_as_often_as_is_allowed(tmp_path: Path, way: str, seeds: list[int]) -> None:
    _, asked = carry_out(lambda: search_of(tmp_path, {way: {"extend": 1}}, lrs=[0.005, 0.01], seeds=seeds))
    assert {lr for _, lr, _, _ in asked} == {0.005, 0.01, 0.02}
    _, asked = carry_out(lambda: search_of(tmp_path / "2", {way: {"extend": 5}}, lrs=[0.005, 0.01], seeds=seeds))
    assert {lr for method, lr, _, _ in asked if method == "A"} == {0.005, 0.01, 0.02, 0.04, 0.08}  # 0.04 is the best
    _, asked = carry_out(lambda: search_of(tmp_path / "3", {way: {"extend": 5}}, lrs=[0.08, 0.16], seeds=seeds))
    assert min(lr for method, lr, _, _ in asked if method == "B") == 0.01


def test_the_rates_beside_the_best_run_with_all_seeds_if_asked(tmp_path: Path) -> None:
    _, asked = carry_out(lambda: search_of(tmp_path, {"halving": {"neighbours": True}}))
    assert {lr for method, lr, seed, _ in asked if (method, seed) == ("A", 2)} == {0.02, 0.04, 0.08}


def test_a_run_that_has_stopped_for_good_is_the_last_and_is_not_tried_again(tmp_path: Path) -> None:
    search, asked = carry_out(lambda: search_of(tmp_path, "halving"), diverges=lambda ask: ask.setting.lr == 0.04)
    assert {lr for method, lr, seed, _ in asked if (method, seed) == ("A", 2)} == {0.02}
    assert search.next() == []


def test_what_a_run_was_at_a_rung_is_not_changed_by_its_end(tmp_path: Path) -> None:
    """The best at the first rung stops for good after it, and those that went on with it are still those."""
    late = {"diverges": lambda ask: ask.setting.lr == 0.04 and ask.until != 20}
    _, asked = carry_out(lambda: search_of(tmp_path / "one", "halving"), **late)
    carry_out(lambda: search_of(tmp_path / "two", "halving"), dies=0.5, **late)
    assert table(tmp_path / "one") == table(tmp_path / "two")
    assert search_of(tmp_path / "one", "halving").next() == []
    assert {lr for method, lr, _, until in asked if (method, until) == ("A", 40)} == {0.02, 0.08}


@pytest.mark.parametrize("rates", ["grid", "halving", {"optuna": {"trials": 2}}])
def test_a_method_that_diverges_at_every_rate_ends_the_search_and_no_other(tmp_path: Path, rates: Any) -> None:
    _, asked = carry_out(lambda: search_of(tmp_path, rates), diverges=lambda ask: ask.setting.method == "A")
    assert {method for method, *_ in asked} == {"B"}
    assert table(tmp_path)[2][0] is None
    assert any("A" in note for note in table(tmp_path)[1])


def test_a_failed_run_holds_up_its_own_group_alone(tmp_path: Path) -> None:
    search = search_of(tmp_path, "halving")
    failed = next(ask for ask in search.next() if ask.setting.method == "A")
    while asks := search.next([failed.setting]):
        for ask in asks:
            work(ask, ask.until or TOTAL)
    assert {run.method for run in read_runs([tmp_path]) if run.complete} == {"B"}
    assert [ask.setting for ask in search.next()] == [failed.setting]


def test_a_run_whose_folder_does_not_say_what_was_asked_is_not_there(tmp_path: Path) -> None:
    ask = search_of(tmp_path, "grid").next()[0]
    work(ask, TOTAL)
    (ask.folder / "asked.json").write_text('{"setting": {"me')
    assert ask in search_of(tmp_path, "grid").next()


def test_optuna_asks_between_the_bounds_and_its_storage_holds_what_was_tried(tmp_path: Path) -> None:
    import optuna

    search, asked = carry_out(lambda: search_of(tmp_path, {"optuna": {"trials": 8}}))
    tried = {lr for method, lr, _, _ in asked if method == "A"}
    assert all(RATES[0] <= lr <= RATES[-1] for lr in tried)
    assert any(until is not None for *_, until in asked)
    search.way.store(tmp_path, search.returned)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.log")))
    kept = optuna.load_study(study_name="A", storage=storage)
    assert {trial.user_attrs["lr"] for trial in kept.trials} == tried
    assert len(kept.trials) == 8
    # with one rate the bounds lie around it
    one = search_of(tmp_path / "one", {"optuna": {"span": 2.0, "trials": 1}}, lrs=[0.1])
    assert all(0.05 <= ask.setting.lr <= 0.2 for ask in one.next())


def test_without_optuna_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"rates=optuna needs a package of that name: install hiso_pl\[optuna\]"):
        search_of(tmp_path, "optuna")


def test_an_unknown_metric_is_refused_once_there_are_runs_to_judge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric=val/f1 must be one of val/accuracy, val/loss"):
        carry_out(lambda: search_of(tmp_path, "halving", metric="val/f1"))
