"""What a study file may ask for, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hiso_pl import presets
from hiso_pl.bounds import CONFIGURATION_VALUES
from hiso_pl.cli import program
from hiso_pl.cli.study import asked, parse
from hiso_pl.study.file import Method, Study, study_of
from hiso_pl.study.names import as_word

FILE = """\
config: [quickstart]
options:
  data.partition: IID
  trainer.max_steps: 60
methods:
  HiSo: {config: method/hiso, lrs: [0.012, 6e-3]}
  own, one scalar: {config: method/own-scalar, options: {model.method.num_directions: 5}}
settings:
  batch 8: {data.batch_size: 8}
  plain: {}
cross:
  model.method.mu: [1.0e-4, 1.0e-3]
lrs: [0.01]
seeds: [1, 2, 3]
rates: {halving: {keep: 0.5}}
metric: val/accuracy
by: rounds
targets: [0.7, 0.8]
quick: {seeds: [1], methods: [HiSo], options: {trainer.max_steps: 20}, settings: {plain: {data.cohort: 3}}, rates: grid}
"""


def study(*args: str, fit: tuple[str, ...] = ()) -> Study:
    return asked(parse([*args, "--root", "unused"]), fit)[0]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(FILE)
    return str(path)


def test_a_file_is_a_study_and_is_written_out_as_one(file: str) -> None:
    found = study(file)
    assert found == Study(
        config=("quickstart",),
        options={"data.partition": "IID", "trainer.max_steps": 60},
        methods={
            "HiSo": Method(("method/hiso",), {}, (0.012, 0.006)),
            "own, one scalar": Method(("method/own-scalar",), {"model.method.num_directions": 5}),
        },
        settings={"batch 8": {"data.batch_size": 8}, "plain": {}},
        cross={"model.method.mu": (1e-4, 1e-3)},
        lrs=(0.01,),
        seeds=(1, 2, 3),
        rates={"halving": {"keep": 0.5}},
        metric="val/accuracy",
        by="rounds",
        targets=(0.7, 0.8),
    )
    assert study_of(yaml.safe_load(yaml.safe_dump(found.as_data()))) == found
    assert study_of({"config": "quickstart"}) == Study(config=("quickstart",))


def test_quick_picks_by_lists_and_merges_by_mappings(file: str) -> None:
    quick = study(file, "--quick")
    assert (quick.seeds, [*quick.methods], quick.rates) == ((1,), ["HiSo"], {"grid": {}})
    assert quick.options == {"data.partition": "IID", "trainer.max_steps": 20}
    assert quick.settings == {"batch 8": {"data.batch_size": 8}, "plain": {"data.cohort": 3}}
    assert quick.methods["HiSo"].lrs == (0.012, 0.006)


def test_a_command_line_goes_over_the_file(file: str) -> None:
    found = study(
        *(file, "--seeds", "4", "5", "--targets", "0.5", "--by", "best", "--rates", "grid", "--metric", "val/loss"),
        *("--settings", "plain", "--cross", "data.cohort", "2", "3", "--lrs", "0.1,0.2", "own, one scalar=0.3"),
        fit=("--config", "mine.yaml", "--trainer.max_steps=9", "--trainer.logger+=A", "--trainer.logger+", "B"),
    )
    assert (found.seeds, found.targets, found.by, found.metric) == ((4, 5), (0.5,), "best", "val/loss")
    assert found.rates == {"grid": {}}
    assert [*found.settings] == ["plain"]
    assert found.cross == {"model.method.mu": (1e-4, 1e-3), "data.cohort": (2, 3)}
    assert found.config == ("quickstart", "mine.yaml")
    assert found.options == {"data.partition": "IID", "trainer.max_steps": 9, "trainer.logger+": ["A", "B"]}
    assert (found.lrs, found.methods["HiSo"].lrs, found.methods["own, one scalar"].lrs) == ((0.1, 0.2), (), (0.3,))
    assert [*study(file, "--methods", "own, one scalar").methods] == ["own, one scalar"]
    assert study(file, "--config", "language_quickstart").config == ("language_quickstart",)


def test_without_a_file_methods_are_presets_or_files(tmp_path: Path) -> None:
    found = study("--methods", "hiso", "method/decomfl", "x/own.yaml", "--lrs", "1", "own=2", fit=("-c", "quickstart"))
    assert {name: method.config for name, method in found.methods.items()} == {
        "hiso": ("hiso",),
        "decomfl": ("method/decomfl",),
        "own": ("x/own.yaml",),
    }
    assert (found.lrs, found.methods["own"].lrs, found.config) == ((1.0,), (2.0,), ("quickstart",))


M, C = "methods: {A: {config: method/hiso}}\n", "config: [quickstart]\n"
BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (C + "sedes: [1]", "own.yaml line 2: sedes is no key of a study: did you mean seeds?"),
        (C + "zzz: 1", "zzz is no key of a study: there are config, options, methods"),
        (C + "methods: {A: {lr: 1}}", "line 2: methods.A.lr is no key of a method: did you mean lrs?"),
        (C + "quick: {quick: {}}", "line 2: quick.quick is no key of a study"),
        (C + "quick: {seeds: []}", "line 2: quick.seeds=[] must hold at least one number"),
        (C + "quick: {methods: [B]}", "quick.methods=B is none of the study's: there are none"),
        (C + M + "quick: {methods: {B: {}}}", "quick.methods=B is none of the study's: there are A"),
        (C + "methods:", "line 2: methods holds nothing"),
        (C + "methods: {A: }", "line 2: methods.A=None must hold a method's keys"),
        (C + "methods: {A: method/hiso}", "methods.A='method/hiso' must hold a method's keys: config, options, lrs"),
        (C + "methods: {A: {}, a: {}}", "methods.a must have another name than A, whose folder would be the same"),
        (C + "methods: {A: {}, A: {}}", "own.yaml line 2: A stands in line 2 as well"),
        (C + 'methods: {"a\\nb": {}}', "methods: the name 'a\\nb' must be a line of text"),
        (C + "methods: {[1]: {}}", "own.yaml"),
        (C + "methods: {true: {}}", "methods: the name True must be a line of text"),
        ("methods: {A: {options: {data.cohort: 2}}}", "methods.A has no configuration: give it config, or the study"),
        ("seeds: [1]", "config must name a configuration"),
        ("config: []", "config=[] must name files or presets"),
        ("config: [3]", "config=[3] must name files or presets"),
        (C + "options: [a]", "options=['a'] must hold options of fit"),
        (C + "options: {--a: 1}", "options: '--a' must be the name of an option of fit"),
        (C + "options: {a.b: .nan}", "options.a.b=nan must be finite"),
        (C + "options: {a.b: {c: [.inf]}}", "options.a.b=inf must be finite"),
        (C + "options: {a.b: 2026-01-01}", "options.a.b=2026-01-01 must be text, a number, true or false: put it in"),
        (C + "options: {a.b: 2026-13-41}", "own.yaml is no study: month must be in 1..12"),
        (C + "options: {seed_everything: 1}", "line 2: options.seed_everything sets seed_everything, which the study"),
        (
            C + "options: {model.method: {class_path: M, init_args: {lr: 1}}}",
            "sets model.method.lr, which the study",
        ),
        (C + "methods: {A: {options: {model.method.init_args.lr: 1}}}", "which the study sets: give lrs"),
        (C + "settings: {A: {trainer.default_root_dir: x}}", "which the study sets: give --root"),
        (C + "settings: {A: [1]}", "settings.A=[1] must hold options of fit"),
        (C + "cross: {ckpt_path: [last]}", "which the study sets: leave it out"),
        (C + "cross: {config: [a]}", "which the study sets: give config"),
        (C + "cross: {a: []}", "cross.a=[] must be a list of at least one value"),
        (C + "cross: {a: 1}", "cross.a=1 must be a list of at least one value"),
        (C + "cross: {a.b: [1]}\nsettings: {S: {a.init_args.b: 2}}", "settings.S.a.init_args.b is crossed as well"),
        (
            C + "methods: {A: {options: {a: 1}}}\nsettings: {S: {a: 2}}",
            "A.options.a is set by settings.S as well",
        ),
        (C + "lrs: [0.1, 0]", "lrs=[0.1, 0] must be positive and finite"),
        (C + "lrs: [.nan]", "lrs=[nan] must be positive and finite"),
        (C + "lrs: [true]", "lrs=[True] must be positive"),
        (C + "lrs: []", "lrs=[] must hold at least one number"),
        (C + "methods: {A: {lrs: [a]}}", "methods.A.lrs=['a'] must be positive and finite"),
        (C + "seeds: [-1]", "seeds=[-1] must be integers from 0"),
        (C + "seeds: [1.5]", "seeds=[1.5] must be integers from 0"),
        (C + "seeds: [4294967296]", "seeds=[4294967296] must be integers from 0, below 4294967296"),
        (C + "rates: halfing", "rates=halfing must be one of grid, halving, optuna: did you mean halving?"),
        (C + "rates: [grid]", "rates=['grid'] must be a strategy's name"),
        (C + "rates: {halving: {kep: 1}}", "rates.halving.kep is no option of halving: did you mean keep?"),
        (C + "rates: {halving: {keep: 1}}", "rates.halving.keep=1 must lie between 0 and 1"),
        (C + "rates: {halving: {extend: true}}", "rates.halving.extend=True must be an integer of at least 0"),
        (C + "rates: {optuna: {trials: 0}}", "rates.optuna.trials=0 must be an integer of at least 1"),
        (
            C + "rates: halving\noptions: {trainer.val_check_interval: 0.5}",
            "trainer.val_check_interval=0.5 must be",
        ),
        (C + "by: worst", "by=worst must be one of best, last, rounds, loss"),
        (C + "by: rounds", "by=rounds needs targets"),
        (C + "metric: accuracy", "metric=accuracy must be a metric of validation"),
        (C + "targets: [.nan]", "targets=[nan] must be finite numbers"),
        (C + "seeds: [1", "own.yaml line 3 is no YAML"),
        ("", "own.yaml is empty"),
        ("- a", "own.yaml line 1 is a list"),
        ("config: !!python/name:os.system x", "the tag tag:yaml.org,2002:python/name:os.system is not taken"),
        (C + "options: &a {b: *a}", "a value that is an alias of itself"),
        (BOMB, f"holds over {CONFIGURATION_VALUES} values, those of aliases included"),
        ("config: [nothing]", "config=nothing must be a file or a name that `hiso-pl configs` lists"),
        ("config: [quickstart]\nmethods: {A: {config: hizo}}", "methods=hizo must be a file or a name"),
        (C + "methods: {A: {options: {trainer.max_round: 1}}}", "method 'A': --trainer.max_round is no option"),
        (C + "settings: {S: {data.cohort: x}}", "setting 'S': data.cohort=x must be an integer"),
        (
            C + M + "cross: {data.nothing: [1]}",
            "method 'A', setting 'nothing=1': data.nothing is no option",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_line_before_anything_begins(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert program.main(["study", str(tmp_path / "own.yaml"), "--root", str(tmp_path / "root")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["quickstart"], "study=quickstart is a configuration of fit: give it as --config quickstart"),
        (["nothing.yaml"], "study=nothing.yaml must be a file or a name that `hiso-pl configs` lists"),
        (["."], "study=. is a folder, must be a file or a name"),
        (["/dev/null"], "it is a device, must be a regular file"),
        (["--quick"], "quick needs a study file"),
        (["--seeds", "1"], "config must name a configuration"),
        (["--seeds", "x", "--", "--config", "quickstart"], "seeds=['x'] must be integers from 0"),
        (["--lrs", "a=0.1", "--", "--config", "quickstart"], "lrs=a=0.1 must name one of the methods: there are none"),
        (["--lrs", "x", "--", "--config", "quickstart"], "lrs=x must be numbers"),
        (["--cross", "data.cohort", "--", "--config", "quickstart"], "cross=data.cohort must be followed by values"),
        (["--settings", "x", "--", "--config", "quickstart"], "settings=x is none of the study's"),
        (["--rates", "{", "--", "--config", "quickstart"], "rates={ must be"),
        (["--", "quickstart"], "'quickstart' belongs to no option of fit: did you mean --config quickstart?"),
        (["--", "--config"], "--config needs a value"),
        (["--", "--config", "quickstart", "--seed_everything=4"], "which the study sets: give seeds"),
        (["--methods", "hiso", "x/hiso.yaml", "--", "--config", "quickstart"], "methods=x/hiso.yaml must have another"),
        (["--jobs", "0", "--", "--config", "quickstart"], "jobs"),
        (["--by", "rounds", "--", "--config", "quickstart"], "by=rounds needs targets"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused_by_option_and_value(
    tmp_path: Path, args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = 0 if args[0][0] == "-" else 1
    assert program.main(["study", *args[:at], "--root", str(tmp_path / "root"), *args[at:]]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_a_shipped_study_is_found_by_its_name_and_is_no_configuration_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "quickstart.yaml").write_text("# Quick.\nthreads: 1\n")
    (tmp_path / "study" / "mine.yaml").write_text(f"# Mine, in short.\n{FILE}")
    (tmp_path / "study" / "table.yaml").write_text("{}\n")  # no study on other models
    monkeypatch.setattr("hiso_pl.presets.shipped.folder", lambda: tmp_path)
    monkeypatch.setattr("hiso_pl.presets.paper.names", lambda _: [])
    assert study("mine") == study("study/mine") == study("study/mine.yaml")
    assert asked(parse(["mine", "--root", "unused"]), ())[1] == "Mine, in short."
    assert program.main(["configs"]) == 0
    listed = capsys.readouterr().out
    assert "\n# studies, each for hiso-pl study NAME --root FOLDER:\nstudy/mine" in listed
    assert program.main(["configs", "show", "study/mine"]) == 0
    assert capsys.readouterr().out.startswith("# Mine, in short.\n")
    with pytest.raises(ValueError, match="config=study/mine is a study: carry it out by `hiso-pl study study/mine`"):
        presets.find("study/mine")


def test_a_value_is_passed_on_as_it_stands() -> None:
    data = {"config": "quickstart", "options": {"a": None, "b": True, "c": "x y", "d": [1, {"e": 1e-5}]}}
    assert [as_word(value) for value in study_of(data).options.values()] == ["null", "true", "x y", '[1, {"e": 1e-05}]']
