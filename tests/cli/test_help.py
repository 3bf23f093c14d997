"""Help tells first what a run is about, and nothing that does nothing."""

from __future__ import annotations

import re

import pytest

from hiso_pl.cli.trainer_table import TRAINER


@pytest.fixture(scope="module")
def helps():
    """The help of each command of a run, by one start of the parser each, in a narrow terminal."""
    import contextlib
    import io

    from hiso_pl.cli import program

    told = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "80")
        for command in ("fit", "test"):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                assert program.main([command, "--help"]) == 0
            told[command] = said.getvalue()
    return told


def test_the_first_screenful_has_the_method_and_the_data(helps):
    first = helps["fit"].splitlines()[:50]
    rows = {line.split()[0]: line for line in first if line.startswith("  ")}
    for name, default in (
        *(("lr", "0.001"), ("mu", "0.001"), ("num_directions", "5"), ("local_steps", "1")),
        *(("preconditioner", "Diagonal"), ("clients", "8"), ("cohort", "4"), ("batch_size", "32")),
        *(("partition", "null"), ("--trainer.max_steps", "1000")),
    ):
        assert rows[name].split()[1] == default
    assert "Directions P probed in a local step" in rows["num_directions"]
    assert any("--model.method hiso_pl.zeroth_order.Method" in line for line in first)


def test_texts_and_networks_tell_of_their_options(helps):
    lines = helps["fit"].splitlines()
    for name in ("task", "train_file", "max_length", "pretrained", "trainable"):
        assert [line for line in lines if line.startswith(f"  {name} ")], name


def test_checkpoints_to_go_on_from_are_told(helps):
    told = " ".join(helps["fit"].split("--ckpt_path ")[1].split("\n\n")[0].split())
    for word in ("last", "auto", "ledger", "best"):
        assert re.search(rf"\b{word}\b", told)
    told = " ".join(helps["test"].split("--ckpt_path ")[1].split("\n\n")[0].split())
    assert "last is the newest" in told
    assert "best the one that checkpoint.monitor prefers" in told
    assert "ledger, what" not in told


def test_what_does_nothing_is_not_told(helps):
    for text in helps.values():
        options = set(re.findall(r"--(trainer\.\w+)", text))
        assert options == {f"trainer.{name}" for name, decision in TRAINER.items() if not decision.fixed}
        assert "weights_only" not in text.replace("checkpoint.save_weights_only", "")
        assert "print_shtab" not in text
        assert "random seed" not in text
        assert max(len(line) for line in text.splitlines()) <= 120
