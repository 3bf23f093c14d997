from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hiso_pl.federation import Clip, LabelFlip, SignFlip
from hiso_pl.integrations.arguments import check_arguments
from hiso_pl.integrations.rounds import Rounds
from hiso_pl.zeroth_order import Identity, Linear, Method, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest
from tests.integrations import training
from tests.integrations.training import LR, METHOD, STEPS, Recording, examples, model, trainer


def replayed(seen: list[list[dict[str, Any]]]) -> tuple[str, list[float]]:
    """The digest of the rounds on what each process was given, and their losses, in a plain loop of one process."""
    network = model().eval()
    method = Method(lr=LR, num_directions=3, mu_schedule=Linear(5e-4, rounds=STEPS))
    optimizer = ZerothOrderOptimizer(network.named_parameters(), method, seed=42)
    losses = []
    for round, batches in enumerate(zip(*seen, strict=True)):
        optimizer.param_groups[0]["lr"] = LR * max(0.0, (STEPS - round) / max(1, STEPS))  # linear to zero
        own = [lambda k, batch=batch: network(**batch).loss for batch in batches]
        losses.append(float(optimizer.step(losses=own)))
    return digest(optimizer), losses


@pytest.fixture(autouse=True)
def _own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 4 of transformers leaves what a test asked for in the environment."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    made = trainer(tmp_path_factory.mktemp("whole"))
    made.train()
    return made


def test_a_training_is_the_plain_loop_s_rounds(whole: Recording) -> None:
    expected, losses = replayed([whole.seen])
    assert digest(whole.rounds) == expected
    logged = [entry for entry in whole.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in logged] == pytest.approx(losses, abs=1e-4)
    assert not any("grad_norm" in entry for entry in logged)
    assert [entry["learning_rate"] for entry in logged] == pytest.approx([LR * (1 - r / STEPS) for r in range(STEPS)])
    # the loss of the first batch, by torch alone
    batch = whole.seen[0]
    with torch.no_grad():
        logits = model().eval()(input_ids=batch["input_ids"]).logits
    first = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 20), batch["labels"][:, 1:].reshape(-1))
    assert losses[0] == pytest.approx(float(first), abs=1e-6)


def test_a_resumed_training_comes_to_the_same_digest(whole: Recording, tmp_path: Path) -> None:
    trainer(tmp_path, 7).train()  # in the second epoch
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert digest(resumed.rounds) == digest(whole.rounds)
    assert resumed.state.global_step == resumed.rounds.round == STEPS
    saved = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "checkpoint-9")
    kept = dict(resumed.model.named_parameters())
    assert all(torch.equal(p, kept[name]) for name, p in saved.named_parameters())

    for change, named in (
        ({"method": Method(lr=LR, num_directions=4)}, "num_directions was 3 in the checkpoint and is 4"),
        ({"args": {"learning_rate": 2e-3}, "method": None}, "lr was 0.01 in the checkpoint and is 0.002"),
        ({"args": {"seed": 1}}, "seed=1 configured, but the state was made with 42"),
    ):
        with pytest.raises(ValueError, match=named):
            trainer(tmp_path, **change).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4/optimizer\.pt does not exist: .*save_only_model is not set"):
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_an_attack_that_is_left_out_is_no_way_to_go_on() -> None:
    given = list(model().named_parameters())
    attacked = Rounds(given, Method(attack=SignFlip())).state_dict()
    with pytest.raises(ValueError, match=r"attack was {'SignFlip': .* in the checkpoint and is None: undo it"):
        Rounds(given, Method()).load_state_dict(attacked)


def test_dropout_is_off_and_evaluation_and_a_second_training_work(tmp_path: Path) -> None:
    made = trainer(tmp_path, 2, args={"eval_strategy": "steps", "eval_steps": 1}, eval_dataset=examples(6))
    made.train()  # GPT-2 has dropout, with which the first round would refuse the loss
    assert [entry["eval_loss"] for entry in made.state.log_history if "eval_loss" in entry]
    before = digest(made.rounds)
    made.train()
    assert made.rounds.round == made.state.global_step == 2
    assert digest(made.rounds) != before


def test_adapters_and_losses_that_are_withheld(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    network = peft.get_peft_model(model(), peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.1))
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    made = trainer(tmp_path, 3, network, method=Method(lr=LR, preconditioner=Identity(), transform=Clip(0.5)))
    made.train()
    assert len(made.rounds.parameters) == 4
    assert all(torch.equal(p, frozen[name]) for name, p in network.named_parameters() if name in frozen)
    assert abs(made.rounds.report.sent).max() <= 0.5
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").is_file()
    assert ("loss" in made.state.log_history[0]) is not made.method.withholds_losses


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2 must be 1"),
        ({"bf16": True}, "bf16=True must be left out: the parameters that are trained are fp32"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing=True must be left out: a round has no gradient"),
        ({"optim": "sgd"}, "optim='sgd' must be left out: the optimizer is ZerothOrderOptimizer"),
        ({"weight_decay": 0.1}, "weight_decay=0.1 must be left out"),
        ({"max_grad_norm": 0.5}, "max_grad_norm=0.5 must be left out"),
        ({"neftune_noise_alpha": 1.0}, "neftune_noise_alpha=1.0 must be left out"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True must be left out"),
        ({"ddp_bucket_cap_mb": 5}, "ddp_bucket_cap_mb=5 must be left out: no wrapper"),
        ({"learning_rate": 1e-3}, r"learning_rate=0.001 of args and lr=0.01 of method must be the same"),
    ],
)
def test_what_does_not_carry_over_is_refused_by_name(args: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        trainer(tmp_path, args=args)


def test_more_that_does_not_carry_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="local_steps=2 of method must be 1"):
        trainer(tmp_path, method=Method(local_steps=2))
    with pytest.raises(ValueError, match="compute_dtype='bfloat16' of method must be 'float32'"):
        trainer(tmp_path, method=Method(compute_dtype="bfloat16"))
    with pytest.raises(ValueError, match="must be a Method, such as"):
        trainer(tmp_path, method={"lr": 1})
    with pytest.raises(ValueError, match=r"attack=LabelFlip\(.*\) of method must be another: Trainer's batches"):
        trainer(tmp_path, method=Method(attack=LabelFlip()))
    with pytest.raises(ValueError, match=r"attack\.clients=\[1\] must be below clients=1"):
        trainer(tmp_path, method=Method(lr=LR, attack=SignFlip(clients=[1]))).train()
    with pytest.raises(RuntimeError, match="none of 2 rounds moved anything: no loss was finite"):
        trainer(tmp_path, 2, compute_loss_func=lambda outputs, *_, **__: outputs.logits.mean() * float("nan")).train()
    given = {"max_steps": 2, "save_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    usual = transformers.TrainingArguments(str(tmp_path / "usual"), **given)
    transformers.Trainer(model(), usual, train_dataset=examples()).train()
    with pytest.raises(ValueError, match=r"optimizer\.pt is not of a ZerothOrderTrainer"):
        trainer(tmp_path / "usual").train(resume_from_checkpoint=True)
    network = model()
    with pytest.raises(ValueError, match="optimizer must be left out: method= and"):
        trainer(tmp_path, network=network, optimizers=(torch.optim.SGD(network.parameters(), 0.1), None))
    with pytest.raises(ValueError, match="has no trainable parameter"):
        trainer(tmp_path, network=model().requires_grad_(False)).train()
    with pytest.raises(ValueError, match="load the model in float32"):
        trainer(tmp_path, network=model().to(torch.bfloat16)).train()
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    for name, value, named in (
        ("deepspeed", {"zero": 3}, "deepspeed={'zero': 3} must be left out"),
        ("fsdp", True, "fsdp=True must be left out"),
        ("torch_compile", True, "torch_compile=True must be left out"),
        ("_n_gpu", 2, "2 GPUs are seen by one process"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(arguments, name, value)
            with pytest.raises(ValueError, match=named):
                check_arguments(arguments, None)


@pytest.mark.slow
def test_two_processes_equal_one_with_two_losses_and_resume(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    for _ in range(2):
        done = subprocess.run(
            [*command, training.__file__, str(tmp_path)], capture_output=True, text=True, timeout=240, env=environment
        )
        if "connectFullMesh" not in done.stderr:  # gloo itself now and then fails to connect on a loaded machine
            break
    assert done.returncode == 0, done.stderr
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    expected, _ = replayed([result["seen"] for result in results])
    for result in results:
        assert result["digests"] == [expected, expected]
        assert result["wrapped"] == "GPT2LMHeadModel"
        # a round's payload: for each of two clients three scalars and a loss, and a ballot; whatever the model's size
        assert result["sent"] == STEPS * 4 * (2 * (METHOD.num_directions + 1) + 1)
    first, second = (result["seen"][0]["input_ids"] for result in results)
    assert not torch.equal(first, second)
    for rank in range(2):
        assert "do not start from the same weights" in (tmp_path / f"{rank}.error").read_text()
