"""Launches of the real program: ranks under torchrun, and many runs to a launch."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from hiso_pl.cli import program as cli

HERE = Path(__file__).parent
BASE = str(HERE / "base.yaml")
TIMEOUT_S = 240.0
INTERRUPTS = int(os.environ.get("HISO_PL_INTERRUPTS", "3"))
# rounds enough for each interrupt to meet some, and validations that are due now and then
INTERRUPTED = [
    *("--trainer.max_steps", str(60 * max(INTERRUPTS, 4)), "--trainer.val_check_interval", "30"),
    *("--checkpoint.every_n_train_steps", "40", "--model.method.init_args.num_directions", "1"),
]
WORDS = [
    *("<s>", "<pad>", "<unk>", "</s>", "Ġbad", "Ġgood", "Ġterrible", "Ġgreat", "ĠIt", "Ġwas", "a", "Ġfine", "Ġfilm"),
    # at the start of a sentence and within it
    *("fine", "film", "great", "terrible", "was", "Ġa"),
]


def of_class(name: str, /, **init_args: Any) -> str:
    """The value of an option that is an object."""
    return json.dumps({"class_path": name, "init_args": init_args})


@dataclass
class Launch:
    """A launch of the program, under way or ended.

    Attributes:
        process: torchrun's agent, or the program itself where there is one rank.
        root: The run's folder.
        log: Where everything said goes.
    """

    process: subprocess.Popen[bytes]
    root: Path
    log: Path

    @property
    def ranks(self) -> list[psutil.Process]:
        """The processes of the ranks alive, in order of their start."""
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []
        return sorted(children, key=lambda process: process.pid)

    @property
    def out(self) -> str:
        """All that the ranks have said so far, on either stream."""
        return self.log.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """The error lines of the program."""
        return [line for line in self.out.splitlines() if "hiso-pl: error" in line]

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """The exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            pytest.fail(f"the launch did not end within {timeout:.0f} s:\n{self.out[-3000:]}")

    def end(self) -> None:
        """Kills what is left of the launch."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        for process in [self.process, *family]:
            try:
                process.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        self.process.wait()


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **fixed, "PYTHONPATH": path, **extra}


def torchrun(ranks: int, *options: str, forks: bool = True) -> list[str]:
    """The command that starts a program on so many ranks; one rank needs no torchrun.

    Args:
        ranks: How many.
        options: More options of torchrun's.
        forks: Whether the ranks are forks of its agent, which has imported all for them, as costs less by far; else
            they are started as a user has it.
    """
    if ranks == 1 and not options:
        return [sys.executable]
    agent = [str(HERE / "forked_ranks.py")] if forks else ["-m", "torch.distributed.run"]
    return [sys.executable, *agent, "--standalone", f"--nproc-per-node={ranks}", *options]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Launch]]:
    """Starts the program, and ends it with the session at the latest."""
    started: list[Launch] = []

    def start(
        ranks: int, args: list[str], root: Path, torchrun_options: tuple[str, ...] = (), forks: bool = True
    ) -> Launch:
        log = tmp_path_factory.mktemp("log") / "out.txt"
        started_by = torchrun(ranks, *torchrun_options, forks=forks)
        command = [*started_by, "-m", "hiso_pl", *args, "--trainer.default_root_dir", str(root)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        started.append(Launch(process, root, log))
        return started[-1]

    yield start
    for launch in started:
        if launch.process.poll() is None:
            launch.end()


@pytest.fixture(scope="session")
def launch(start: Callable[..., Launch]) -> Callable[..., tuple[int, str, Path]]:
    """Runs the program to its end."""

    def launch(ranks: int, args: list[str], root: Path) -> tuple[int, str, Path]:
        started = start(ranks, args, root)
        status = started.wait()
        return status, started.out, root

    return launch


@pytest.fixture
def here(
    process_settings: None, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[list[str], Path], tuple[int, str, Path]]:
    """Runs the program in this process, as ``launch`` does on one rank: for what is no matter of processes."""

    def here(args: list[str], root: Path) -> tuple[int, str, Path]:
        capsys.readouterr()
        caplog.clear()
        status = cli.main([*args, "--trainer.default_root_dir", str(root)])
        return status, "".join([*capsys.readouterr(), caplog.text]), root

    return here


@dataclass
class Outcome:
    """What became of one of several runs of a launch, on every rank.

    Attributes:
        root: The run's folder.
        statuses: Exit status of each rank.
        errors: Error lines of each rank.
    """

    root: Path
    statuses: list[int]
    errors: list[list[str]] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary."""
        assert self.statuses == [0] * len(self.statuses), self.errors
        return json.loads((self.root / "summary.json").read_text())

    def result(self) -> dict[str, Any]:
        """What must not depend on the launch."""
        summary = self.summary
        return {key: summary[key] for key in ("digest", "metrics", "rounds", "parameters")} | {
            key: summary["comm"][key] for key in ("paper_kb", "protocol_kb")
        }

    @property
    def said(self) -> str:
        """The one error line of the launch."""
        lines = [line for rank in self.errors for line in rank if "hiso-pl: error" in line]
        assert len(lines) == 1, lines
        return lines[0]


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[Path], None]:
    """Saves a tokenizer of a dozen words."""

    def make(folder: Path) -> None:
        core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=core, bos_token="<s>", pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
        ).save_pretrained(folder)

    return make


@pytest.fixture(scope="session")
def opt(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[[Path], None]) -> Path:
    """A tiny random OPT with its tokenizer."""
    folder = tmp_path_factory.mktemp("opt")
    config = transformers.OPTConfig(
        vocab_size=40,
        hidden_size=16,
        word_embed_proj_dim=8,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=3,
        init_std=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def sentences(n: int) -> list[tuple[str, int]]:
    """Sentences of the tokenizer's words, of several lengths, with labels that follow from them."""
    words = ["a", "fine", "film", "great", "terrible", "was"]
    rows = []
    for i in range(n):
        digits = [(i * 7 + 3 * j * i + j) % len(words) for j in range(2 + i % 4)]
        rows.append((" ".join(words[d] for d in digits), sum(digits) % 2))
    return rows


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], str]:
    """Writes a file of labelled sentences."""
    folder = tmp_path_factory.mktemp("tables")

    def write(name: str, n: int) -> str:
        path = folder / name
        path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in sentences(n)))
        return str(path)

    return write


@pytest.fixture(scope="session")
def text_args(opt: Path, table: Callable[[str, int], str]) -> list[str]:
    """A run of prompts on the tiny OPT."""
    return [
        *("--seed_everything", "3", "--threads", "1", "--trainer.max_steps", "6", "--trainer.val_check_interval", "3"),
        *("--trainer.enable_progress_bar", "false"),
        *("--model.network", "hiso_pl.models.CausalLM", "--model.network.pretrained", str(opt)),
        *("--data", "hiso_pl.data.text.PromptData", "--data.task", "sst2-hiso", "--data.clients", "4"),
        *("--data.cohort", "2", "--data.batch_size", "4", "--data.eval_batch_size", "8"),
        *("--data.train_file", table("train.tsv", 60), "--data.validation_file", table("dev.tsv", 20)),
    ]


@pytest.fixture(scope="session")
def four_blocks(opt: Path, text_args: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same run on an OPT of four blocks."""
    folder = tmp_path_factory.mktemp("opt4")
    config = transformers.AutoConfig.from_pretrained(opt, num_hidden_layers=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(opt).save_pretrained(folder)
    return [str(folder) if arg == str(opt) else arg for arg in text_args]


@pytest.fixture(scope="session")
def clients_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Writes a file of labelled sentences for each of four clients; one may be left out or be another."""

    def write(name: str, client: int = 2, content: str | None = None) -> str:
        folder = tmp_path_factory.mktemp(name)
        rows = [f"{text}\t{label}\n" for text, label in sentences(60)]
        for number, (first, last) in enumerate([(0, 20), (20, 23), (23, 41), (41, 60)]):
            (folder / f"{number}.tsv").write_text("sentence\tlabel\n" + "".join(rows[first:last]))
        if content is not None:
            (folder / f"{client}.tsv").write_text(content)
        elif name == "missing":
            (folder / f"{client}.tsv").unlink()
        return f"{folder}/{{client}}.tsv"

    return write


@pytest.fixture(scope="session")
def run_jobs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Outcome]]:
    """Runs the program several times in the ranks of one launch."""

    def run_jobs(
        ranks: int, jobs: list[tuple[str, list[str]]], there: dict[str, Path] | None = None
    ) -> dict[str, Outcome]:
        folder = tmp_path_factory.mktemp(f"ranks{ranks}-")
        # "validate@default" is a run in the folder of "default"; some may have one that is there already
        roots = {name: folder / name.rpartition("@")[2] for name, _ in jobs} | (there or {})
        plain = [
            (
                name,
                [*(arg.replace("{root}", str(folder)) for arg in args), "--trainer.default_root_dir", str(roots[name])],
            )
            for name, args in jobs
        ]
        (folder / "jobs.json").write_text(json.dumps(plain))
        command = [*torchrun(ranks), str(HERE / "several_runs.py"), str(folder / "jobs.json"), str(folder / "outcomes")]
        log = folder / "out.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        launched = Launch(process, folder, log)
        began = time.monotonic()
        status = launched.wait(2 * TIMEOUT_S)
        assert status == 0, f"{status} after {time.monotonic() - began:.0f} s: {launched.out[-3000:]}"
        found = [json.loads((folder / f"outcomes.{rank}").read_text()) for rank in range(ranks)]
        return {
            name: Outcome(roots[name], [rank[name][0] for rank in found], [rank[name][1] for rank in found])
            for name, _ in jobs
        }

    return run_jobs


METHOD = "--model.method.init_args"
DATA = "--data.init_args"
FIT_JOBS: dict[str, tuple[tuple[int, ...], list[str]]] = {
    # name: the rank counts, and what differs from the base
    "default": ((1, 2, 3, 4), ["--trainer.callbacks+", of_class("meddling.Metrics", path="{root}/fit-metrics")]),
    "options": (
        (1, 3),
        [
            *(f"{METHOD}.local_steps", "3", f"{METHOD}.num_directions", "4", f"{METHOD}.distribution", "rademacher"),
            *(f"{METHOD}.difference", "central"),
            *(f"{METHOD}.preconditioner.init_args.hessian_update", "all"),
            # a schedule that follows a metric
            *(
                "--model.lr_scheduler",
                of_class("torch.optim.lr_scheduler.ReduceLROnPlateau", patience=0, threshold=0.5),
            ),
        ],
    ),
    "weighted": (
        (1, 4),
        [
            *(f"{METHOD}.aggregation", "hiso_pl.federation.WeightedMean", f"{METHOD}.update_rule"),
            *("hiso_pl.zeroth_order.Momentum", "--checkpoint.monitor", "val/loss", f"{METHOD}.mu_schedule"),
            of_class("hiso_pl.zeroth_order.Linear", final=0.0005, rounds=12),
        ],
    ),
    # elementwise state and local moves with a rate of their own; one number for all, by the spread of the scalars
    "adam": (
        (1, 2, 3),
        [*(f"{METHOD}.update_rule", "Adam", f"{METHOD}.local_steps", "2", f"{METHOD}.local_lr", "0.02")],
    ),
    "fzoo": (
        (1, 3),
        [f"{METHOD}.update_rule", "Normalized", f"{METHOD}.update_rule.size", "spread", f"{METHOD}.lr", "2e-5"],
    ),
    # the rate by curvature, quantized scalars along own directions
    "recommended": ((1, 3), ["--config", "method/recommended"]),
    "vit": ((1, 3), ["--model.network", of_class("hiso_pl.models.DigitsViT", width=8, depth=1)]),
    # clients of one example each, made of a seed
    "crowd": (
        (1, 2),
        [
            *("--model.network", "hiso_pl.models.Perceptron", "--data", "hiso_pl.data.GeneratedData"),
            *(f"{DATA}.clients", "100000", f"{DATA}.partition", "null", f"{DATA}.own_means", "0.3"),
        ],
    ),
    # as many clients as ranks on three, where a client is a rank; dealt on one and two
    "fixed": ((1, 2, 3), [f"{DATA}.clients", "3", f"{DATA}.cohort", "2"]),
    "nan": ((1, 2), ["--model.network", "meddling.NaNForLabel"]),
    # fewer slots than ranks: the others help, by themselves with one local step and when asked with more
    "spare": ((1, 3, 4), [f"{DATA}.cohort", "2"]),
    "spare with steps": (
        (1, 3),
        [*(f"{DATA}.cohort", "1", f"{DATA}.spare_ranks", "help", f"{METHOD}.local_steps", "3")],
    ),
    "own": (
        (1, 2, 3, 4),
        [f"{METHOD}.directions", "client", f"{METHOD}.aggregation", "hiso_pl.federation.WeightedMean"],
    ),
    "own with steps": (
        (1, 3),
        [
            *(f"{METHOD}.directions", "client", f"{METHOD}.local_steps", "3", f"{METHOD}.difference", "central"),
            *(f"{DATA}.cohort", "2", f"{DATA}.spare_ranks", "help", f"{METHOD}.update_rule"),
            "hiso_pl.zeroth_order.Momentum",
        ],
    ),
    # on two ranks clients send scalars, on three losses that all transform
    "few bits": (
        (1, 2, 3),
        [
            *(f"{DATA}.cohort", "2", f"{METHOD}.transform"),
            of_class("hiso_pl.federation.Quantize", bits=3, scale="shared"),
        ],
    ),
    "robust": (
        (1, 2),
        [f"{METHOD}.aggregation", of_class("hiso_pl.federation.GeometricMedian", mixing=True)],
    ),
    # clients that are away, drop out or are late: on three ranks fewer slots than ranks now and then
    "absent": (
        (1, 2, 3),
        [
            *(f"{DATA}.availability", of_class("hiso_pl.federation.Fraction", share=0.4), f"{DATA}.dropout", "0.2"),
            *(f"{DATA}.speeds", of_class("hiso_pl.federation.LogNormal"), f"{DATA}.deadline", "0.6"),
        ],
    ),
    "block": (
        (1, 2, 3, 4),
        [
            *(f"{METHOD}.preconditioner", of_class("hiso_pl.zeroth_order.Block", size=8, normalize="trace")),
            *(f"{METHOD}.local_steps", "2"),
        ],
    ),
    "16 bit": ((1, 2), [f"{METHOD}.compute_dtype", "bfloat16", f"{METHOD}.memory", "low", f"{METHOD}.mu", "0.02"]),
    "small": ((1, 2), ["--trainer.callbacks+", of_class("meddling.Collectives", path="{root}/small-seen")]),
    "large": (
        (2,),
        [
            *("--model.network.init_args.channels", "14"),
            *("--trainer.callbacks+", of_class("meddling.Collectives", path="{root}/large-seen")),
        ],
    ),
}
CHECKED = ("--in_step.every_n_rounds", "5", "--checkpoint.every_n_train_steps", "5", "--trainer.callbacks+")
MOMENTUM = (f"{METHOD}.update_rule", "hiso_pl.zeroth_order.Momentum")
# runs of three ranks of which one leaves the step
STEP_JOBS = {
    "flip of H": [*CHECKED, of_class("meddling.Flip", rank=2, round=6, tensor="head.bias", key="hessian", bit=12)],
    "flip of momentum": [
        *MOMENTUM,
        *CHECKED,
        of_class("meddling.Flip", rank=0, round=6, tensor="second.weight", key="momentum", bit=12),
    ],
    "flip before a checkpoint": [
        *("--in_step.every_n_rounds", "0", "--checkpoint.every_n_train_steps", "4", "--trainer.callbacks+"),
        of_class("meddling.Flip", rank=1, round=5, tensor="first.weight"),
    ],
    "flip before the end": [
        *("--in_step.every_n_rounds", "0", "--trainer.callbacks+"),
        of_class("meddling.Flip", rank=1, round=11, tensor="first.weight"),
    ],
}
# runs of two ranks that do not start from the same
START_JOBS = {
    "start: configuration": [f"{METHOD}.lr", "0.0{rank}2"],
    "start: partition": ["--seed_everything", "1{rank}"],
    "start: train data": ["--data", of_class("meddling.OtherData", rank=1, split="train")],
    "start: validation data": ["--data", of_class("meddling.OtherData", rank=1, split="val")],
    "start: initial state": ["--model.network", of_class("meddling.OtherWeights", rank=1)],
    "start: frozen weights": ["--model.network", of_class("meddling.OtherWeights", buffer_rank=1)],
    "start: validation data ": [f"{DATA}.validation", "1{rank}0"],
    "start: trainer.max_steps": ["--trainer.max_steps", "1{rank}"],
    "start: trainer.val_check_interval": ["--trainer.val_check_interval", "{3|4}"],
    "start: trainer.num_sanity_val_steps": ["--trainer.num_sanity_val_steps", "{-1|0}"],
    "start: trainer.limit_val_batches": ["--trainer.limit_val_batches", "{0|1.0}"],
    "start: trainer.strategy.init_args.timeout_s": ["--trainer.strategy.timeout_s", "6{rank}"],
    "start: trainer.strategy.init_args.process_group_backend": [
        *("--trainer.strategy.process_group_backend", "{gloo|null}"),
    ],
    "start: trainer.callbacks": [
        *("--trainer.callbacks+", "{lightning.pytorch.callbacks.Callback|lightning.pytorch.callbacks.LambdaCallback}"),
    ],
    "start: checkpoint.every_n_train_steps": ["--checkpoint.every_n_train_steps", "{rank}3"],
    "start: in_step.every_n_rounds": ["--in_step.every_n_rounds", "{rank}"],
    "start: ledger.enabled": ["--ledger.enabled", "{true|false}"],
    "start: test_at_end": ["--test_at_end", "{true|false}"],
    "start: command": [],
    "start: version of torch": ["--trainer.callbacks+", of_class("meddling.OtherVersion", rank=1)],
    # the last: who has nothing to do would begin the next one
    "start: help": ["{--threads=1|--help}"],
}
# files of four clients, the third of which may be missing or another
CLIENTS_FILES = {
    "whole": None,
    "missing": None,
    "empty": "",
    "bare": "sentence\tlabel\n",
    "header": "sentence\tlabel\tsite\na film\t0\tx\n",
    "column": "text\tlabel\na film\t0\n",
}
# pictures take half of a short run's time, and are looked at in few
NO_BOARD = ("--trainer.logger", "false")
BOARD = ("default", "nan")
EVALUATED = ("--ckpt_path", "{root}/default/checkpoints/last.ckpt", "--trainer.callbacks+")


@pytest.fixture(scope="session")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[], dict[str, Outcome]]], dict[str, Outcome]]:
    """Outcomes that all processes of the tests share: the first to ask makes them while the others wait."""

    def shared(name: str, make: Callable[[], dict[str, Outcome]]) -> dict[str, Outcome]:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            return make()
        path = tmp_path_factory.getbasetemp().parent / f"{name}.json"
        with path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists():
                path.write_text("{}")  # of one that fails
                path.write_text(json.dumps({key: asdict(made) for key, made in make().items()}, default=str))
        found = json.loads(path.read_text())
        return {key: Outcome(Path(made.pop("root")), **made) for key, made in found.items()}

    return shared


@pytest.fixture(scope="session")
def matrix(
    run_jobs: Callable[..., dict[str, Outcome]],
    shared: Callable[..., dict[str, Outcome]],
    text_args: list[str],
    clients_files: Callable[..., str],
) -> Callable[[int], dict[str, Outcome]]:
    """All runs that are made with so many ranks; made once."""
    made: dict[int, dict[str, Outcome]] = {}
    files = {name: clients_files(name, content=content) for name, content in CLIENTS_FILES.items()}

    def matrix(ranks: int) -> dict[str, Outcome]:
        if ranks not in made:
            jobs = [
                (name, ["fit", "--config", BASE, *(() if name in BOARD else NO_BOARD), *args])
                for name, (counts, args) in FIT_JOBS.items()
                if ranks in counts
            ]
            texts = [*text_args, *NO_BOARD]
            if ranks in (1, 2):
                lora = ["fit", *texts, "--model.network.peft", '{"r": 2, "alpha": 4}']
                jobs.append(("lora", lora))
                jobs.append(("lora batched", [*lora, f"{METHOD}.directions_per_forward", "auto"]))
            if ranks in (1, 2, 4):
                for name, path in files.items():
                    jobs.append((f"clients: {name}", ["fit", *texts, "--data.train_file", path]))
                opened = of_class("meddling.Opened", folder=str(Path(files["whole"]).parent), path="{root}/opened")
                jobs[-len(files)][1].extend(["--trainer.callbacks+", opened])
            if ranks in (1, 3):
                # label words of several tokens; answers of a model's own words
                jobs.append(("candidates", ["fit", *texts, "--data.label_words", '[" bad film", " bad"]']))
                own = {"template": "{sentence} It", "answer": "sentence", "stop": "", "max_new_tokens": 4}
                jobs.append(("generation", ["fit", *texts, "--data.task", json.dumps(own)]))
                jobs.append(("predict@generation", ["predict", *jobs[-1][1][1:]]))
                for name in ("validate", "test", "predict"):
                    metrics = of_class("meddling.Metrics", path=f"{{root}}/{name}-metrics")
                    jobs.append((f"{name}@default", [name, "--config", BASE, *EVALUATED, metrics]))
            broken = {2: START_JOBS, 3: STEP_JOBS}.get(ranks, {})
            for name, args in broken.items():
                command = "{fit|validate}" if name == "start: command" else "fit"
                jobs.append((name, [command, "--config", BASE, *NO_BOARD, *args]))
            if ranks == 1:
                jobs.append(("straight", ["fit", "--config", BASE, *NO_BOARD, *INTERRUPTED]))
            made[ranks] = {}  # one that fails is not tried again by every test
            made[ranks] = shared(f"ranks{ranks}", lambda: run_jobs(ranks, jobs))
        assert made[ranks], f"the launch of {ranks} ranks failed"
        return made[ranks]

    return matrix


@pytest.fixture(scope="session")
def base() -> list[str]:
    """The arguments that most runs begin with."""
    return ["fit", "--config", BASE]


@pytest.fixture(scope="session")
def long_run() -> list[str]:
    """The arguments of a run that is long enough to be interrupted; "straight" of one rank is the same without."""
    return INTERRUPTED


@pytest.fixture(scope="session")
def interrupts() -> int:
    """How many interrupts a run is given; the environment's HISO_PL_INTERRUPTS, or a few."""
    return INTERRUPTS
