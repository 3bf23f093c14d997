"""A network over several ranks gives the bits of the network uncut, and no rank has more of it than its stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hiso_pl.stages.messages import Layout

pytestmark = pytest.mark.timeout(600)

SCRIPT = Path(__file__).parent / "stages_over_ranks.py"
FORKS = Path(__file__).parents[1] / "end_to_end" / "forked_ranks.py"
FAMILIES = ["opt", "opt-plain", "gpt2", "llama", "qwen3", "gemma2", "mistral", "phi", "bloom"]
LORA = {"peft": {"peft_type": "LORA", "r": 2}}
WAYS = {
    "tau": ({}, {"local_steps": 3}),
    "own": ({}, {"directions": "client", "local_steps": 2}),
    "central": ({}, {"difference": "central"}),
    "low rank": ({}, {"distribution": "low_rank", "rank": 2}),
    "lean": ({}, {"memory": "low"}),
    "bf16": ({}, {"compute_dtype": "bfloat16", "mu": 0.1}),
    "scalar": ({}, {"preconditioner": "Scalar"}),
    "per tensor": ({}, {"preconditioner": "PerTensor"}),
    "no H": ({}, {"preconditioner": "Identity"}),
    "whole vocabulary": ({"loss": "full_vocabulary"}, {}),
    "lora": (LORA, {}),
    "lora bf16": (LORA, {"compute_dtype": "bfloat16", "mu": 0.1}),
}


@pytest.fixture(scope="module")
def on_ranks(folder, tmp_path_factory):
    """What each rank of a launch found of its jobs."""

    def on_ranks(ranks, jobs, batches):
        place = tmp_path_factory.mktemp("ranks")
        torch.save(batches, place / "batches.pt")
        (place / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, str(FORKS), "--standalone", f"--nproc-per-node={ranks}"]
        done = subprocess.run(
            [*command, str(SCRIPT), str(place / "batches.pt"), str(place / "jobs.json"), str(place / "found")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads((place / f"found.{rank}").read_text()) for rank in range(ranks)]

    return on_ranks


def check_same(found, names):
    for name in names:
        for rank in found:
            assert rank[name]["cut"] == rank[name]["uncut"] == found[0][name]["uncut"], name
            assert len(set(rank[name]["uncut"][1])) == 3


def test_two_stages_give_the_bits_of_the_network_uncut(folder, on_ranks, batch, to_left):
    path = folder("opt", blocks=4)
    jobs = [(name, folder(name, blocks=4), 2, {}, {}) for name in FAMILIES]
    jobs += [(name, path, 2, task, options) for name, (task, options) in WAYS.items()]
    found = on_ranks(2, jobs, [batch, to_left(batch)])
    check_same(found, [name for name, *_ in jobs])
    for rank in found:  # what is in no block is on both until it is known who reads it
        tied, apart = rank["opt-plain"], rank["llama"]
        assert tied["held"] <= tied["loaded"] < 0.8 * tied["whole"]
        assert apart["held"] < 0.65 * apart["whole"]
        assert apart["held"] < apart["loaded"] < 0.8 * apart["whole"]


def test_so_do_two_groups_and_four_stages(folder, on_ranks, batch, to_left):
    jobs = [(f"{name} {count}", folder(name, blocks=4), count, {}, {}) for name in ("opt", "llama") for count in (2, 4)]
    jobs += [("tau 2", folder("gemma2", blocks=4), 2, {}, {"local_steps": 2})]
    check_same(on_ranks(4, jobs, [batch, to_left(batch)]), [name for name, *_ in jobs])


def test_three_stages_of_classifiers_and_what_cannot_be_had(folder, on_ranks, batch):
    jobs = [(name, folder(name, blocks=4), 3, {"classifier": True}, {}) for name in ("bert", "gpt2")]
    bad = ("blocks", folder("bert", blocks=2), 3, {"classifier": True}, {})
    found = on_ranks(3, [*jobs, bad], [batch])
    check_same(found, [name for name, *_ in jobs])
    for rank in found:
        assert "count=3 must be at most 2, the number of blocks" in rank["blocks"]["cut"]


@pytest.mark.parametrize(
    "output",
    [
        torch.arange(6.0).view(2, 3),
        (torch.ones(2, 1, dtype=torch.bfloat16), None, torch.arange(3)),
        [torch.zeros(0, 4), torch.tensor(True)],
    ],
    ids=["tensor", "tuple", "list"],
)
def test_a_layout_survives_its_header(output):
    layout = Layout.of(output)
    again = Layout.of_header(layout.header())
    assert again == layout
    tensors = [part for part in ([output] if isinstance(output, torch.Tensor) else output) if part is not None]
    whole = again.whole(tensors)
    assert type(whole) is type(output)
    if not isinstance(output, torch.Tensor):
        assert [part is None for part in whole] == [part is None for part in output]


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ({"hidden": torch.ones(1)}, "a block gives dict, must give a tensor or a tuple"),
        ((torch.ones(1), "words"), "a block gives tuple, must give"),
        (torch.ones(1, dtype=torch.complex64), "more, or other, tensors than can be sent"),
        (tuple(torch.ones(1, 1, 1, 1) for _ in range(20)), "more, or other, tensors than can be sent"),
    ],
)
def test_what_cannot_be_sent_is_refused(output, told):
    with pytest.raises(ValueError, match=told):
        Layout.of(output)
