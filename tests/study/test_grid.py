from __future__ import annotations

from pathlib import Path
from typing import Any

from hiso_pl import presets
from hiso_pl.cli.study import resolve
from hiso_pl.study.file import study_of
from hiso_pl.study.grid import FIRST, Grid, Setting
from hiso_pl.study.names import FOLDER, RATE, SEED, plain_name, setting_name

PART, DIRECTIONS = (f"{RATE.removesuffix('lr')}{name}" for name in ("preconditioner.class_path", "num_directions"))
OPTIONS = {"model.lr_scheduler": None}


def grid(root: Path, **given: Any) -> Grid:
    return Grid(study_of({"config": "quickstart", "options": OPTIONS, **given}), root, resolve)


def test_every_setting_has_its_own_folder() -> None:
    assert Setting("", "", 3e-4, 2).folder == "lr-0.0003/seed-2"
    assert Setting("hiso", "cohort=4", 5e-6, 2).folder == f"hiso/{plain_name('cohort=4')}/lr-5e-06/seed-2"
    assert Setting("../../x", "a/b", 1.0, 1).folder.count("/") == 3
    names = ("own", "own, one scalar", "own  one scalar", "..", "a/b", "a b", "x" * 99, "study.yaml", "asked.json")
    folders = [plain_name(name) for name in names]
    assert len({*folders}) == len(names)
    assert not {"", ".", "..", "study.yaml", "asked.json"} & {*folders}
    assert all("/" not in name and len(name) <= 60 for name in folders)


def test_crossed_options_are_called_by_the_last_words_of_their_names_that_tell_them_apart() -> None:
    assert setting_name([("model.method.mu", 1e-3), ("data.cohort", 4)]) == "mu=0.001, cohort=4"
    assert setting_name([("a.x", 1), ("b.x", {"c": 2})]) == 'a.x=1, b.x={"c": 2}'


def test_methods_settings_and_crossed_options_are_multiplied(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("threads: 3\n")
    found = grid(
        tmp_path / "root",
        config=["quickstart", str(own)],
        methods={"HiSo": {"config": "hiso", "lrs": [0.2, 0.1]}, "none": {"config": "method/decomfl"}},
        settings={"all": {}, "some": {"data.cohort": 3}},
        cross={DIRECTIONS: [2, 3]},
    )
    names = [(group.method, group.setting) for group in found.groups]
    assert names == [(m, f"{s}, num_directions={p}") for m in ("HiSo", "none") for s in ("all", "some") for p in (2, 3)]
    told = [[g.configuration[k] for k in ("data.init_args.cohort", DIRECTIONS, "threads")] for g in found.groups]
    assert told[:4] == [["4", "2", "3"], ["4", "3", "3"], ["3", "2", "3"], ["3", "3", "3"]]
    assert [group.lrs for group in found.groups[3:5]] == [(0.1, 0.2), (5e-6,)]  # the configuration's own
    assert {group.configuration[PART].rpartition(".")[2] for group in found.groups[:4]} == {"Diagonal'"}
    assert {group.configuration[PART].rpartition(".")[2] for group in found.groups[4:]} == {"Identity'"}
    assert (found.common["threads"], RATE in found.common) == ("3", False)


def test_what_a_run_is_said_to_be_given_is_what_fit_makes_of_its_arguments(tmp_path: Path) -> None:
    found = grid(tmp_path, options={**OPTIONS, "data.partition": "IID"}, cross={"data.cohort": [2]})
    ask = found.ask(found.groups[0], 0.01, 7, until=20)
    assert ask.configuration == resolve(ask.arguments)
    assert [ask.configuration[key] for key in (RATE, SEED, FOLDER)] == ["0.01", "7", repr(str(ask.folder))]
    assert ask.folder == tmp_path / Setting("", "cohort=2", 0.01, 7).folder
    assert resolve([*FIRST, "--model.network", "hiso_pl.models.DigitsCNN"])["threads"] == "1"


def test_a_method_comes_after_the_studys_files_and_options_win_from_the_general_to_the_particular(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(presets.text("method/scalar").replace("lr: 5.0e-6", "lr: 0.5"))
    methods = {"own": {"config": str(mine)}, "more": {"config": "scalar", "options": {DIRECTIONS: 9}}}
    own, more = grid(tmp_path, options={**OPTIONS, DIRECTIONS: 7}, methods=methods).groups
    assert own.lrs == (0.5,)
    assert (own.configuration[DIRECTIONS], more.configuration[DIRECTIONS]) == ("7", "9")
    assert own.configuration[PART].endswith("Scalar'")


def test_a_study_whose_configuration_is_whole_with_a_method_alone_is_told_by_its_options(tmp_path: Path) -> None:
    study = study_of({"methods": {"A": {"config": "quickstart"}}, "options": {"data.cohort": 2}})
    found = Grid(study, tmp_path, resolve)
    assert found.groups[0].configuration["data.init_args.cohort"] == "2"
    assert found.common == {"config": "", "options.data.cohort": "2"}
