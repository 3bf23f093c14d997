"""Damaged and hostile ledgers, each gone through in every way that there is; run as a script, in bounded memory.

Usage: fuzzing.py LEDGER FOLDER FIRST COUNT

LEDGER is a whole one, with its tensors beside it. Of every case a copy of it is changed, by the case's number alone,
and what should not happen is written to stdout, a line each: an error that is not of one line, memory or time beyond
the bounds, something opened or removed outside FOLDER, a module imported.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import hiso_pl
from hiso_pl.cli import edge
from hiso_pl.cli.ledger import run as run_ledger
from hiso_pl.cli.replay import run as run_replay
from hiso_pl.ledger import LedgerReader, LedgerWriter, stored_path
from hiso_pl.ledger import format as fmt
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.resumable import go_on
from hiso_pl.zeroth_order import Method, ZerothOrderOptimizer

MEMORY = 640 << 20
"""Bytes of address space that a case may take beyond what the program has by then."""
SECONDS = 20.0
"""Seconds of the processor that a case may take."""
INSTALLED = ("/proc", sys.prefix, sys.base_prefix, str(Path(hiso_pl.__file__).parent))
"""Where a case may read, beside its own folder."""
Frames = list[tuple[int, bytes]]
NEST: Any = "x"
for _ in range(400):
    NEST = [NEST] if isinstance(NEST, dict) else {"a": NEST}
VALUES: list[Any] = [
    *(10**400, -(10**400), 1 << 64, (1 << 64) - 1, 1 << 63, 1 << 31, -1, 0, 1, 2, 16383, 16384, (1 << 24) - 1, 1 << 24),
    *(True, False, None, "1", "1.5", "", 0.5, -0.0, 1e308, 5e-324, -1e-300, "nan", "\ud800", "\x1b[2J", "a\nb"),
    *(
        "a" * 5000,
        "../../etc/passwd",
        "/dev/zero",
        [],
        {},
        [[]] * 50,
        NEST,
        {"class_path": "os.system", "init_args": {}},
    ),
    *({"Diagonal": {"nu": 10**400}}, {"Diagonal": {"floor": 10**400}}, {"Momentum": {}}, {"Scalar": {"nu": -0.0}}),
]
SPELLINGS = [b"NaN", b"-Infinity", b"1e400", b"-0", b"1E2", b"9" * 5000, b"[" * 100_000, b'"\\ud800"', b'"\xff"', b"01"]


def frames_of(data: bytes) -> Frames:
    found, at = [], len(fmt.PREAMBLE)
    while at < len(data):
        word = struct.unpack_from("<I", data, at)[0]
        size = word & (1 << 30) - 1
        found.append((word >> 30, data[at + 8 : at + 8 + size]))
        at += 16 + size
    return found


def chained_again(frames: Frames) -> bytes:
    """A file of these frames, with checksums that are all right."""
    made, chain = [fmt.PREAMBLE], fmt.first_chain()
    for kind, body in frames:
        made.append(fmt.frame(kind, body, chain))  # type: ignore[arg-type]
        chain = made[-1][-fmt.CHAIN :]
    return b"".join(made)


def canonical(tree: Any) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


# What is done to a file


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at, size = rng.randrange(len(made) + 1), rng.choice((1, 4, 8, 50, 400))
        match rng.randrange(6):
            case 0 if made:
                made[at % len(made)] ^= 1 << rng.randrange(8)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = rng.randbytes(size)
            case 3:
                del made[at : at + size]
            case 4:
                made[at:at] = made[max(0, at - size) : at]
            case _:
                made[at : at + size] = bytes(min(size, len(made) - at))
    return bytes(made)


def header_changed(rng: random.Random, body: bytes) -> bytes:
    tree = json.loads(body)
    for _ in range(rng.choice((1, 1, 2))):
        path = rng.choice(list(places(tree)))
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        match rng.randrange(5):
            case 0:
                del inner[path[-1]]
            case 1 if isinstance(inner, dict):
                inner[rng.choice(["", "a", "\x1b", "class_path", "local_steps"])] = rng.choice(VALUES)
            case _:
                inner[path[-1]] = rng.choice(VALUES)
        if not isinstance(tree, dict) or not tree:
            break
    text = canonical(tree)
    if rng.randrange(6) == 0:  # a spelling that is not JSON's one
        at = rng.choice([i for i, letter in enumerate(text) if letter in b":,["]) + 1
        text = text[:at] + rng.choice(SPELLINGS) + text[at:]
    if rng.randrange(12) == 0:
        text = text[:1] + b'"seed":5,' + text[1:]
    return text


def record_changed(rng: random.Random, body: bytes) -> bytes:
    made = bytearray(body)
    doubles = [float("nan"), float("inf"), -0.0, 0.0, 1e308, 5e-324, -1.0, 1e-3]
    match rng.randrange(6):
        case 0:
            made[:4] = struct.pack("<I", rng.choice([0, 3, 1 << 31, (1 << 32) - 1]))
        case 1 | 2:
            at = rng.choice([4, 12])
            made[at : at + 8] = struct.pack("<d", rng.choice(doubles))
        case 3:
            made[20:22] = struct.pack("<H", rng.choice([0, 1, 2, 3, 16383, 65535]))
        case 4:
            at = rng.randrange(22, len(made) - 4)
            made[at : at + 4] = rng.choice(
                [rng.randbytes(4), struct.pack("<f", rng.choice([float("nan"), 3e38, -0.0]))]
            )
        case _:
            made[-1] = rng.randrange(256)
    if rng.randrange(8) == 0:
        made = made[: rng.randrange(len(made) + 1)] + rng.randbytes(rng.choice((0, 4, 64)))
    return bytes(made)


def frames_changed(rng: random.Random, frames: Frames) -> Frames:
    made = list(frames)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(made)) if rng.randrange(3) else rng.choice((0, len(made) - 1))
        kind, body = made[at]
        match rng.randrange(9):
            case 0:
                del made[at]
            case 1:
                made.insert(rng.randrange(len(made) + 1), made[at])
            case 2:
                made.insert(rng.randrange(len(made) + 1), made.pop(at))
            case 3:
                made[at] = (rng.randrange(4), body)
            case 4:
                made[at:at] = [frames[0]] * rng.choice((1, 2, 300))
            case _:
                change = (record_changed, header_changed, bytes_changed)[kind if kind < 2 else 2]
                with contextlib.suppress(ValueError, IndexError):  # changed once already
                    made[at] = (kind, change(rng, body))
        if not made:
            return frames[:1]
    return made


def large(rng: random.Random, frames: Frames) -> Frames:
    """As much as a file of some megabytes may ask for."""
    tree = json.loads(frames[0][1])
    made = frames[:1]
    match rng.randrange(5):
        case 0:
            tree["clients"] = tree["cohort"] = m = (1 << 24) - 1
            bits = rng.choice([b"\xff" * (m // 8) + b"\x7f", rng.randbytes(m // 8) + b"\x01"])
            fixed = (4 * tree["method"]["local_steps"] * b"\0", 1e-3)
            made += [(0, struct.pack("<IddH", r, fixed[1], 1e-3, 1) + fixed[0] + bits) for r in range(6)]
        case 1:
            tree["configuration"] = {"a": rng.choice([[1], [[]], [{}], [""], [0.5]]) * rng.choice((900_000, 1_100_000))}
        case 2:
            tree["configuration"] = {"a": rng.choice(["b", "\x00", "\ud800"]) * (2 << 20)}
        case 3:
            tree["tensors"] = [{**tree["tensors"][0], "name": f"t{i}", "shape": []} for i in range(60_000)]
        case _:
            tree["tensors"] = [{**tree["tensors"][0], "name": f"t{i}", "stored": False} for i in range(500)]
    body = canonical(tree)
    return [(1, body), *made[1:]] if rng.randrange(3) else [(1, body)] * 3


def stored_changed(rng: random.Random, data: bytes) -> bytes:
    size = struct.unpack_from("<Q", data)[0]
    match rng.randrange(4):
        case 0:
            return struct.pack("<Q", rng.choice([0, 1, size + 1, 1 << 26, (1 << 63) + 1])) + data[8:]
        case 1:
            return data[:8] + header_changed(rng, data[8 : 8 + size]).ljust(size)[:size] + data[8 + size :]
        case 2:
            body = header_changed(rng, data[8 : 8 + size])
            return struct.pack("<Q", len(body)) + body + data[8 + size :]
        case _:
            return bytes_changed(rng, data)


def made(number: int, ledger: bytes, stored: bytes) -> tuple[bytes, bytes]:
    rng = random.Random(number)
    frames = frames_of(ledger)
    if number % 250 == 17:
        return chained_again(large(rng, frames)), stored
    match rng.randrange(10):
        case 0 | 1:
            return bytes_changed(rng, ledger), stored
        case 2:
            return ledger, stored_changed(rng, stored)
        case 3:
            return bytes_changed(rng, chained_again(frames_changed(rng, frames))), stored_changed(rng, stored)
        case _:
            return chained_again(frames_changed(rng, frames)), stored


# What is done with it


class OutOfTime(BaseException):
    """A case that takes too long; no error, so that nothing catches it."""


def at_start(path: Path, header: Header, values: dict[str, torch.Tensor]) -> ZerothOrderOptimizer:
    pairs = [(name, torch.nn.Parameter(value.clone())) for name, value in values.items()]
    return ZerothOrderOptimizer(pairs, Method.applying(header.method), seed=header.seed)


def uses(path: Path, header: Header, values: dict[str, torch.Tensor], number: int) -> list[Callable[[], object]]:
    """Every way to a file; those that write into it come last."""
    reader: list[LedgerReader] = []

    def read() -> None:
        reader.append(LedgerReader(path))
        assert sum(1 for _ in reader[0]) == reader[0].rounds

    def resumed(changed: bool) -> None:
        with LedgerWriter.resume(path, header, number % 5, changed=changed) as writer:
            there = list(LedgerReader(path))
            if len(there) > number % 5:
                writer.append(there[number % 5])
            writer.close("ab" * 32 if number % 2 else None)

    out = str(path.with_name(("out.ckpt", "out.safetensors")[number % 2]))
    return [
        read,
        lambda: run_ledger([str(path)]),
        lambda: run_replay([str(path), "--threads", "1", "--output", out]),
        lambda: run_replay([str(path), "--threads", "1", "--verify", "--weights", str(path.parent)]),
        lambda: go_on(LedgerReader(path), at_start(path, header, values)),
        lambda: resumed(False),
        lambda: resumed(True),
        lambda: LedgerWriter.resume(path, header, 0).cut_back(1),
    ]


def tried(use: Callable[[], object]) -> str | None:
    """What is wrong with how it ends; nothing with a refusal in a line, and None is no refusal either."""
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            use()
    except (MemoryError, OutOfTime) as error:
        return type(error).__name__
    except edge.EXPLAINED as error:
        message = edge._words(error)
        if "\n" in message or not message.isprintable() or len(message) > 1500:
            return f"an error of {len(message)} characters: {message[:200]!r}"
        return ""
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None if len(said.getvalue()) < 1 << 20 else f"{len(said.getvalue())} characters were said"


def main() -> None:
    whole, folder, first, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    ledger, stored = whole.read_bytes(), stored_path(whole).read_bytes()
    header = LedgerReader(whole).header
    seen, watching, accepted = list[str](), [False], 0

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if not watching[0]:
            return
        if event in ("open", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"):
            if isinstance(args[0], int):
                return
            path, reads = Path(os.fsdecode(args[0])), event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)
            installed = reads and any(path.is_relative_to(p) for p in INSTALLED)
            if not path.is_relative_to(folder) and not installed:
                seen.append(f"{event} {path}")
        elif event in ("import", "subprocess.Popen", "os.system", "socket.connect"):
            seen.append(f"{event} {args[0]}")

    def timed_out(*_: object) -> None:
        raise OutOfTime

    signal.signal(signal.SIGPROF, timed_out)
    sys.addaudithook(audit)
    from safetensors.torch import load

    path, values = folder / whole.name, load(stored)
    for number in range(first - 1, first + count):
        data, beside = (ledger, stored) if number < first else made(number, ledger, stored)
        path.write_bytes(data)
        stored_path(path).write_bytes(beside)
        if number == first:  # all that is imported on the way is there by now
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, -1))
        for which, use in enumerate(uses(path, header, values, number)):
            watching[0] = number >= first
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            wrong = tried(use)
            signal.setitimer(signal.ITIMER_PROF, 0)
            watching[0] = False
            accepted += wrong is None
            for problem in (*seen, *([wrong] if wrong else [])):
                sys.stdout.write(f"case {number}, use {which}: {problem}\n")
            seen.clear()
        for left in folder.iterdir():
            if left not in (path, stored_path(path)):
                if left.name.startswith("out."):
                    left.unlink()
                else:
                    sys.stdout.write(f"case {number}: {left.name} was made\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(f"done {count}, {accepted} uses of them accepted, at most {peak} MiB resident\n")


if __name__ == "__main__":
    main()
