"""One table of commands: told at once, imported when called, and asked after when mistyped."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from hiso_pl.cli import program
from hiso_pl.cli.commands import COMMANDS

HEAVY = {"torch", "lightning", "numpy", "transformers", "numba", "datasets"}
LIGHT = [
    *([], ["--help"], ["--version"], ["fti"], ["--config", "x.yaml"], ["ledger", "--help"], ["replay", "--help"]),
    *(["export", "--help"], ["study", "--help"], ["completion", "--help"], ["ledger", "--recods", "3"]),
    ["diagnose", "--help"],
]
HEARD = """
import contextlib, io, json, resource, sys
import hiso_pl.__main__
from hiso_pl.cli import program
said = []
for args in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = program.main(args)
    said.append((status, out.getvalue(), err.getvalue()))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([said, sorted(sys.modules), used.ru_utime + used.ru_stime]))
"""


def test_help_and_mistakes_import_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HEARD, json.dumps(LIGHT)], capture_output=True, text=True, check=True)
    said, modules, seconds = json.loads(done.stdout)
    assert not HEAVY & set(modules)
    assert seconds < 2.0, "all of them together; 7 s each where Lightning's parser is imported"
    assert [status for status, *_ in said] == [0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 2, 0]
    overview = said[0][1]
    assert said[1][1] == overview
    for name, command in COMMANDS.items():
        assert f"  {name:<10}  {command.says}\n" in overview
    assert [line for line in overview.splitlines() if line.endswith(":")] == [
        *("run:", "look and take away:", "measure:", "help:"),
    ]
    assert said[2][1].startswith("hiso-pl ")
    assert said[3][2] == "hiso-pl: error: 'fti' is no command: did you mean fit?\n"
    assert "--config comes before the command" in said[4][2]
    assert "--records" in said[5][1]
    assert said[10][2] == "hiso-pl: error: --recods is no option: did you mean --records?\n"


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if find_spec(command.module)])
def test_every_command_has_a_module_that_runs_it(name):
    assert callable(import_module(COMMANDS[name].module).run)


def test_no_garbage_is_looked_for_while_a_command_is_imported_and_it_is_again_after(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "seen_by_import.py").write_text("import gc\n\nseen = gc.isenabled()\n")
    (tmp_path / "cannot_be_imported.py").write_text("raise LookupError\n")
    frozen = gc.get_freeze_count()
    assert program._imported("seen_by_import").seen is False
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    with pytest.raises(LookupError):
        program._imported("cannot_be_imported")
    assert gc.isenabled()
    assert sys.modules.pop("seen_by_import") is not None


def test_a_class_in_the_current_folder_is_found_and_takes_no_modules_place(tmp_path):
    """As the console script is started: its own folder, and not the current one, is first on the path."""
    script = tmp_path / "bin" / "hiso-pl"
    script.parent.mkdir()
    script.write_text("from hiso_pl.__main__ import main\nmain()\n")
    (tmp_path / "mine.py").write_text(
        "from hiso_pl.federation import IID\n\n\nclass Mine(IID):\n    def __init__(self, share: float = 0.25):\n"
        "        super().__init__()\n"
    )
    (tmp_path / "yaml.py").write_text("raise RuntimeError('this is not YAML')\n")
    options = ["--data", "hiso_pl.data.DigitsData", "--model.network", "hiso_pl.models.DigitsCNN"]
    done = subprocess.run(
        [sys.executable, str(script), "fit", *options, "--data.partition", "mine.Mine", "--print_config"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "class_path: mine.Mine" in done.stdout
    assert "share: 0.25" in done.stdout
