"""Checkpoints altered at random: taken whole or refused in a line, within bounds, and nothing outside is touched.

Run as a script with a number it tries so many, in a process of bounded memory.
"""

from __future__ import annotations

import copy
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hiso_pl.callbacks import CompleteValidation, Participation, RunSummary
from hiso_pl.federation.traffic import Traffic
from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint import Counters, RunFacts, facts_as_data
from hiso_pl.run.checkpoint_state import state_digest
from hiso_pl.run.learning_rate import LearningRate
from hiso_pl.run.restored import keep_known, retention, without_counters
from hiso_pl.zeroth_order import Diagonal, Momentum, ZerothOrderOptimizer

MEMORY = 6 << 30
"""Address space of the process; torch alone takes half of it."""
SECONDS = 10.0
"""Of one file."""


def test_checkpoints_altered_at_random():
    count = int(os.environ.get("HISO_PL_FUZZ", "200"))
    done = subprocess.run(
        [sys.executable, __file__, str(count)], capture_output=True, text=True, timeout=60 + count, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"{count} tried" in done.stdout


def optimizer() -> ZerothOrderOptimizer:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 60).reshape(5, 12))
    bias = torch.nn.Parameter(torch.zeros(12))
    pairs = [("weight", weight), ("bias", bias)]
    return ZerothOrderOptimizer(pairs, lr=0.01, preconditioner=Diagonal(), update_rule=Momentum())


def trainer(folder: Path) -> Any:
    saving = ModelCheckpoint(dirpath=str(folder), monitor="val/loss", save_top_k=2)
    callbacks = [saving, RunSummary(), Participation(), CompleteValidation()]
    return SimpleNamespace(state=SimpleNamespace(fn="fit"), callbacks=callbacks, precision_plugin=object())


def whole(folder: Path) -> dict[str, Any]:
    """What a run of three rounds writes."""
    run, own = optimizer(), trainer(folder)
    for _ in range(3):
        run.step(lambda: (run.parameters[0].sum(0) + run.parameters[1]).square().mean())
    best = str(folder / "step=3.ckpt")
    states = {callback.state_key: callback.state_dict() for callback in own.callbacks}
    states[own.callbacks[0].state_key] |= {
        **{"best_model_path": best, "best_k_models": {best: torch.tensor(0.5)}, "kth_best_model_path": best},
        **{"kth_value": torch.tensor(0.5), "best_model_score": torch.tensor(0.5)},
    }
    content: dict[str, Any] = {
        **{"epoch": 0, "global_step": 3, "pytorch-lightning_version": "2.6.4", "loops": {"fit_loop": {}}},
        "state_dict": {f"network.{n}": p.detach() for n, p in zip(run.names, run.parameters, strict=True)},
        **{"optimizer_states": [run.state_dict()], "lr_schedulers": [], "callbacks": states},
    }
    facts = RunFacts({"model.lr": "0.01"}, {"weight": [5, 12], "bias": [12]}, "0" * 64)
    traffic = Counters(Traffic().state_dict(), 12, {"val/loss": 0.5})
    found = state_digest(content, run.names)
    content[checkpoint.KEY] = facts_as_data(facts, traffic, found, retention=retention(own))
    return content


def use(path: Path, folder: Path) -> None:
    """Goes on from a checkpoint as far as there is no data."""
    content = checkpoint.read(path)
    facts = RunFacts({"model.lr": "0.01"}, {"weight": [5, 12], "bias": [12]}, "0" * 64)
    checkpoint.compare(content, facts, resuming=True)
    taken, own, run = without_counters(content), trainer(folder), optimizer()
    keep_known(taken, own)
    if not taken.get("optimizer_states"):
        raise ValueError("weights alone")
    LearningRate(0.01, None).check(taken)
    run.load_state_dict(taken["optimizer_states"][0])
    Traffic().load_state_dict(taken[checkpoint.KEY]["traffic"])
    for callback in own.callbacks:
        if callback.state_key in taken["callbacks"]:
            callback.load_state_dict(copy.deepcopy(taken["callbacks"][callback.state_key]))
    saving = own.callbacks[0]
    for named in (saving.best_model_path, saving.kth_best_model_path, saving.last_model_path, *saving.best_k_models):
        assert named == "" or Path(named).parent == folder, named
    assert all(torch.isfinite(tensor.value).all() for tensor in run.tensors())


def places(tree: Any, found: list[tuple[Any, Any]], depth: int = 0) -> list[tuple[Any, Any]]:
    """Every (container, key) of what a run writes into a file."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items if depth < 8 else ():
        found.append((tree, key))
        places(item, found, depth + 1)
    return found


PLAIN: list[Any] = [None, True, -1, 0, 3, 1 << 62, 1 << 70, 0.5, -0.0, "", "x", b"x", [], {}, ("a",), {1: 2}, [[]]]
PLAIN += [
    math.nan,
    math.inf,
    10**400,
    "/etc/passwd",
    "local:///tmp/x",
    "a" * 5000,
    "../../x.ckpt",
    "\ud800",
    "\n\x1b[31m",
]
DTYPES = [torch.float16, torch.int64, torch.float64]


def strange(draw: random.Random) -> Any:
    """A value that may not be there."""
    makers: list[Callable[[], Any]] = [
        lambda: torch.full((12,), draw.choice([math.nan, -1.0, math.inf, 1e38])),
        lambda: torch.zeros(draw.choice([0, 1, 12, 60]), dtype=draw.choice(DTYPES)),
        lambda: torch.zeros(1).expand(1 << draw.randrange(1, 50)),
        lambda: torch.zeros(5, 12).t(),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.nn.Parameter(torch.zeros(12)),
        lambda: torch.zeros(2, dtype=torch.complex64),
        lambda: deep(draw.randrange(10, 400)),
    ]
    return draw.choice(makers)() if draw.random() < 0.3 else copy.deepcopy(draw.choice(PLAIN))


def deep(levels: int) -> Any:
    value: Any = {}
    for level in range(levels):
        value = [value] if level % 2 else {"x": value, "y": value}
    return value


def restructured(content: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    content = copy.deepcopy(content)
    for _ in range(draw.randrange(1, 4)):
        container, key = draw.choice(places(content, []))
        act = draw.randrange(5)
        if act == 0:
            del container[key]
        elif act == 1 and isinstance(container, dict):
            container[draw.choice(["x", 7, "network.more", str(key) + " "])] = container.pop(key)
        elif act == 2 and isinstance(container[key], torch.Tensor) and container[key].numel():
            container[key].view(-1)[draw.randrange(container[key].numel())] = draw.choice([math.nan, -1.0, 7.0])
        else:
            container[key] = strange(draw)
    with suppress(Exception):  # of something without a state
        if draw.random() < 0.7:
            facts = content[checkpoint.KEY]
            facts["digest"] = state_digest(content, list(facts["trainable"]))
    return content


def damaged(data: bytes, draw: random.Random) -> bytes:
    altered = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        place = draw.randrange(len(altered))
        act = draw.randrange(5)
        if act == 0:
            altered[place] ^= 1 << draw.randrange(8)
        elif act == 1:
            altered[place : place + 4] = draw.randbytes(4)
        elif act == 2:
            del altered[place : place + draw.randrange(1, 200)]
        elif act == 3:
            altered[place:place] = altered[max(0, place - 64) : place]
        else:
            del altered[place:]
        if not altered:
            return b""
    return bytes(altered)


def main(count: int, seed: int = 7) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    draw, touched, refused = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer).resolve()
        path, plain = folder / "altered.ckpt", folder / "step=3.ckpt"
        content = whole(folder)
        torch.save(content, plain)
        use(plain, folder)
        data = plain.read_bytes()

        def watch(event: str, args: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or event in ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.mkdir", "os.system"):
                touched.append((event, str(args[0])))

        sys.addaudithook(watch)
        for number in range(count):
            try:
                if draw.random() < 0.6:
                    torch.save(restructured(content, draw), path)
                else:
                    path.write_bytes(damaged(data, draw))
            except Exception:
                continue  # nothing that can be written
            touched.clear()
            started, said = time.perf_counter(), ""
            try:
                use(path, folder)
            except ValueError as error:
                refused, said = refused + 1, str(error)
            assert "\n" not in said, (number, said)
            assert time.perf_counter() - started < SECONDS, number
            assert not touched, (number, touched)
        with zipfile.ZipFile(plain) as archive:
            assert archive.testzip() is None
    print(f"{count} tried, {refused} refused")


if __name__ == "__main__":
    main(int(sys.argv[1]))
