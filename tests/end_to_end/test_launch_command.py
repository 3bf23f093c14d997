"""`hiso-pl launch` understands its options and says in one line what it does not; several devices go the same way."""

from __future__ import annotations

import re

import pytest

from hiso_pl.cli import launch
from hiso_pl.cli import program as cli
from hiso_pl.ranks import agent, environment
from hiso_pl.ranks.agent import Launch

pytestmark = pytest.mark.usefixtures("process_settings")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*environment.NUMBERS, *environment.TASKS, "MASTER_ADDR", environment.BY_TORCHRUN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch):
    """What would be launched, in place of which status 7 is given."""
    found = []

    def carry_out(wanted: Launch) -> int:
        found.append(wanted)
        return 7

    monkeypatch.setattr(agent, "carry_out", carry_out)
    monkeypatch.setattr(launch.going_on, "program", lambda: "hiso-pl")
    return found


def test_what_is_launched(started):
    assert cli.main(["launch", "--nproc", "4", "fit", "--config", "a b", "--threads=1"]) == 7
    [found] = started
    assert (found.command, found.ranks, found.machines) == (["fit", "--config", "a b", "--threads=1"], 4, 1)
    assert (found.endpoint, found.max_restarts, found.local_addr) == ("localhost:0", 0, None)
    assert found.started_by == "hiso-pl launch --nproc 4"


def test_torchruns_names_are_known(started):
    args = ["--nproc-per-node=2", "--nnodes=3", "--rdzv_endpoint", "node 1:29500", "--rdzv-id", "a", "--max_restarts=2"]
    assert cli.main(["launch", *args, "--local-addr", "10.0.0.2", "validate"]) == 7
    [found] = started
    assert (found.ranks, found.machines, found.max_restarts) == (2, 3, 2)
    assert (found.endpoint, found.run_id, found.local_addr) == ("node 1:29500", "a", "10.0.0.2")
    assert "--rdzv_endpoint 'node 1:29500'" in found.started_by
    assert found.rendezvous().get_as_bool("is_host") is False
    assert Launch([], 1, "", endpoint="10.0.0.2:1", local_addr="10.0.0.2").rendezvous().get_as_bool("is_host") is True


def test_several_devices_are_a_launch(started, base, tmp_path):
    args = [*base, "--trainer.devices", "2", "--trainer.default_root_dir", str(tmp_path / "run")]
    assert cli.main(args) == 7
    [found] = started
    assert (found.command, found.ranks, found.started_by) == (args, 2, "hiso-pl")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "a command must follow, one of fit, validate, test, predict, bench"),
        (["fitt"], "'fitt' must be one of fit, validate, test, predict, bench: did you mean fit"),
        (["export"], "'export' must be one of .*: other commands are for one process"),
        (["launch", "fit"], "'launch' must be one of"),
        *(
            (["--nproc", n, "fit"], f"'{n}' must be a number of at least 1 and at most 4096")
            for n in ("0", "-1", "two")
        ),
        (["--nproc", "4097", "fit"], "'4097' must be a number"),
        (["--nproc"], "--nproc.* expected one argument"),
        (["--max-restarts", "-1", "fit"], "'-1' must be a number of at least 0"),
        (["--nnodes", "1:4", "fit"], "'1:4' must be a number of at least 1"),
        (["--nnodes", "2", "fit"], "--nnodes=2 needs --rdzv-endpoint HOST:PORT"),
        (["--rdzv-endpoint", "node1", "fit"], "'node1' must be HOST:PORT"),
        (["--rdzv-endpoint", "node1:0", "fit"], "'node1:0' must be HOST:PORT"),
        (["--procs", "3", "fit"], r"--procs is no option: did you mean --nproc"),
        (["fit", "--nproc", "2"], "--nproc must stand before fit"),
        (["fit", "--max-restarts=2"], "--max-restarts must stand before fit"),
    ],
)
def test_mistakes_are_one_line(started, capsys, args, said):
    assert cli.main(["launch", *args]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("hiso-pl: error: launch: ")
    assert re.search(said, line), line
    assert started == []


def test_ranks_start_no_ranks(started, capsys, monkeypatch):
    monkeypatch.setenv(environment.BY_TORCHRUN, "x")
    assert cli.main(["launch", "fit"]) == 2
    assert "launch starts ranks itself, and TORCHELASTIC_RUN_ID in the environment" in capsys.readouterr().err


def test_help_needs_no_ranks(capsys):
    assert cli.main(["launch", "--help"]) == 0
    assert "--rdzv-endpoint" in capsys.readouterr().out
    assert launch._asks(["fit", "--help"])
    assert launch._asks(["fit", "--model.network.help=hiso_pl.models.CausalLM"])
    assert launch._asks(["fit", "--config", "a", "--print_config"])
    assert not launch._asks(["fit", "--config", "help"])
