"""The script completes commands, options and choices, and asks nobody."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec

import pytest

from hiso_pl.cli import completion
from hiso_pl.cli.commands import COMMANDS

ASKED = {
    ("hiso-pl", "fi"): ["fit"],
    ("hiso-pl", "fit", "--data.coh"): ["--data.cohort"],
    ("hiso-pl", "validate", "--model.method.num_d"): None,  # some, of which the first is
    ("hiso-pl", "fit", "--data.partition", "D"): ["Dirichlet"],
    ("hiso-pl", "fit", "--model.method.difference", ""): ["forward", "central"],
    ("hiso-pl", "fit", "--deterministic", "t"): ["true"],
    ("hiso-pl", "ledger", "--rec"): ["--records"],
    ("hiso-pl", "fit", "--config", "x"): [],
    ("hiso-pl", "fit", "--trainer.max_epo"): [],
}


@pytest.fixture(scope="module")
def words():
    with pytest.MonkeyPatch.context() as patched:
        for name, command in [*COMMANDS.items()]:
            if find_spec(command.module) is None:
                patched.delitem(COMMANDS, name)
        yield completion._words()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_of_a_reasonable_size_and_the_shell_takes_it(words, shell, tmp_path):
    text = completion.script(shell, *words)
    assert len(text) < 20_000
    assert "lr_scheduler.optimizer" not in text  # what a scheduler is called with is no option
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    (tmp_path / "script").write_text(text)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(words, tmp_path):
    asking = "\n".join(
        f"COMP_WORDS=({' '.join(repr(word) for word in asked)}); COMP_CWORD={len(asked) - 1}; _hiso_pl; "
        'echo "${COMPREPLY[*]}"'
        for asked in ASKED
    )
    done = subprocess.run(
        ["bash", "-c", f"{completion.script('bash', *words)}\n{asking}"], capture_output=True, text=True, check=True
    )
    for expected, found in zip(ASKED.values(), done.stdout.splitlines(), strict=True):
        if expected is None:
            assert found.split()[0] == "--model.method.num_directions"
        else:
            assert found.split() == expected
