from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hiso_pl import presets
from hiso_pl.cli import program
from hiso_pl.data.tasks import TASKS
from hiso_pl.run.configuration import leaves

MODELS = ("opt-125m", "opt-350m", "opt-1.3b", "opt-2.7b")
PAPER_TASKS = {"sst2": "sst2-hiso", "qqp": "qqp-hiso", "squad": "squad-hiso"}
GRID = [(model, task, method) for model in MODELS for task in PAPER_TASKS for method in ("hiso", "decomfl")]

# what an experiment says beside model, task and method
OWN = {"seed_everything", "trainer.max_steps", "trainer.val_check_interval", "trainer.default_root_dir"}
OWN |= {"model.method.init_args.lr"}
# rounds to converge of DeComFL, arXiv 2506.02370, table 2
DECOMFL_ROUNDS = {
    "opt-350m": {"sst2": 550, "qqp": 775, "squad": 1350},
    "opt-1.3b": {"sst2": 1500, "qqp": 1125, "squad": 350},
    "opt-2.7b": {"sst2": 1250, "qqp": 1475, "squad": 450},
}


def in_room(room: str) -> set[str]:
    return {name.rpartition("/")[2] for name in presets.names() if name.rpartition("/")[0] == room}


# What there is


def test_there_is_a_preset_for_every_task_and_for_every_cell_of_the_papers_grid() -> None:
    assert in_room("task") == {*TASKS}
    assert in_room("paper") == {"_".join(cell) for cell in GRID}
    assert {"local", *MODELS} <= in_room("model")
    assert {"quickstart", "language_quickstart"} <= in_room("")


@pytest.mark.parametrize("name", [f"paper/{'_'.join(cell)}" for cell in GRID])
def test_the_papers_experiments_say_what_their_24_files_said(name: str, pins) -> None:
    """The pins are those of the files that had been written out; the table and what it puts together move none."""
    values = json.dumps(yaml.safe_load(presets.text(name)), sort_keys=True)
    pins.hold(name, hashlib.sha256(values.encode()).hexdigest()[:16])


def test_an_experiment_is_its_model_task_and_method_with_a_few_values_of_its_own() -> None:
    for model, task, method in GRID:
        parts = (f"model/{model}", f"task/{PAPER_TASKS[task]}", f"method/{method}")
        composed = {key: value for part in parts for key, value in leaves(yaml.safe_load(presets.text(part))).items()}
        whole = leaves(yaml.safe_load(presets.text(f"paper/{model}_{task}_{method}")))
        own = OWN | ({"data.init_args.batch_size"} if task == "squad" else set())
        assert {key for key in {*composed, *whole} if composed.get(key) != whole.get(key)} <= own
        assert whole["trainer.default_root_dir"] == f"runs/{model}_{task}_{method}"
        assert whole["trainer.val_check_interval"] == 25
        converged = DECOMFL_ROUNDS.get(model, {}).get(task, 0)
        assert converged < whole["trainer.max_steps"] <= 2 * max(converged, 1000)


def test_an_experiment_keeps_where_its_values_are_from() -> None:
    text = presets.text("paper/opt-1.3b_squad_decomfl")
    head = re.findall("^# *(.*)", text, flags=re.M)
    assert head[0].startswith("SQuAD with OPT-1.3B by DeComFL, in the setting of HiSo's paper, arXiv 2506.02370")
    assert head[1:3] == [
        "F1: 57.58 for HiSo, 57.14 for DeComFL.",
        "Rounds: 350 until DeComFL has converged, 175 until HiSo is as good.",
    ]
    assert head[3] == "Learning rate: from the authors' scripts (github.com/ZidongLiu/DeComFL)."
    assert "Batches of 8" in head[4]
    assert "pickles, read with weights_only" in text


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_begins_with_a_sentence_and_names_presets_that_there_are(name: str) -> None:
    assert re.fullmatch(r"\S.{10,120}[.:?]", presets.summary(name))
    text = presets.text(name)
    assert isinstance(yaml.safe_load(text), dict)
    assert {*re.findall(r"--config ([\w./-]*\w)", text)} <= {*presets.names()}
    assert not re.findall(r"configs/\S*", text)


# How one is found


@pytest.mark.parametrize("given", ["method/hiso", "method/hiso.yaml", "paper/opt-125m_sst2_hiso"])
def test_a_preset_is_found_by_its_name(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "method" / "hiso").mkdir(parents=True)  # a folder is no configuration
    name = given.removesuffix(".yaml")
    assert presets.find(given).text == presets.text(name)
    found = presets.to_parse(given)
    assert (Path(found).read_text() if found.startswith("/") else found) == presets.text(name)


def test_a_file_that_there_is_wins_and_yaml_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("threads: 7\n")
    assert presets.find("quickstart").text == "threads: 7\n"
    assert presets.to_parse("quickstart") == "quickstart"
    for given in ("{threads: 7}", "threads: 7", "threads:\n  7"):
        assert presets.to_parse(given) == given
    Path("latin").write_bytes(b"# \xe9\n")
    with pytest.raises(ValueError, match="latin must be text in UTF-8"):
        _ = presets.find("latin").text


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("quikstart", "quickstart"),
        ("hiso", "method/hiso"),
        ("method", "method/"),
        ("configs/paper/opt-125m_sst2_hiso.yaml", "paper/opt-125m_sst2_hiso"),
        ("/elsewhere/configs/quickstart.yaml", "quickstart"),
        ("paper/opt-125m_sst2_his", "paper/opt-125m_sst2_hiso"),
        ("opt_125m", "model/opt-125m"),
        ("paper/table", ""),
        ("", ""),
        ("x" * 5000, ""),
        ("x\0y", ""),
    ],
)
def test_what_there_is_not_is_answered_with_the_nearest_names(given: str, near: str) -> None:
    with pytest.raises(ValueError, match="must be a file or a name that `hiso-pl configs` lists") as caught:
        presets.find(given)
    assert str(caught.value).startswith(f"config={given}")
    assert re.search(f"; the nearest: .*{re.escape(near)}", str(caught.value)) or not near


def test_a_folder_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config={tmp_path} is a folder, must be a file"):
        presets.find(str(tmp_path))


# The command


def test_configs_lists_shows_and_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def said(*args: str, status: int = 0) -> str:
        assert program.main(["configs", *args]) == status
        out, err = capsys.readouterr()
        return out if status == 0 else err

    listed = said()
    assert [line.split()[0] for line in listed.splitlines() if line and line[0] != "#"] == presets.names()
    assert re.search(r"^method/decomfl +DeComFL \(arXiv 2405\.15861\), which is HiSo with H held at one", listed, re.M)
    assert said("show", "paper/opt-2.7b_qqp_hiso") == presets.text("paper/opt-2.7b_qqp_hiso")
    assert said("copy", "method/hiso") == "hiso.yaml\n"
    assert Path("hiso.yaml").read_text() == presets.text("method/hiso")
    Path("hiso.yaml").write_text("mine\n")
    assert "to=hiso.yaml is there already" in said("copy", "method/hiso", status=2)
    assert Path("hiso.yaml").read_text() == "mine\n"
    Path("folder").mkdir()
    assert said("copy", "paper/opt-2.7b_qqp_hiso.yaml", "folder") == "folder/opt-2.7b_qqp_hiso.yaml\n"
    assert "to=no/x.yaml must lie in a folder" in said("copy", "quickstart", "no/x.yaml", status=2)
    assert "the nearest: method/hiso" in said("show", "method/hizo", status=2)
    assert "show must be followed by a name" in said("show", status=2)
    assert "name=./hiso.yaml must be one that" in said("show", "./hiso.yaml", status=2)  # a file is no preset
    assert "x belongs to nothing" in said("show", "quickstart", "x", status=2)
    assert "x belongs to nothing" in said("list", "x", status=2)


@pytest.mark.parametrize(
    "args", [["fit", "--config"], ["export", "--output", "x", "--config"], ["replay", "x", "--method"]]
)
def test_wherever_a_configuration_is_named_a_wrong_name_is_answered(args: list[str], capsys) -> None:
    assert program.main([*args, "hizo"]) == 2
    assert re.search(r"hizo must be a file or a name that .*; the nearest: .*hiso", capsys.readouterr().err)


def test_presets_are_looked_up_without_loading_torch() -> None:
    told = "import sys; from hiso_pl import presets; presets.find('method/hiso').text; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True).stdout == "False\n"
