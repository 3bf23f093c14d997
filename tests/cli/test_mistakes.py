"""Whatever is mistyped is told in one line that names it, where it stands, and what may have been meant."""

from __future__ import annotations

import re

import pytest

from .conftest import BASE

METHOD = "--model.method.init_args"
OPTIONS = {
    ("--model.method.num_direction", "3"): "model.method.num_direction is no option of Method: did you mean "
    "num_directions or num_directions_schedule?",
    ("--trainer.max_step", "3"): "--trainer.max_step is no option: did you mean --trainer.max_steps?",
    ("--data.cohrt", "3"): "data.cohrt is no option of DigitsData: did you mean cohort?",
    ("--data.init_args.cohrt", "3"): "data.cohrt is no option of DigitsData: did you mean cohort?",
    ("--data.partition.alpa", "3"): "data.partition.alpa is no option of Dirichlet: did you mean alpha?",
    ("--lr", "3"): "--lr is no option: did you mean --model.method.lr?",
    ("--clients=3",): "--clients is no option: did you mean --data.clients or --model.method.attack.clients?",
    ("--Trainer.max-steps", "3"): "--Trainer.max-steps is no option: did you mean --trainer.max_steps?",
    ("--model.optimizer.lr", "3"): "--model.optimizer.lr is no option any more: model.method has taken its place, "
    "with lr and the others in it",
    ("--config",): "--config needs a value",
    ("--config", "nowhere.yaml"): "config=nowhere.yaml must be a file or a name that `hiso-pl configs` lists",
    ("--config", "trainer: [1"): "--config line 2 is no YAML: did not find expected ',' or ']', while parsing a flow "
    "sequence that begins in line 1",
    ("--model.lr_scheduler.round", "3"): "model.lr_scheduler: options but no class yet: name the class, or the "
    "--config that does, before them",
    ("stray",): "'stray' belongs to no option: give --OPTION VALUE",
    ("--trainer", "3"): "trainer=3 must hold options, such as trainer.accelerator, or name a file that does",
    ("--model.method", "null"): "model.method=null must be a class: there are FedAdagrad, FedAdam, FedAvg, FedYogi, "
    "FedZO, Method; one of your own is named with its module",
    ("--data.partition", '{"class_path": "IID"'): 'data.partition={"class_path": "IID" is no complete list or mapping '
    "in YAML or JSON",
    ("--data.clients", "2.5"): "data.clients=2.5 must be an integer",
    (f"{METHOD}.difference", "centrall"): "model.method.difference=centrall must be one of forward, central: did you "
    "mean central?",
    ("--deterministic", "maybe"): "deterministic=maybe must be true or false",
    ("--seed_everything", "true"): "seed_everything=True must be an integer",
}
CLASSES = {
    (f"{METHOD}.preconditioner", "Diagnal"): r"model\.method\.preconditioner=Diagnal is no known class: did you mean "
    r"Diagonal\? There are Diagonal, .*Identity.*",
    ("--data.partition", "hiso_pl.federation.Dirichlt"): r"data\.partition=hiso_pl\.federation\.Dirichlt cannot be had "
    r"\(module 'hiso_pl\.federation' has no attribute 'Dirichlt'\): did you mean Dirichlet\? There are Dirichlet, .*",
    ("--data.partition", "hiso_pl.federaton.IID"): r"data\.partition=hiso_pl\.federaton\.IID cannot be had "
    r"\(module 'hiso_pl' has no attribute 'federaton'\): did you mean IID\? There are IID, .*",
    ("--data.partition", "hiso_pl.data.DigitsData"): r"data\.partition=hiso_pl\.data\.DigitsData is of another kind: "
    r"there are .*Dirichlet.*",
    ("--trainer.callbacks", "EarlyStoping"): r"trainer\.callbacks=EarlyStoping is no known class: did you mean "
    r"EarlyStopping\? There are EarlyStopping, .* and \d+ more; .*",
}
FILES = {  # content of the file: what is said, after its name
    "trainer:\n  max_steps: [1, 2\ndata: x\n": " line 3 is no YAML: did not find expected ',' or ']', while parsing a "
    "flow sequence that begins in line 2",
    "trainer:\n\tmax_steps: 3\n": " line 2 is no YAML: indent with spaces instead of a tab",
    "": " is empty: a configuration holds options, such as trainer: ...",
    "- a\n- b\n": " line 1 is a list: a configuration holds options by name",
    "hello\n": " line 1 is a single value: a configuration holds options by name",
    "data: \udce9\n": " is no text in UTF-8 (byte 6): save it as such",
    "trainer:\n  max_steps: 3\n  max_step: 4\n": " line 3: trainer.max_step is no option: did you mean "
    "trainer.max_steps?",
    "trainer:\n  max_steps: many\n": " line 2: trainer.max_steps=many must be an integer",
    "trainer:\n  max_steps: 3\n  log_every_n_steps: 1\n  max_steps: 4\n": " line 4: max_steps stands in line 2 as "
    "well: leave one out",
    "data:\n  class_path: hiso_pl.data.DigitsData\n  init_args:\n    cliens: 3\n": " line 4: data.cliens is no option "
    "of DigitsData: did you mean clients?",
    "data:\n  class_path: hiso_pl.data.DigitsData\n  init_args:\n    clients: three\n": " line 4: data.clients=three "
    "must be an integer",
    "trainer:\n  callbacks:\n  - class_path: lightning.pytorch.callbacks.EarlyStopping\n    init_args:\n"
    "      monitor: val/loss\n      patienc: 3\n": " line 6: trainer.callbacks.patienc is no option of EarlyStopping: "
    "did you mean patience?",
    "model:\n  optimizer:\n    init_args:\n      lr: 0.1\n": " line 4: model.optimizer.init_args.lr is no option any "
    "more: model.method has taken its place, with lr and the others in it",
    "model:\n  method:\n    init_args:\n": " line 3: init_args holds nothing: leave it out",
    "trainer: 3\n": " line 1: trainer=3 must hold options, such as trainer.accelerator, or name a file that does",
    "a: &x [*x]\n": " line 1: a value that is an alias of itself",
    "model: !!python/object:os.system x\n": " line 1: the tag tag:yaml.org,2002:python/object:os.system is not taken: "
    "leave it out",
    "threads: 1\nconfig: quikstart\n": " line 2: config=quikstart must be a file or a name that `hiso-pl configs` "
    "lists; the nearest: quickstart",
    "config: [quickstart]\n": " line 1: config=[quickstart] must be one file or name",
}
# what a constructor refuses, whose line does not name the option whole
REFUSED = {
    "model:\n  method:\n    init_args:\n      num_directions: 0\n": " line 4: num_directions=0 must be an integer in",
    "ledger:\n  sync_every_n_rounds: -1\n": " line 2: sync_every_n_rounds=-1 must be at least 0",
    "data:\n  init_args:\n    partition:\n      class_path: Dirichlet\n      init_args:\n        alpha: -1\n": " line "
    "6: alpha=-1.0 must be positive",
}


@pytest.mark.parametrize("args", OPTIONS, ids=" ".join)
def test_a_mistyped_option(mistake, args):
    assert mistake(*args) == OPTIONS[args]


@pytest.mark.parametrize("args", CLASSES, ids=" ".join)
def test_a_mistyped_class(mistake, args):
    assert re.fullmatch(CLASSES[args], line := mistake(*args)), line


@pytest.mark.parametrize("content", FILES, ids=lambda content: content[:30])
def test_a_file_is_named_with_the_line(mistake, tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert mistake("--config", str(path)) == f"{path}{FILES[content]}"


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: content[:30])
def test_a_value_that_a_constructor_refuses_is_named_with_the_line(say, process_settings, tmp_path, content):
    path, root = tmp_path / "mine.yaml", str(tmp_path / "run")
    path.write_text(content)
    given = ("fit", "--config", BASE, "--config", str(path), "--trainer.default_root_dir", root)
    status, _, errors = say(*given)
    assert status == 1
    assert errors.startswith(f"hiso-pl: error: {path}{REFUSED[content]}")


def test_a_value_of_the_command_line_that_a_constructor_refuses_is_in_no_line(say, process_settings, tmp_path):
    root = str(tmp_path / "run")
    given = ("--trainer.default_root_dir", root, f"{METHOD}.num_directions", "-3")
    status, _, errors = say("fit", "--config", BASE, *given)
    assert (status, errors[:36]) == (1, "hiso-pl: error: num_directions=-3 mu")


def test_a_file_builds_upon_a_preset_or_a_file_beside_it(say, tmp_path):
    (tmp_path / "mine.yaml").write_text("config: quickstart\nthreads: 3\n")
    (tmp_path / "other.yaml").write_text("config: mine.yaml\nseed_everything: 5\n")
    status, told, _ = say("fit", "--config", str(tmp_path / "other.yaml"), "--print_config")
    assert status == 0
    assert "threads: 3\n" in told
    assert "seed_everything: 5\n" in told
    assert "DigitsCNN" in told


def test_a_folder_is_no_file(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    assert mistake("--config", "configs") == (
        "config=configs is a folder, must be a file or a name that `hiso-pl configs` lists"
    )


def test_of_several_files_the_one_that_says_it_is_named(mistake, tmp_path):
    for name, content in (("a", "trainer:\n  max_stepz: 3\n"), ("b", "trainer:\n  max_steps: 3\n")):
        (tmp_path / f"{name}.yaml").write_text(content)
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    assert mistake("--config", a, "--config", b).startswith(f"{a} line 2: trainer.max_stepz is no option")


def test_a_file_named_for_an_option_is_named_with_the_line(mistake, tmp_path):
    path = tmp_path / "part.yaml"
    path.write_text("class_path: hiso_pl.federation.Dirichlet\ninit_args:\n  alfa: 1\n")
    expected = f"{path} line 3: data.partition.alfa is no option of Dirichlet: did you mean alpha?"
    assert mistake("--data.partition", str(path)) == expected
    path.write_text("class_path: [hiso\n")
    assert mistake("--data.partition", str(path)).startswith(f"data.partition: {path} line 2 is no YAML: did not find")


def test_what_must_be_given_is_said_without_a_configuration(say):
    status, _, errors = say("fit")
    assert status == 2
    assert errors == "hiso-pl: error: model.network, data must be given, as by --config FILE_OR_NAME\n"


@pytest.mark.parametrize("place", ["{tmp}/file", "{tmp}/file/run", "/proc/nowhere/run"])
def test_a_folder_that_cannot_be_written(say, tmp_path, place):
    (tmp_path / "file").write_text("")
    folder = place.format(tmp=tmp_path)
    status, _, errors = say("fit", "--config", BASE, "--trainer.default_root_dir", folder)
    assert status == 1
    assert re.fullmatch(
        rf"hiso-pl: error: {folder} cannot be made .*\(.*\): give a folder that you may write into\n", errors
    ), errors


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger"])
def test_a_folder_of_a_logger_that_cannot_be_written(say, process_settings, tmp_path, kind):
    (tmp_path / "file").write_text("")
    logger = f'{{"class_path": "lightning.pytorch.loggers.{kind}", "init_args": {{"save_dir": "{tmp_path}/file/x"}}}}'
    root = tmp_path / "run"
    status, _, errors = say(
        "fit", "--config", BASE, "--trainer.default_root_dir", str(root), "--trainer.logger", logger
    )
    assert (status, errors) == (
        1,
        f"hiso-pl: error: trainer.logger: save_dir={tmp_path}/file/x cannot be made or written into (Not a directory): "
        "give a folder that you may write into\n",
    )
    assert not root.exists()


def test_a_file_that_is_not_there_is_named_without_its_errors_number(say):
    status, _, errors = say("ledger", "nowhere.ledger")
    assert (status, errors) == (1, "hiso-pl: error: nowhere.ledger: No such file or directory\n")


CONSTRUCTORS = {
    "Stops": "StopIteration",
    "Types": "TypeError: unsupported operand",
    "Keys": "KeyError: 'weight'",
    "Values": "n=3 must be 4",
    "Attributes": "AttributeError: no such thing",
    "Indices": "IndexError: list index out of range",
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize("option", ["--trainer.callbacks+", "--data.partition"])
def test_an_error_in_a_constructor_is_told_as_what_it_is(say, tmp_path, process_settings, name, option):
    where = "constructors.Callbacks" if option.startswith("--trainer") else "constructors.Partitions"
    root = str(tmp_path / "run")
    part = f'{{"class_path": "{__package__}.{where}{name}"}}'
    status, _, errors = say("fit", "--config", BASE, "--trainer.default_root_dir", root, option, part)
    assert status == 1
    assert re.fullmatch(rf"hiso-pl: error: {CONSTRUCTORS[name]}( \(its traceback is in .*\))?\n", errors), errors


def test_an_option_that_may_be_several_things_is_told_of_as_the_one_that_fits(say, process_settings, tmp_path):
    path, own = tmp_path / "mine.yaml", "{template: It was, answer: sentence}"
    path.write_text(f"data:\n  class_path: PromptData\n  init_args:\n    task: {own}\n    train_file: none.tsv\n")
    status, _, errors = say(
        "fit", "--config", BASE, "--config", str(path), "--trainer.default_root_dir", str(tmp_path / "r")
    )
    said = "template='It was' must name columns in braces, as in '{sentence} It was'"
    assert (status, errors.splitlines()[-1]) == (1, f"hiso-pl: error: {said}")
