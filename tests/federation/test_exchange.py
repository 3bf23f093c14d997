"""The exchange: exact, the same for every number of ranks, and it carries the ballot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hiso_pl.federation
from hiso_pl.federation import AllReduceExchange, own_slots
from hiso_pl.zeroth_order.interfaces import LocalExchange, Slots

ROWS = torch.tensor(
    [[-0.0, 1.5, 1e-45], [float("inf"), -2.25, 0.1], [float("nan"), 3.0, -1e30], [0.0, -0.0, 7.0], [1e-38, 2.0, 3.0]]
)

# One rank of a real process group: it plays three rounds and writes down what came out.
RANK = """
import sys
import torch
import torch.distributed as dist
from hiso_pl.federation import AllReduceExchange, own_slots
from hiso_pl.zeroth_order.interfaces import Slots

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
rows = torch.load(f"{folder}/rows.pt")
exchange = AllReduceExchange()
results, agreed = [], []
for round in range(3):
    own = own_slots("dealt", range(5), round, rank, world)
    exchange.stop_requested = rank == 1 and round == 2
    results.append(exchange(rows[list(own)], Slots(5, own, tuple(range(5)), (1.0,) * 5)))
    agreed.append(exchange.stop_agreed)
alone = exchange(rows[:0] if rank else rows, Slots(5, () if rank else tuple(range(5)), tuple(range(5)), (1.0,) * 5))
plain = exchange.slots(2)
torch.save(
    {"results": [*results, alone], "agreed": agreed, "bytes": exchange.payload_bytes, "rounds": exchange.rounds,
     "plain": tuple(plain)},
    f"{folder}/out{rank}.pt",
)
dist.destroy_process_group()
"""


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().view(torch.int32).flatten().tolist()


def everything(rows: torch.Tensor = ROWS) -> Slots:
    count = len(rows)
    return Slots(count, tuple(range(count)), tuple(range(count)), (1.0,) * count)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("exchange")
    torch.save(ROWS, folder / "rows.pt")
    root = str(Path(hiso_pl.federation.__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), "2", str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in ranks:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return [torch.load(folder / f"out{rank}.pt") for rank in range(2)]


def test_two_ranks_give_the_bits_of_one(two_ranks: list[dict]) -> None:
    alone = bits(AllReduceExchange()(ROWS, everything()))
    assert alone == bits(LocalExchange()(ROWS, everything()))
    for rank in two_ranks:
        assert len(rank["results"]) == 4  # one of them with a rank that has no slot
        assert all(bits(result) == alone for result in rank["results"])


def test_a_stop_asked_for_on_one_rank_is_agreed_in_the_same_round(two_ranks: list[dict]) -> None:
    assert [rank["agreed"] for rank in two_ranks] == [[False, False, True]] * 2


def test_what_is_handed_over_is_counted(two_ranks: list[dict]) -> None:
    for rank in two_ranks:
        assert rank["rounds"] == 4
        assert rank["bytes"] == 4 * (5 * 3 * 4 + 4)


def test_slots_nobody_sampled_are_rank_major(two_ranks: list[dict]) -> None:
    assert [rank["plain"][:2] for rank in two_ranks] == [(4, (0, 1)), (4, (2, 3))]
    assert two_ranks[0]["plain"][2] == (0, 1, 2, 3)


def test_alone_nothing_is_handed_over() -> None:
    exchange = AllReduceExchange()
    result = exchange(ROWS[[2, 0, 1]], Slots(3, (2, 0, 1), (4, 5, 6), (1.0,) * 3))
    assert bits(result) == bits(ROWS[:3] + 0.0)
    assert (exchange.rounds, exchange.payload_bytes) == (1, 0)
    assert exchange.slots(3) == LocalExchange().slots(3)


def test_a_zero_has_no_sign() -> None:
    result = AllReduceExchange()(torch.tensor([[-0.0]]), Slots(1, (0,), (0,), (1.0,)))
    assert bits(result) == [0]


def test_a_stop_alone_is_agreed_at_the_next_exchange() -> None:
    exchange = AllReduceExchange()
    exchange.stop_requested = True
    assert not exchange.stop_agreed
    exchange(ROWS, everything())
    assert exchange.stop_agreed


def test_dealt_slots_fit_the_exchange() -> None:
    own = own_slots("dealt", (3, 5, 9), 1, 0, 1)
    assert AllReduceExchange()(ROWS[:3], Slots(3, own, (3, 5, 9), (1.0,) * 3)).shape == (3, 3)


@pytest.mark.parametrize(
    ("rows", "own", "message"),
    [
        (ROWS[:2], (0, 0), r"^slots\.own=\(0, 0\) must be distinct and in \[0, 5\)$"),
        (ROWS[:2], (0, 5), r"^slots\.own=\(0, 5\) must be distinct"),
        (ROWS[:3], (0, 1), r"^rows=torch\.float32 of shape \[3, 3\] must be torch\.float32 of shape \[2, width\]$"),
        (ROWS[:2].double(), (0, 1), r"^rows=torch\.float64 of shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows: torch.Tensor, own: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AllReduceExchange()(rows, Slots(5, own, tuple(range(5)), (1.0,) * 5))


def test_no_losses_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^local=0 losses must be at least 1$"):
        AllReduceExchange().slots(0)
