"""Private runs of the whole program: what is said and withheld, what repeats and what does not, and going on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hiso_pl.cli import program as cli
from hiso_pl.ledger import LedgerReader

BASE = str(Path(__file__).parent / "base.yaml")
METHOD, DATA = "--model.method.init_args", "--data.init_args"
FIT = ["fit", "--config", BASE]
CLIENT = [f"{METHOD}.privacy", "ClientPrivacy", f"{METHOD}.privacy.noise_multiplier", "0.05"]
# minibatches of 2 on average, of clients that have 4 or more: some have no examples
EXAMPLE = [
    f"{METHOD}.privacy",
    "ExamplePrivacy",
    f"{METHOD}.privacy.noise_multiplier",
    "0.5",
    f"{DATA}.batch_size",
    "2",
]


def verified(root: Path) -> bool:
    return cli.main(["replay", str(root / "rounds.ledger"), "--verify"]) == 0


def digest(root: Path) -> str:
    return json.loads((root / "summary.json").read_text())["digest"]


@pytest.mark.parametrize("level", [CLIENT, EXAMPLE], ids=["client", "example"])
def test_a_private_run_withholds_losses_and_differs_when_repeated_but_its_ledger_replays(here, tmp_path, level):
    status, said, root = here([*FIT, *level], tmp_path / "run")
    assert status == 0, said
    assert "Private at the level of" in said
    assert "no other run gives these bits" in said
    events = EventAccumulator(str(root)).Reload().Tags()
    assert "train/loss" not in events["scalars"]
    assert {"val/loss", "scalar/std"} <= set(events["scalars"])
    assert not any("partition" in name or "losses" in name for name in events["images"])
    assert verified(root)
    assert all(not record.dropped for record in LedgerReader(root / "rounds.ledger"))

    status, said, again = here([*FIT, *level], tmp_path / "again")
    assert status == 0, said
    assert digest(again) != digest(root)


def test_going_on_from_an_earlier_checkpoint_makes_rounds_again_with_other_noise(here, tmp_path):
    saving = ["--checkpoint.every_n_train_steps", "5", "--checkpoint.save_top_k", "-1"]
    status, said, root = here([*FIT, *CLIENT, *saving], tmp_path / "run")
    assert status == 0, said
    before = [record.scalars.tobytes() for record in LedgerReader(root / "rounds.ledger")]
    earlier = root / "checkpoints" / "step=5.ckpt"
    status, said, _ = here(
        [*FIT, *CLIENT, "--checkpoint.every_n_train_steps", "500", "--ckpt_path", str(earlier)], root
    )
    assert status == 0, said
    assert "rounds 5 to 11 are cut off, as they are made again with other noise" in said
    after = [record.scalars.tobytes() for record in LedgerReader(root / "rounds.ledger")]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True] * 5 + [False] * 7
    assert verified(root)
    # what the first 12 rounds had saved of round 10 is of no run any more
    stale, more = str(root / "checkpoints" / "step=10.ckpt"), ["--trainer.max_steps", "14"]
    status, said, _ = here([*FIT, *CLIENT, *more, "--ckpt_path", stale], root)
    assert status == 1
    assert "the rounds up to 9 were made again after the checkpoint that this run goes on from" in said
    (root / "checkpoints" / "last.ckpt").unlink()
    status, said, _ = here([*FIT, *CLIENT, *more, "--ckpt_path", "ledger"], root)
    assert status == 0, said
    assert "step=10.ckpt is passed over, as its rounds were made again since, with other noise" in said
    assert len(list(LedgerReader(root / "rounds.ledger"))) == 14
    assert verified(root)


@pytest.mark.slow
def test_two_ranks_agree_on_noise_that_only_one_of_them_drew(run_jobs):
    few = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "4"]
    own = [f"{METHOD}.directions", "client", f"{METHOD}.local_steps", "2"]
    jobs = [("example", [*FIT, *EXAMPLE, *few]), ("client", [*FIT, *CLIENT, *own, *few])]
    for outcome in run_jobs(2, jobs).values():
        assert outcome.statuses == [0, 0], outcome.errors  # the ranks' digests are compared at the end
        assert verified(outcome.root)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*CLIENT[:2]], r"noise_multiplier=None and privacy\.target_epsilon=None: exactly one"),
        ([*CLIENT, f"{METHOD}.privacy.target_epsilon", "1.0"], "exactly one of them must be given"),
        ([*CLIENT[:3], "0.0"], r"noise_multiplier=0\.0 must be finite and positive"),
        ([*CLIENT, f"{METHOD}.privacy.clip", ".nan"], "clip=nan must be finite and positive"),
        ([*CLIENT, f"{METHOD}.privacy.seed", "3"], "seed"),
        ([*EXAMPLE, f"{METHOD}.local_steps", "2"], "local_steps=2 must be 1 with privacy=ExamplePrivacy"),
        ([*CLIENT, f"{METHOD}.aggregation", "WeightedMean"], r"aggregation=WeightedMean\(\) tells how many examples"),
        ([*CLIENT, f"{DATA}.spare_ranks", "help"], "spare_ranks='help' must be idle or auto: it sends raw losses"),
        (
            ["--model.method", "hiso_pl.first_order.FedAvg", f"{METHOD}.privacy", "ClientPrivacy"],
            "privacy",
        ),
        (
            [*CLIENT, "--trainer.callbacks+", "hiso_pl.callbacks.DiagnosisPanels"],
            "DiagnosisPanels shows gradients of clients' examples, which model.method.privacy keeps with them",
        ),
    ],
)
def test_what_privacy_does_not_go_with_is_refused_before_work_begins(here, tmp_path, args, message):
    status, said, root = here([*FIT, *args], tmp_path / "run")
    assert status in (1, 2)
    (line,) = [line for line in said.splitlines() if "hiso-pl: error" in line]
    assert re.search(message, line), line
    assert not (root / "rounds.ledger").exists()
