"""``hiso-pl replay`` and ``hiso-pl ledger``."""

import fcntl

import pytest
import torch
from safetensors.torch import load_file

from hiso_pl.cli.ledger import run as run_ledger
from hiso_pl.cli.parser import ConfigurationError
from hiso_pl.cli.replay import run as run_replay
from hiso_pl.ledger import LedgerError, LedgerReader, show, stored_path
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint_state import state_digest
from hiso_pl.run.configuration import as_text
from hiso_pl.run.lock import LOCK, InUseError
from hiso_pl.zeroth_order import Diagonal, Momentum, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import checksums


@pytest.fixture(autouse=True)
def _settings_of_the_process():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_replay_verifies_and_writes(run, tmp_path, capsys):
    made = run(preconditioner=Diagonal(nu=0.2))
    output = tmp_path / "out.safetensors"
    assert run_replay([str(made.path), "--verify", "--threads", "1", "--output", str(output)]) == made.digests[20]
    out = capsys.readouterr().out
    assert "20 rounds" in out
    assert out.endswith("verified\n")
    written = load_file(output)
    for name, p in zip(made.optimizer.names, made.optimizer.parameters, strict=True):
        assert torch.equal(written[name], p)
    assert run_replay([str(made.path), "--to", "8", "--threads", "1"]) == made.digests[8]


def test_another_digest_is_an_error_and_nothing_is_written(run, tmp_path):
    made = run(rounds=3)
    from hiso_pl.ledger import LedgerWriter

    data = made.path.read_bytes()
    made.path.write_bytes(data[:-52])
    with LedgerWriter.resume(made.path, made.header, 3) as writer:
        writer.close("00" * 32)
    output = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match=f"verify: round 3 has digest {made.digests[3]}, must have 0000"):
        run_replay([str(made.path), "--verify", "--output", str(output)])
    assert not output.exists()


def test_replay_compares_with_a_checkpoint(run, checkpoint_of, tmp_path, capsys):
    made = run(closed=False, update_rule=Momentum())
    path = tmp_path / "step=20.ckpt"
    content = checkpoint_of(made.optimizer)
    torch.save(content, path)
    with pytest.raises(ValueError, match="give --checkpoint"):
        run_replay([str(made.path), "--verify"])
    run_replay([str(made.path), "--verify", "--checkpoint", str(path)])
    assert "verified" in capsys.readouterr().out
    with pytest.raises(ValueError, match="to=19 must be 20"):
        run_replay([str(made.path), "--to", "19", "--checkpoint", str(path)])
    for kind in ("hessian", "momentum"):
        value = content["optimizer_states"][0]["state"][1][kind][0]
        kept = value.clone()
        value += 1e-6
        torch.save(content, path)
        with pytest.raises(ValueError, match="the checkpoint is damaged: its state has digest"):
            run_replay([str(made.path), "--checkpoint", str(path)])
        names = list(content[checkpoint.KEY]["trainable"])
        other = {**content[checkpoint.KEY], "digest": state_digest(content, names)}
        torch.save({**content, checkpoint.KEY: other}, path)
        with pytest.raises(ValueError, match="verify: round 20 has digest"):
            run_replay([str(made.path), "--checkpoint", str(path)])
        value.copy_(kept)
    del content["state_dict"]["network.0.weight"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"lacks the tensor '0\.weight'"):
        run_replay([str(made.path), "--checkpoint", str(path)])


def test_a_checkpoint_made_from_a_ledger_holds_the_state(run, tmp_path):
    made = run(update_rule=Momentum())
    path = tmp_path / "rebuilt.ckpt"
    run_replay([str(made.path), "--output", str(path)])
    content = checkpoint.read(path)
    assert content["global_step"] == 20
    facts = content[checkpoint.KEY]
    assert facts["config"] == as_text({"model": {"lr": 0.1}, "threads": 2})
    assert facts["traffic"] == {"rounds": 20, "paper_bytes": 20 * 2 * 2 * 4, "protocol_bytes": 20 * 2 * 2 * 4.0}
    parameters = [(n, torch.nn.Parameter(content["state_dict"][f"network.{n}"])) for n in made.optimizer.names]
    optimizer = ZerothOrderOptimizer(parameters, seed=5, num_directions=2, update_rule=Momentum())
    optimizer.load_state_dict(content["optimizer_states"][0])
    assert (optimizer.round, optimizer.param_groups[0]["lr"]) == (20, 0.013)
    assert torch.equal(checksums(optimizer)[1], checksums(made.optimizer)[1])


def test_ledger_tells_what_is_there(run, capsys):
    made = run(num_directions=5)
    run_ledger([str(made.path), "--records", "2"])
    out = capsys.readouterr().out
    for expected in (f"20 rounds, closed, digest {made.digests[20]}", "Diagonal(", "seed 5", "112 parameters"):
        assert expected in out
    assert "MISSING" not in out
    assert "4 slots in all; 1 rounds in which nobody was left" in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["18", "19"]
    assert "5 in all" in out
    data = made.path.read_bytes()
    made.path.write_bytes(data[:-60])
    run_ledger([str(made.path), "--records", "0"])
    assert "19 rounds, not closed: the run was interrupted, or goes on; torn after byte" in capsys.readouterr().out
    made.path.write_bytes(data[:-70] + b"x" + data[-69:])
    with pytest.raises(LedgerError, match="record 19"):
        run_ledger([str(made.path)])


def test_ledger_tells_whose_directions_they_are(run, capsys):
    run_ledger([str(run(rounds=3, num_directions=5, directions="client").path)])
    out = capsys.readouterr().out
    assert "directions client" in out
    assert [line.split()[3] for line in out.splitlines()[-3:]] == ["3x5"] * 3
    assert "15 in all" in out


def test_text_of_a_file_does_not_command_a_terminal(ledger, header_of, tmp_path, capsys, start):
    from dataclasses import replace

    from hiso_pl.ledger import LedgerWriter, Weights

    header = replace(header_of(versions={"\x1b[2J": "\u202e\n"}), weights=Weights("\x1b]0;x\x07", None))
    LedgerWriter(tmp_path / "other.ledger", header, start).close()
    run_ledger([str(tmp_path / "other.ledger")])
    out = capsys.readouterr().out
    assert out.isascii()
    assert all(line.isprintable() for line in out.splitlines())


def test_a_plot(ledger, tmp_path):
    show.plot(LedgerReader(ledger), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--to", "-1"], "to=-1"),
        (["--device", "tpu"], "device"),
        (["--output", "x.bin"], "must end in .safetensors or .ckpt"),
        (["--output", "/nowhere/x.ckpt"], "a folder that exists"),
        (["--threads", "many"], "threads"),
    ],
)
def test_options_that_cannot_be(ledger, args, named):
    with pytest.raises(ConfigurationError, match=named):
        run_replay([str(ledger), *args])


def test_more_rounds_than_there_are_and_files_that_are_not_there(ledger, tmp_path):
    with pytest.raises(ValueError, match="to=11 must not exceed the 10 rounds"):
        run_replay([str(ledger), "--to", "11"])
    with pytest.raises(FileNotFoundError):
        run_ledger([str(tmp_path / "none")])


def test_replay_writes_nothing_among_the_files_of_a_run_that_goes_on(run, tmp_path):
    made = run(rounds=3)
    (tmp_path / "checkpoints").mkdir()
    for output in (tmp_path / "out.safetensors", tmp_path / "checkpoints" / "last.ckpt"):
        with (tmp_path / LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(InUseError, match="in use by"):
                run_replay([str(made.path), "--threads", "1", "--output", str(output)])
        assert not output.exists()
        run_replay([str(made.path), "--threads", "1", "--output", str(output)])
        assert output.exists()
    assert not (tmp_path / LOCK).exists()


def test_replay_does_not_write_over_what_it_starts_from(run):
    made = run(rounds=3)
    before = stored_path(made.path).read_bytes()
    with pytest.raises(ConfigurationError, match="must not be where the ledger's own tensors lie"):
        run_replay([str(made.path), "--output", str(stored_path(made.path))])
    assert stored_path(made.path).read_bytes() == before
