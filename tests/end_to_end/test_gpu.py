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


def test_a_network_over_two_ranks_on_the_gpus_there_are_gives_the_digest_of_one(tmp_path, text_args):
    digests = []
    for ranks, options in ((1, []), (2, ["--model.stages.on", "ranks", "--model.stages.count", "2"])):
        root = tmp_path / str(ranks)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        run = ["-m", "hiso_pl", "fit", *text_args, *options, "--trainer.accelerator", "gpu"]
        subprocess.run([*launch, *run, "--trainer.default_root_dir", str(root)], check=True, timeout=600)
        digests.append(json.loads((root / "summary.json").read_text())["digest"])
    assert digests[0] == digests[1]
