"""What a digest is of, in which order, and that no bit of it escapes."""

import hashlib

import numpy as np
import pytest
import torch

from hiso_pl.zeroth_order import Identity, Momentum, RoundRecord, Scalar, UpdateRule
from hiso_pl.zeroth_order.digest import checksums, digest, digest_of_tensors, tensors_sha256

X = ["one x", "none x", "two x"]


class TwoStates(UpdateRule):
    """Keeps two tensors, made against the order of their names."""

    def initial(self, parameter, target):
        return {name: torch.full_like(parameter, n, requires_grad=False) for n, name in enumerate(("second", "first"))}

    def move(self, x, direction, lr, state, target):
        x.sub_(direction * lr)
        state["first"].add_(direction)


@pytest.fixture
def moved(optimizer_of, fixed):
    """An optimizer after a round."""

    def moved(**options):
        values = {"one": fixed((9, 7), 0), "none": fixed((0, 3), 1), "two": fixed((), 2)}
        optimizer = optimizer_of(values.items(), seed=5, **options)
        optimizer.apply(RoundRecord(0, 0.1, 1e-3, np.array([[0.5, -2.0]], np.float32), cohort=1))
        return optimizer

    return moved


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"preconditioner": Identity()}, []),
        ({}, ["one hessian", "none hessian", "two hessian"]),
        (
            {"preconditioner": Scalar(), "update_rule": Momentum()},
            ["one hessian", "one momentum", "none momentum", "two momentum"],
        ),
        (
            {"preconditioner": Identity(), "update_rule": TwoStates()},
            ["one first", "one second", "none first", "none second", "two first", "two second"],
        ),
    ],
)
def test_a_digest_is_of_x_then_of_h_then_of_what_parts_keep(moved, options, kept):
    optimizer = moved(**options)
    tensors = optimizer.tensors()
    assert [f"{t.name} {t.kind}" for t in tensors] == X + kept
    assert [t.value.data_ptr() for t in tensors[:3]] == [p.data_ptr() for p in optimizer.parameters]
    hashes = [hashlib.sha256(t.value.detach().numpy().astype("<f4").tobytes()).digest() for t in tensors]
    assert digest(optimizer) == hashlib.sha256(b"".join(hashes)).hexdigest()
    assert checksums(optimizer)[0] == [name.removesuffix(" x") for name in X] + [
        f"{name} ({kind})" for name, kind in map(str.split, kept)
    ]


def test_threads_keep_the_order_and_layouts_do_not_count():
    tensors = [torch.arange(float(n)).reshape(-1, 2) for n in range(0, 600_000, 20_000)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = tensors_sha256(tensors)
        torch.set_num_threads(4)
        assert tensors_sha256(tensors) == alone == tensors_sha256(t.t().contiguous().t() for t in tensors)
    finally:
        torch.set_num_threads(before)
    assert len(set(alone)) == len(tensors)
    assert digest_of_tensors(tensors[::-1]) != digest_of_tensors(tensors)
    # where one tensor ends and the next begins counts
    assert digest_of_tensors([torch.ones(3), torch.ones(1)]) != digest_of_tensors([torch.ones(4)])


def test_digest_and_checksums_see_every_bit(moved):
    optimizer = moved(update_rule=Momentum())
    whole, (names, before) = digest(optimizer), checksums(optimizer)
    for at, (name, kind, tensor) in enumerate(optimizer.tensors()):
        bits = tensor.detach().view(torch.int32).view(-1)
        for bit in (0, 17, 31) if tensor.numel() else ():
            flip = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int64).to(torch.int32)
            bits[-1] ^= flip
            changed = (checksums(optimizer)[1] != before).nonzero().flatten().tolist()
            assert changed == [at], (names[at], name, kind)
            assert digest(optimizer) != whole
            bits[-1] ^= flip
    assert torch.equal(checksums(optimizer)[1], before)
    assert digest(optimizer) == whole
