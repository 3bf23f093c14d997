"""Clients that come with a file each: the same bits on any number of ranks, and no file opened that need not be."""

from __future__ import annotations

import re

import pytest

from hiso_pl.cli import program as cli


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [2, 4])
def test_files_of_clients_give_the_same_bits_on_every_number_of_ranks(matrix, ranks):
    alone, together = (matrix(count)["clients: whole"] for count in (1, ranks))
    assert together.summary["ranks"] == ranks
    assert together.result() == alone.result()
    assert alone.summary["digest"] != matrix(1)["candidates"].summary["digest"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_rank_that_is_a_client_opens_no_other_clients_file(matrix, ranks):
    folder = matrix(ranks)["clients: whole"].root.parent
    for rank in range(ranks):
        opened = (folder / f"opened.{rank}").read_text().splitlines()
        assert set(opened) == ({f"{rank}.tsv"} if ranks == 4 else {f"{client}.tsv" for client in range(4)})


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"client 2: file '\S+/2\.tsv' does not exist$"),
        ("empty", r"client 2: \S+/2\.tsv: empty, a header line expected$"),
        ("bare", r"client 2: \S+/2\.tsv: no rows$"),
        (
            "header",
            r"client 2 \(\S+/2\.tsv\) has columns label, sentence, site, but client 0 \(\S+/0\.tsv\) has label, s",
        ),
        ("column", r"client 2: \S+/2\.tsv line 2: no column 'sentence', there are text, label: task"),
    ],
)
def test_a_client_with_a_broken_file_ends_all_ranks_in_one_line(matrix, ranks, fault, message):
    run = matrix(ranks)[f"clients: {fault}"]
    assert run.statuses == [1] * ranks
    assert re.search(message, run.said)
    left = [path.name for path in run.root.rglob("*") if path.is_file()]
    assert all("tfevents" in name or name == "hparams.yaml" for name in left)  # Lightning's logger writes on any start


@pytest.fixture
def resumed(process_settings, clients_files, text_args, tmp_path, capsys):
    """Runs two rounds, alters the file of client 2, and goes on."""

    def resumed(*more):
        path, root = clients_files("whole"), tmp_path / "run"
        args = ["fit", *text_args, "--data.train_file", path, "--trainer.default_root_dir", str(root)]
        args += ["--trainer.val_check_interval", "2", "--checkpoint.every_n_train_steps", "2"]
        assert cli.main([*args, "--trainer.max_steps", "2"]) == 0
        assert cli.main([*args, "--trainer.max_steps", "4", "--ckpt_path", "last"]) == 0
        with open(path.format(client=2), "a") as file:
            file.write("a fine film\t0\n")
        capsys.readouterr()
        status = cli.main([*args, "--trainer.max_steps", "6", "--ckpt_path", "last", *more])
        return status, [line for line in capsys.readouterr().err.splitlines() if "hiso-pl" in line]

    return resumed


def test_a_resumed_run_notices_data_that_were_changed(resumed):
    status, [line] = resumed()
    assert status == 1
    assert "differs from the checkpoint's in its partition, train data: " in line


def test_data_may_change_where_that_is_asked_for(resumed, caplog):
    assert resumed("--change_on_resume", "[data]") == (0, [])
    assert "Changed on resume, as asked: partition, train data." in caplog.text
