"""Replay: from the initial weights and the records to the state after any round, without data or forward passes.

It makes a record into an update by :meth:`~hiso_pl.zeroth_order.ZerothOrderOptimizer.apply`, the very code of
training, so its bits are the run's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hiso_pl import bounds
from hiso_pl.ledger.format import LedgerError
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.stored import read_stored
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.zeroth_order import Method, RoundRecord, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import parameters_sha256
from hiso_pl.zeroth_order.kernels.base import NUMERICS, Backend
from hiso_pl.zeroth_order.philox import STREAM
from hiso_pl.zeroth_order.staged import Cuts


def initial_tensors(
    ledger: Path | str,
    header: Header,
    weights: NamedWeights | None = None,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The trainable tensors at the start of a run, in fp32, each compared with the header.

    Those stored beside the ledger are found by its path, the others among the named weights. ``keep`` puts each where
    it is to live as soon as it is found.

    Raises:
        ValueError: If a tensor is in neither, or has other values.
    """
    keep = keep or (lambda tensor: tensor)
    found = {name: keep(tensor) for name, tensor in read_stored(Path(ledger), header).items()}
    named = sum(math.prod(facts.shape) for facts in header.tensors if not facts.stored)
    if weights is not None and named > bounds.WEIGHTS_REUSED * weights.elements:
        raise ValueError(
            f"{ledger} takes {named} elements from weights={weights.source!r}, which has {weights.elements}: it may "
            f"take {bounds.WEIGHTS_REUSED} times as many"
        )
    for facts in header.tensors:
        if facts.stored:
            continue
        if weights is None:
            raise ValueError(f"weights must be given: tensor {facts.name!r} is not stored with the ledger")
        tensor = weights.find(facts.name, facts.shape, facts.sha256)
        if tensor is None:
            raise ValueError(
                f"weights={weights.source!r} are not those the run started from: "
                f"no tensor there has the values of {facts.name!r}"
            )
        found[facts.name] = keep(tensor)
    return {facts.name: found[facts.name] for facts in header.tensors}


def replay(
    header: Header,
    records: Iterable[RoundRecord | Header],
    initial: Mapping[str, Tensor],
    to: int | None = None,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
    method: Method | None = None,
    keep: Callable[[Tensor], Tensor] | None = None,
    stages: Cuts | None = None,
) -> ZerothOrderOptimizer:
    """Rebuilds a run's state from its ledger's header and entries, of which later headers change the method.

    Of the initial tensors, by name, fp32 ones on ``device`` become the result, they are not copied. All rounds are
    applied, or the first ``to``; all backends give the same bits. ``method`` is the run's own where it has parts from
    outside the package: they are never built because a file names them. ``keep`` puts H where it is to live.

    Returns:
        An optimizer that owns the tensors, H and the round.

    Raises:
        ValueError: If a tensor is missing or of another shape, the method is not known, or there are too few records.
    """
    parameters: list[tuple[str, nn.Parameter]] = []
    for facts in header.tensors:
        tensor = initial.get(facts.name)
        if tensor is None or tuple(tensor.shape) != facts.shape:
            raise ValueError(f"initial: tensor {facts.name!r} must be of shape {list(facts.shape)}")
        parameters.append((facts.name, nn.Parameter(tensor.to(device, torch.float32), requires_grad=False)))
    optimizer = _applying(header, parameters, backend, method, keep, stages)
    for entry in records:
        if optimizer.round == to:
            break
        if isinstance(entry, RoundRecord):
            optimizer.apply(entry)
        else:
            goes_on = _applying(entry, parameters, backend, method, keep, stages)
            goes_on.load_state_dict(optimizer.state_dict())
            optimizer = goes_on
    if to is not None and optimizer.round != to:
        raise ValueError(f"to={to} must not exceed the {optimizer.round} rounds of the ledger")
    return optimizer


def _applying(
    header: Header,
    parameters: list[tuple[str, nn.Parameter]],
    backend: Backend,
    method: Method | None,
    keep: Callable[[Tensor], Tensor] | None,
    stages: Cuts | None,
) -> ZerothOrderOptimizer:
    """An optimizer at round 0 that computes a header's method; learning rate, mu and P come with the records."""
    _check_numbers(header)
    method = Method.applying(header.method, method)
    return ZerothOrderOptimizer(
        parameters, method, seed=header.seed, keep=keep, stages=stages, memory="low", backend=backend
    )


def catch_up(optimizer: ZerothOrderOptimizer, reader: LedgerReader, to: int | None = None) -> int:
    """Applies the records that an optimizer lacks, wherever it stands: at the start, or at a later round.

    It serves a rank or client that joins late or was away, and parts of the method from outside the package too, as
    the optimizer is the caller's own. At round 0 its tensors are compared with the ledger's start. It stops before the
    round ``to``, or at the ledger's end, and returns how many records were applied.

    Raises:
        LedgerError: If the ledger is damaged, ends too early, or is of another model or method.
    """
    header, started = reader.header, optimizer.round
    wanted = max(started, 0 if to is None else to)
    if reader.rounds < wanted:  # the ledger's damage, too, is found before the state is touched
        raise LedgerError(f"{reader.path} holds {reader.rounds} rounds, so it does not lead to round {wanted}")
    check_start(optimizer, header)
    checked = False
    for entry in reader.entries():
        if optimizer.round == to:
            break
        if isinstance(entry, Header):
            header, checked = entry, False
        elif entry.round >= started:
            if not checked:
                _check_method(optimizer, header, entry.round)
                checked = True
            optimizer.apply(entry)
    return optimizer.round - started


def check_start(optimizer: ZerothOrderOptimizer, header: Header) -> None:
    """Refuses, by a LedgerError, an optimizer of other tensors; at round 0, of others than the run started from."""
    pairs = list(zip(optimizer.names, optimizer.parameters, strict=True))
    if [(facts.name, facts.shape) for facts in header.tensors] != [(n, tuple(p.shape)) for n, p in pairs]:
        raise LedgerError("the ledger is of another model: names or shapes of its tensors differ")
    if optimizer.round == 0:
        for facts, sha256 in zip(header.tensors, parameters_sha256(optimizer), strict=True):
            if sha256 != facts.sha256:
                raise LedgerError(f"tensor {facts.name!r} does not have the values that the ledger's run started from")


def _check_numbers(header: Header) -> None:
    """Refuses a ledger whose numbers this version would compute otherwise."""
    for name, number, mine in (("stream", header.stream, STREAM), ("numerics", header.numerics, NUMERICS)):
        if number != mine:
            raise ValueError(f"the ledger has {name}={number}, this version computes {name}={mine}")


def _check_method(optimizer: ZerothOrderOptimizer, header: Header, round: int) -> None:
    """What an update depends on must be as in the ledger."""
    _check_numbers(header)
    seed = optimizer.param_groups[0]["seed"]
    what = f"seed is {header.seed} there and {seed} here" if seed != header.seed else None
    what = what or optimizer.method.differing(header.method)
    if what is not None:
        raise LedgerError(f"from round {round} on, the ledger is of another method: {what}")
