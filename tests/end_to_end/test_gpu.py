"""Ranks on GPUs stay in step, sharing one if need be. Skipped where there is none."""

import json
import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("options", [[], ["--model.method.memory", "low"]])
def test_two_ranks_on_the_gpus_there_are_give_the_digest_of_one(tmp_path, base, options):
    digests = []
    for ranks in (1, 2):
        root = tmp_path / str(ranks)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        run = ["-m", "hiso_pl", *base, *options, "--trainer.accelerator", "gpu", "--in_step.every_n_rounds", "2"]
        subprocess.run([*launch, *run, "--trainer.default_root_dir", str(root)], check=True, timeout=600)
        digests.append(json.loads((root / "summary.json").read_text())["digest"])
    assert digests[0] == digests[1]


STAGES = {
    "uncut": (1, []),
    "ranks": (2, ["--model.stages.on", "ranks", "--model.stages.count", "2"]),
    "host": (1, ["--model.stages.on", "host", "--model.stages.count", "2"]),
}


def test_a_network_in_stages_on_the_gpus_there_are_gives_the_digest_of_one_uncut(tmp_path, text_args):
    digests = []
    for name, (ranks, options) in STAGES.items():
        root = tmp_path / name
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        run = ["-m", "hiso_pl", "fit", *text_args, *options, "--trainer.accelerator", "gpu"]
        subprocess.run([*launch, *run, "--trainer.default_root_dir", str(root)], check=True, timeout=600)
        digests.append(json.loads((root / "summary.json").read_text())["digest"])
    assert digests[0] == digests[1]
