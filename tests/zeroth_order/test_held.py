"""Two processes that hold a state together, each told what the other found: digest, sums and saved states."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import Diagonal, PerTensor, RoundRecord, Scalar
from hiso_pl.zeroth_order.applied import AppliedRecords
from hiso_pl.zeroth_order.digest import checksums, digest
from hiso_pl.zeroth_order.held import of_all, rows_of_all
from hiso_pl.zeroth_order.method import Method
from hiso_pl.zeroth_order.points import absent, converted, is_absent
from hiso_pl.zeroth_order.update_rule import Momentum, Normalized

SHAPES = [(3, 4), (5,), (2, 2, 2), (1, 7)]
PARTS = [frozenset({0, 1}), frozenset({1, 2, 3})]


class Half:
    """One of two processes, here threads."""

    def __init__(self, own, table, barrier):
        self.own, self._table, self._barrier = own, table, barrier

    def merged(self, found):
        self._table[self.own] = dict(found)
        self._barrier.wait(30)
        merged = {}
        for part in PARTS:
            merged |= self._table[part]
        self._barrier.wait(30)
        return merged


def start(held=None):
    generator = torch.Generator().manual_seed(3)
    named = []
    for t, shape in enumerate(SHAPES):
        values = torch.randn(shape, generator=generator)
        parameter = torch.nn.Parameter(values)
        if held is not None and t not in held.own:
            parameter.data = absent(parameter, torch.float32)
        named.append((f"tensor{t}", parameter))
    return named


def records():
    generator = np.random.default_rng(5)
    return [RoundRecord(r, 0.1, 1e-3, generator.standard_normal((1, 3)).astype(np.float32), 2) for r in range(3)]


def followed(method, held=None):
    state = AppliedRecords(start(held), method, 7, held=held)
    for record in records():
        state.apply(record)
    return state, digest(state), checksums(state)


def in_two(work):
    """What each of two processes finds."""
    table, barrier = {}, threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, [Half(part, table, barrier) for part in PARTS]))


@pytest.mark.parametrize("preconditioner", [Diagonal(), Diagonal(normalize="trace"), Scalar(), PerTensor()], ids=repr)
@pytest.mark.parametrize("rule", [None, Momentum(), Normalized()], ids=repr)
def test_two_halves_are_the_whole(preconditioner, rule):
    options = {"preconditioner": preconditioner} | ({} if rule is None else {"update_rule": rule})
    whole, expected, (names, sums) = followed(Method(**options))
    for state, found, (these, those) in in_two(lambda held: followed(Method(**options), held)):
        assert found == expected
        assert these == names
        assert torch.equal(those, sums)
        for t in state.held.own:
            assert torch.equal(state.parameters[t], whole.parameters[t])
        assert all(is_absent(state.parameters[t]) for t in range(len(SHAPES)) if t not in state.held.own)


@pytest.mark.parametrize("rule", [Momentum(), Normalized()], ids=repr)
def test_a_half_takes_its_part_of_a_saved_state(rule):
    method = Method(preconditioner=Scalar(), update_rule=rule)
    whole, expected, _ = followed(method)
    saved = whole.state_dict()

    def resumed(held):
        state = AppliedRecords(start(held), method, 7, held=held)
        for t in held.own:
            state.parameters[t].data.copy_(whole.parameters[t])
        state.load_state_dict(saved)
        return digest(state)

    assert in_two(resumed) == [expected, expected]


def test_rows_and_order_are_those_of_all_tensors():
    def found(held):
        rows = np.full((4, 2), np.nan)
        rows[sorted(held.own)] = np.array(sorted(held.own))[:, None]
        names = [f"tensor{t}" for t in range(4)]
        keys = {(names[t], kind): t for t in held.own for kind in ("momentum", "x", "hessian", "b")}
        return rows_of_all(held, rows).tolist(), list(of_all(held, names, keys))

    for rows, keys in in_two(found):
        assert rows == [[t, t] for t in range(4)]
        kinds = [kind for _, kind in keys]
        assert kinds == ["x"] * 4 + ["hessian"] * 4 + ["b", "momentum"] * 4
        assert [name for name, kind in keys if kind == "b"] == [f"tensor{t}" for t in range(4)]


def test_what_is_absent_stays_so_in_another_type():
    gone = absent(torch.ones(1, 9), torch.float32)
    for values in (gone, torch.ones(3, 1).expand(3, 4)[:, :1].expand(3, 4)):
        assert converted(values, torch.bfloat16).shape == values.shape
    assert is_absent(converted(gone, torch.bfloat16))
    assert converted(gone, torch.bfloat16).untyped_storage().nbytes() == 2
    assert not is_absent(torch.ones(1))
    assert not is_absent(torch.ones(2, 2))
