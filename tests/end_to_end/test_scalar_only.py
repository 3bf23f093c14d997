"""What a round sends is a few scalars, whatever the size of the model."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COHORT, DIRECTIONS, ROUNDS, CLIENTS = 4, 3, 12, 8
# a slot's scalars and its loss, fp32, and one ballot
PAYLOAD = 4 * (COHORT * (DIRECTIONS + 1) + 1)


def test_a_round_is_one_all_reduce_of_the_same_bytes_for_a_model_ten_times_larger(matrix):
    runs = matrix(2)
    assert runs["large"].summary["parameters"] > 10 * runs["small"].summary["parameters"]
    for name in ("small", "large"):
        for rank in range(2):
            rounds = json.loads((runs[name].root.parent / f"{name}-seen.{rank}").read_text())
            assert len(rounds) == ROUNDS
            for number, seen in enumerate(rounds, start=1):
                collectives = [(function.partition(".")[0], size) for function, size in seen]
                assert collectives[0] == ("allreduce_", PAYLOAD)
                if number % 5 and number != ROUNDS:
                    assert len(collectives) == 1
                else:  # a validation: counts and losses of its 180 examples, nothing of the model
                    assert all(size in (4 * 180 * 8, 8 * 6 * 2) or size <= 64 for _, size in collectives[1:])


def test_bytes_are_counted_as_documented(matrix):
    for ranks in (1, 2):
        comm = matrix(ranks)["small"].summary["comm"]
        assert comm["paper_kb"] == ROUNDS * 2 * DIRECTIONS * 4 / 1024
        assert comm["protocol_kb"] == ROUNDS * (DIRECTIONS * 4 * COHORT / CLIENTS + DIRECTIONS * 4) / 1024
        assert comm["measured_kb"] == (ROUNDS * PAYLOAD / 1024 if ranks > 1 else 0.0)
    assert matrix(2)["large"].summary["comm"] == matrix(2)["small"].summary["comm"]
