"""What a run goes on from, made of its ledger."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hiso_pl.federation import Quantize
from hiso_pl.ledger import LedgerError, LedgerReader, LedgerWriter
from hiso_pl.ledger.resumable import checkpoint_of, go_on, with_state, without_state
from hiso_pl.run import checkpoint
from hiso_pl.zeroth_order import Diagonal, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest


def optimizer_at_start(made, **options):
    parameters = [(name, torch.nn.Parameter(tensor.clone())) for name, tensor in made.initial.items()]
    return ZerothOrderOptimizer(parameters, **{"lr": 0.02, "seed": 5, "num_directions": 2, **options})


def restored(made, content, **options):
    optimizer = optimizer_at_start(made, **options)
    with torch.no_grad():
        for name, p in zip(optimizer.names, optimizer.parameters, strict=True):
            p.copy_(content["state_dict"][f"network.{name}"])
    optimizer.load_state_dict(content["optimizer_states"][0])
    return optimizer


def base_of(made, rounds, **options):
    """A checkpoint as the run would have written it after some rounds."""
    optimizer = optimizer_at_start(made, **options)
    for record in made.records[:rounds]:
        optimizer.apply(record)
    content = checkpoint_of(LedgerReader(made.path), optimizer)
    content["callbacks"] = {"summary": {"seconds": 3.0}}
    content[checkpoint.KEY] |= {"rebuilt": False, "measured_bytes": 77, "last_validation": {"val/loss": 1.5}}
    return content


def test_from_the_start_and_from_a_checkpoint(run):
    made = run()
    for base in (None, base_of(made, 8)):
        optimizer = optimizer_at_start(made)
        content = go_on(LedgerReader(made.path), optimizer, base)
        assert content["global_step"] == 20
        assert digest(restored(made, content)) == made.digests[20]
        facts = content[checkpoint.KEY]
        assert facts["rebuilt"] is True
        assert facts["traffic"]["rounds"] == 20
        assert facts["measured_bytes"] == (0 if base is None else 77)
        assert facts["last_validation"] == ({} if base is None else {"val/loss": 1.5})
        assert content["callbacks"] == ({} if base is None else {"summary": {"seconds": 3.0}})


@pytest.mark.parametrize("begun", [False, True])
def test_the_state_of_a_transform_comes_from_the_records(run, begun):
    options = {"transform": Quantize(3, scale="shared")}
    made = run(**options)
    base = base_of(made, 8, **options) if begun else None
    content = go_on(LedgerReader(made.path), optimizer_at_start(made, **options), base)
    assert digest(restored(made, content, **options)) == made.digests[20]
    # three slots of three clients: 3 bits a scalar up, 3 + 2 down, for two scalars
    assert content[checkpoint.KEY]["traffic"]["paper_bytes"] == pytest.approx(20 * (2 * 3 + 2 * 5) / 8)


def test_a_checkpoint_at_the_end_of_the_ledger_is_taken_as_it_is(run):
    made = run()
    base = base_of(made, 20)
    assert go_on(LedgerReader(made.path), optimizer_at_start(made), base) == base


def test_the_state_can_be_left_out_and_put_back(run):
    made = run(rounds=9)
    content = go_on(LedgerReader(made.path), optimizer_at_start(made))
    sent = without_state(content)
    assert not any(isinstance(leaf, torch.Tensor) for leaf in torch.utils._pytree.tree_leaves(sent))
    sent["epoch"] = 4
    whole = with_state(sent, go_on(LedgerReader(made.path), optimizer_at_start(made)))
    assert whole["epoch"] == 4
    assert digest(restored(made, whole)) == made.digests[9]


def test_options_that_were_changed_on_the_way(run):
    made = run(rounds=6, closed=False)
    changed = optimizer_at_start(made, preconditioner=Diagonal(nu=0.4))
    changed.load_state_dict(made.optimizer.state_dict())
    with torch.no_grad():
        for p, q in zip(changed.parameters, made.optimizer.parameters, strict=True):
            p.copy_(q)
    header = replace(made.header, method=changed.method.as_data())
    base = base_of(made, 4)
    with LedgerWriter.resume(made.path, header, 6, changed=True) as writer:
        for r in range(6, 9):
            record = replace(made.records[0], round=r, scalars=np.full((1, 2), 0.1 * r, np.float32))
            changed.apply(record)
            writer.append(record)
    for start in (None, base):
        optimizer = optimizer_at_start(made, preconditioner=Diagonal(nu=0.4))
        content = go_on(LedgerReader(made.path), optimizer, start)
        assert digest(restored(made, content, preconditioner=Diagonal(nu=0.4))) == digest(changed)


def test_other_weights_and_another_model_are_refused(run):
    made = run(rounds=3)
    other = optimizer_at_start(made)
    with torch.no_grad():
        other.parameters[1][0] += 1e-7
    with pytest.raises(LedgerError, match="does not have the values that the ledger's run started from"):
        go_on(LedgerReader(made.path), other)
    with pytest.raises(LedgerError, match="of another model"):
        go_on(LedgerReader(made.path), ZerothOrderOptimizer([("a", torch.nn.Parameter(torch.ones(3)))], seed=5))
    with pytest.raises(LedgerError, match="preconditioner is"):
        go_on(LedgerReader(made.path), optimizer_at_start(made, preconditioner=Diagonal(nu=0.4)))


@pytest.mark.parametrize("round", [0, 4, 20])
def test_records_are_cut_off_and_the_ledger_goes_on(run, round):
    made = run()
    whole = made.path.read_bytes()
    LedgerWriter.resume(made.path, made.header, round).cut_back(round)
    assert LedgerReader(made.path).rounds == round
    assert LedgerReader(made.path).survey().closing is None
    with LedgerWriter.resume(made.path, made.header, round) as writer:
        for record in made.records[round:]:
            writer.append(record)
        writer.close(made.digests[20])
    assert made.path.read_bytes() == whole
