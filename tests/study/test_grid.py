from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hiso_pl import presets
from hiso_pl.cli import program
from hiso_pl.cli.study import rates, resolve
from hiso_pl.study.grid import FIRST, FOLDER, RATE, SEED, Setting, Study
from hiso_pl.study.runner import Run, carry_out_study, plan

DIGITS = ("--config", "quickstart", "--model.lr_scheduler", "null")
PART, DIRECTIONS = (f"{RATE.removesuffix('lr')}{name}" for name in ("preconditioner.class_path", "num_directions"))


def planned(root: Path, *fit: str, **given: Any) -> list[Run]:
    return plan(Study(root, (*DIGITS, *fit), **given), resolve)


def test_every_setting_has_its_own_folder() -> None:
    assert Setting(3e-4, 2).folder == "lr-0.0003/seed-2"
    assert Setting(5e-6, 2, "hiso", "data.cohort", "4").folder == "hiso/cohort-4/lr-5e-06/seed-2"
    odd = [Setting(1.0, 1, "", key, value).folder for key in ("a.x", "b.x") for value in ("{'r': 8}", "{'r': 9}")]
    assert len(set(odd)) == 4
    assert Setting(1.0, 1, "", "k", "../../x").folder.count("/") == 2


def test_the_plan_goes_seed_by_seed_and_the_users_options_win(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("threads: 3\n")
    runs = planned(tmp_path, "--config", str(own), seeds=(1, 2), rates={"": (0.1, 0.01)})
    assert [(run.setting.seed, run.setting.lr) for run in runs] == [(1, 0.01), (1, 0.1), (2, 0.01), (2, 0.1)]
    assert {run.asked["threads"] for run in runs} == {"3"}
    asked = [runs[2].asked[key] for key in (SEED, RATE, FOLDER)]
    assert asked == ["2", "0.01", repr(str(tmp_path / "lr-0.01" / "seed-2"))]
    assert resolve([*FIRST, "--model.network", "hiso_pl.models.DigitsCNN"])["threads"] == "1"


def test_without_rates_the_configurations_own_is_taken_and_an_option_varies(tmp_path: Path) -> None:
    runs = planned(tmp_path, "--data.cohort=4", vary=("data.cohort", "2", "3", "2"))
    assert [(run.setting.lr, run.asked["data.init_args.cohort"]) for run in runs] == [(0.006, "2"), (0.006, "3")]


def test_a_method_comes_after_the_files_and_before_the_options(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(presets.text("method/scalar").replace("lr: 5.0e-6", "lr: 0.5"))
    given = {"methods": ("hiso", "decomfl", str(mine)), "rates": rates(["hiso=0.02,0.01", "0.1", "decomfl=0.3"])}
    runs = planned(tmp_path, f"--{DIRECTIONS}=7", **given)
    rated = [(run.setting.method, run.setting.lr) for run in runs]
    assert rated == [("hiso", 0.01), ("hiso", 0.02), ("decomfl", 0.3), ("mine", 0.1)]
    assert [run.asked[PART].rpartition(".")[2][:-1] for run in runs[1:]] == ["Diagonal", "Identity", "Scalar"]
    assert {run.asked[DIRECTIONS] for run in runs} == {"7"}
    keys = {key for run in runs for key in run.asked if ".preconditioner." not in key}
    assert {key for key in keys if len({run.asked[key] for run in runs}) > 1} == {RATE, FOLDER}
    assert planned(tmp_path, methods=(str(mine),))[0].setting.lr == 0.5


@pytest.mark.parametrize(
    ("own", "fit", "said"),
    [
        (["--seeds", "1"], [], "no configuration"),
        ([], ["--seed_everything=4"], "give --seeds"),
        ([], ["--model.method.lr", "1"], "give --lrs"),
        (["--vary", RATE, "1"], ["--data.cohort", "3"], "give --lrs"),
        ([], ["--trainer.default_root_dir", "x"], "give --root"),
        ([], ["--ckpt_path", "last"], "resumes itself"),
        (["--vary", "data.cohort"], ["--data.cohort", "3"], "vary=data.cohort must be followed by values"),
        (["--lrs", "0"], ["--data.cohort", "3"], "positive"),
        (["--lrs", "hiso=a"], ["--data.cohort", "3"], "lrs=hiso=a must be numbers"),
        (["--lrs", "hiso=1"], ["--data.cohort", "3"], "must name one of the methods: none"),
        (
            ["--methods", "nothing"],
            ["--data.cohort", "3"],
            "methods=nothing must be a file or a name that `hiso-pl configs` lists: ad",
        ),
        (["--methods", "hiso", "/x/hiso.yaml"], ["--data.cohort", "3"], "methods=/x/hiso.yaml must be a file"),
        (["--nproc", "0"], ["--data.cohort", "3"], "nproc"),
        (["--by", "rounds"], ["--data.cohort", "3"], "need a --target"),
        ([], [*DIGITS, "--trainer.max_rounds", "5"], "trainer.max_rounds"),
    ],
)
def test_what_cannot_be_is_said_before_anything_begins(
    tmp_path: Path, own: list[str], fit: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["study", "--root", str(tmp_path / "root"), *own, "--", *fit]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "hiso.yaml").write_text("threads: 1\n")
    with pytest.raises(ValueError, match="must have another name"):
        Study(tmp_path, DIGITS, methods=("hiso", str(tmp_path / "hiso.yaml")))


def test_a_method_is_a_preset_by_its_whole_name_as_well_or_one_that_is_made_of_others(tmp_path: Path) -> None:
    study = Study(tmp_path, DIGITS, methods=("method/mezo", "paper/opt-1.3b_sst2_hiso"))
    path, name = study.configurations.values()
    assert [*study.configurations] == ["mezo", "opt-1.3b_sst2_hiso"]
    assert Path(path).read_text() == presets.text("method/mezo")
    assert name == "paper/opt-1.3b_sst2_hiso"


def test_a_folder_of_another_study_is_refused_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiso_pl.study.runner.carry_out", lambda *_: ([], 0))

    def begin(*fit: str, **given: Any) -> None:
        carry_out_study(Study(tmp_path, (*DIGITS, *fit), **given), resolve, 1, 1)

    begin(rates={"": (0.1,)})
    begin(rates={"": (0.2,)}, seeds=(7,), methods=("hiso",), vary=("data.cohort", "3"))  # a grid may grow
    with pytest.raises(ValueError, match=r"holds runs with trainer\.max_steps=4000, but 41 is asked"):
        begin("--trainer.max_steps", "41", rates={"": (0.3,)})
