"""Replay: from the initial weights and the records to the state after any round, without data or forward passes.

It makes a record into an update by :meth:`~hiso_pl.zeroth_order.ZerothOrderOptimizer.apply`, the very code of
training, so its bits are the run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hiso_pl.ledger.format import LedgerError
from hiso_pl.ledger.header import Header
from hiso_pl.ledger.methods import check_numbers, method_of, new_optimizer
from hiso_pl.ledger.reader import LedgerReader
from hiso_pl.ledger.stored import read_stored, tensor_sha256
from hiso_pl.ledger.weights import NamedWeights
from hiso_pl.zeroth_order import RoundRecord, ZerothOrderOptimizer
from hiso_pl.zeroth_order.kernels.base import Backend


def initial_tensors(ledger: Path | str, header: Header, weights: NamedWeights | None = None) -> dict[str, Tensor]:
    """The trainable tensors at the start of a run, in fp32, each compared with the header.

    Args:
        ledger: The ledger; tensors stored beside it are found by its path.
        header: Its header.
        weights: The named weights, where some tensors are theirs.

    Raises:
        ValueError: If a tensor is in neither, or has other values.
    """
    found = read_stored(Path(ledger), header)
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
        found[facts.name] = tensor
    return {facts.name: found[facts.name] for facts in header.tensors}


def replay(
    header: Header,
    records: Iterable[RoundRecord | Header],
    initial: Mapping[str, Tensor],
    to: int | None = None,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> ZerothOrderOptimizer:
    """Rebuilds a run's state.

    Args:
        header: The ledger's header.
        records: Its entries: :meth:`LedgerReader.entries`. Later headers among them change the method.
        initial: The tensors at the start, by name; fp32 ones on ``device`` become the result, they are not copied.
        to: How many rounds to apply; all of them if none is given.
        device: Where to compute.
        backend: Kernels. All give the same bits.

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
    optimizer = new_optimizer(header, parameters, backend)
    for entry in records:
        if optimizer.round == to:
            break
        if isinstance(entry, RoundRecord):
            optimizer.apply(entry)
        else:
            goes_on = new_optimizer(entry, parameters, backend)
            goes_on.load_state_dict(optimizer.state_dict())
            optimizer = goes_on
    if to is not None and optimizer.round != to:
        raise ValueError(f"to={to} must not exceed the {optimizer.round} rounds of the ledger")
    return optimizer


def catch_up(optimizer: ZerothOrderOptimizer, reader: LedgerReader, to: int | None = None) -> int:
    """Applies the records that an optimizer lacks, wherever it stands: at the start, or at a later round.

    It serves a rank or client that joins late or was away, and parts of the method from outside the package too, as
    the optimizer is the caller's own.

    Args:
        optimizer: The optimizer; at round 0 its tensors are compared with the ledger's start.
        reader: The ledger.
        to: The round to stop before; the ledger's end if none is given.

    Returns:
        How many records were applied.

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
    """Refuses an optimizer of other tensors; at round 0, of others than the ledger's run started from.

    Raises:
        LedgerError: If it is one.
    """
    pairs = list(zip(optimizer.names, optimizer.parameters, strict=True))
    if [(facts.name, facts.shape) for facts in header.tensors] != [(n, tuple(p.shape)) for n, p in pairs]:
        raise LedgerError("the ledger is of another model: names or shapes of its tensors differ")
    if optimizer.round == 0:
        for facts, parameter in zip(header.tensors, optimizer.parameters, strict=True):
            if tensor_sha256(parameter) != facts.sha256:
                raise LedgerError(f"tensor {facts.name!r} does not have the values that the ledger's run started from")


def _check_method(optimizer: ZerothOrderOptimizer, header: Header, round: int) -> None:
    """The parts that an update depends on must be those of the ledger."""
    check_numbers(header)
    mine, theirs = method_of(optimizer), header.method
    group = optimizer.param_groups[0]
    pairs: dict[str, tuple[object, object]] = {
        "seed": (header.seed, group["seed"]),
        **{
            name: (getattr(theirs, name), getattr(mine, name))
            for name in ("local_steps", "distribution", "preconditioner", "update_rule")
        },
    }
    for name, (there, here) in pairs.items():
        if there != here:
            raise LedgerError(f"{name} is {there} in the ledger from round {round} on, and {here} here")
