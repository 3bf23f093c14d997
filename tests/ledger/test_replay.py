"""The start and the records give the run's state to the bit, at every round, without data."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hiso_pl.federation import GeometricMedian, NormClipping, Quantize
from hiso_pl.ledger import (
    LedgerError,
    LedgerReader,
    LedgerWriter,
    catch_up,
    initial_tensors,
    replay,
    stored_path,
)
from hiso_pl.zeroth_order import (
    Adam,
    Diagonal,
    Greedy,
    Identity,
    Linear,
    Method,
    Momentum,
    Normalized,
    PerTensor,
    Scalar,
    Steps,
    Transform,
    UpdateRule,
    ZerothOrderOptimizer,
)
from hiso_pl.zeroth_order.digest import checksums, digest, tensor_sha256

METHODS = {
    "default": lambda: {},
    "identity": lambda: {"preconditioner": Identity()},
    "scalar": lambda: {"preconditioner": Scalar(nu=0.3), "local_steps": 3},
    "per tensor, all": lambda: {"preconditioner": PerTensor(eps=0.1, hessian_update="all"), "local_steps": 3},
    "diagonal, all": lambda: {"preconditioner": Diagonal(0.2, 0.0, 1e-3, "all"), "local_steps": 3},
    "rademacher, central": lambda: {"distribution": "rademacher", "difference": "central"},
    "momentum": lambda: {"update_rule": Momentum(0.5), "local_steps": 3},
    "momentum, scalar": lambda: {"update_rule": Momentum(), "preconditioner": Scalar()},
    "adam": lambda: {"update_rule": Adam(0.7, 0.9), "local_steps": 3, "local_lr": 0.01},
    "fzoo": lambda: {"update_rule": Normalized("spread"), "preconditioner": Identity()},
    "greedy": lambda: {"update_rule": Greedy(), "preconditioner": Identity(), "directions": "client"},
    "own directions": lambda: {"directions": "client", "local_steps": 3},
    "own directions, per tensor": lambda: {
        "directions": "client",
        "preconditioner": PerTensor(),
        "difference": "central",
    },
    "shared scale": lambda: {"transform": Quantize(3, scale="shared"), "local_steps": 2},
    "shared scale, own directions": lambda: {"transform": Quantize(3, scale="shared"), "directions": "client"},
    "robust": lambda: {"aggregation": GeometricMedian(f=0), "local_steps": 2},  # two of three slots are enough
    "robust, own directions": lambda: {"aggregation": NormClipping(f=0), "directions": "client"},
    "schedules": lambda: {
        "num_directions_schedule": Steps([4, 11], [5.0, 1.0]),
        "mu_schedule": Linear(final=1e-4, rounds=15),
        "local_steps": 3,
    },
}


def rebuilt(run, to=None, **options):
    reader = LedgerReader(run.path)
    return replay(reader.header, reader.entries(), initial_tensors(run.path, reader.header), to, **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_round_of_a_run_comes_back(run, method):
    made = run(**METHODS[method]())
    reader = LedgerReader(made.path)
    assert (reader.rounds, reader.survey().closing) == (20, (20, made.digests[-1]))
    assert any(r.empty for r in made.records)
    assert any(r.dropped and not r.empty for r in made.records)
    assert len({r.scalars.shape for r in made.records}) == (3 if method == "schedules" else 1)
    for there, record in zip(reader, made.records, strict=True):
        assert (there.round, there.lr, there.mu, there.dropped) == (
            record.round,
            record.lr,
            record.mu,
            record.dropped,
        )
        assert there.scalars.tobytes() == record.scalars.tobytes()
    # one replay, stopped and gone on with at every round
    optimizer = rebuilt(made, to=0)
    assert digest(optimizer) == made.digests[0]
    for n in range(1, 21):
        assert catch_up(optimizer, reader, to=n) == 1
        assert digest(optimizer) == made.digests[n]
    assert torch.equal(checksums(optimizer)[1], checksums(made.optimizer)[1])  # momentum too
    assert digest(rebuilt(made, to=13)) == made.digests[13]
    assert digest(rebuilt(made, backend="reference")) == made.digests[20]


def test_a_record_of_another_run_leads_elsewhere(run):
    made = run()
    records = list(LedgerReader(made.path))
    scalars = records[2].scalars.copy()
    scalars[0, 0] = np.nextafter(scalars[0, 0], np.float32(9))
    records[2] = replace(records[2], scalars=scalars)
    optimizer = replay(made.header, records, {name: t.clone() for name, t in made.initial.items()})
    assert digest(optimizer) != made.digests[-1]


def test_a_rank_that_joins_late_has_only_the_start(run):
    """It goes on in step: catching up and then running gives the run's own state."""
    made = run(closed=False, preconditioner=Scalar(), update_rule=Momentum())
    parameters = [(name, torch.nn.Parameter(t.clone())) for name, t in made.initial.items()]
    late = ZerothOrderOptimizer(parameters, seed=5, preconditioner=Scalar(), update_rule=Momentum())
    reader = LedgerReader(made.path)
    assert catch_up(late, reader, to=7) == 7
    assert digest(late) == made.digests[7]
    assert catch_up(late, reader) == 13
    assert digest(late) == made.digests[20]
    assert catch_up(late, reader) == 0
    following = replace(made.records[-1], round=20)
    late.apply(following)
    made.optimizer.apply(following)
    assert torch.equal(checksums(late)[1], checksums(made.optimizer)[1])
    with pytest.raises(LedgerError, match="holds 20 rounds, so it does not lead to round 21"):
        catch_up(late, reader)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 6}, "seed is 5 there and 6 here"),
        ({"preconditioner": Diagonal(nu=0.06)}, "preconditioner is .*0.05.* there and .*0.06"),
        ({"update_rule": Momentum()}, "update_rule"),
        ({"local_steps": 2}, "local_steps"),
        ({"distribution": "rademacher"}, "distribution"),
    ],
)
def test_catching_up_under_another_method_is_refused(run, options, named):
    made = run(rounds=3)
    parameters = [(name, torch.nn.Parameter(t.clone())) for name, t in made.initial.items()]
    late = ZerothOrderOptimizer(parameters, **{"seed": 5, **options})
    with pytest.raises(LedgerError, match=named):
        catch_up(late, LedgerReader(made.path))
    assert late.round == 0


def test_catching_up_from_another_start_is_refused(run):
    made = run(rounds=3)
    changed = {name: t.clone() for name, t in made.initial.items()}
    changed["2.bias"][0] += 1e-3
    late = ZerothOrderOptimizer([(n, torch.nn.Parameter(t)) for n, t in changed.items()], seed=5)
    with pytest.raises(LedgerError, match=r"'2.bias' does not have the values"):
        catch_up(late, LedgerReader(made.path))


def test_a_damaged_ledger_moves_nothing(run):
    made = run(rounds=4)
    data = bytearray(made.path.read_bytes())
    data[-60] ^= 1
    made.path.write_bytes(data)
    late = ZerothOrderOptimizer([(n, torch.nn.Parameter(t)) for n, t in made.initial.items()], seed=5)
    with pytest.raises(LedgerError, match="record 3"):
        catch_up(late, LedgerReader(made.path))
    assert late.round == 0


def test_a_method_changed_on_purpose_is_replayed_with_the_change(run):
    made = run(rounds=10, closed=False, preconditioner=Diagonal(nu=0.05))
    state = rebuilt(made, to=6)
    changed = ZerothOrderOptimizer(
        list(zip(state.names, state.parameters, strict=True)), seed=5, preconditioner=Diagonal(nu=0.4), local_steps=3
    )
    changed.load_state_dict(state.state_dict())
    header = replace(made.header, method=changed.method.as_data())
    with LedgerWriter.resume(made.path, header, 6, changed=True) as writer:
        for r in range(6, 9):
            record = replace(made.records[0], round=r, scalars=np.full((3, 2), 0.1 * r, np.float32))
            changed.apply(record)
            writer.append(record)
        writer.close(digest(changed))
    assert digest(rebuilt(made, to=6)) == made.digests[6]
    assert digest(rebuilt(made)) == digest(changed) == LedgerReader(made.path).survey().closing.digest
    # one who knows only the new options cannot come through the old ones
    late = ZerothOrderOptimizer(
        [(n, torch.nn.Parameter(t.clone())) for n, t in made.initial.items()],
        seed=5,
        preconditioner=Diagonal(nu=0.4),
        local_steps=3,
    )
    with pytest.raises(LedgerError, match=r"from round 0 on, .* local_steps is 1 there and 3 here"):
        catch_up(late, LedgerReader(made.path))


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"os.system": {}}, "not one of Block, Diagonal, Identity"),
        ({"hiso_pl.zeroth_order.Diagonal": {}}, "not one of"),
        ({"Diagonal": {"class_path": "os.mkdir"}}, "no option 'class_path'"),
        ({"Diagonal": {"nu": "0.1"}}, "must be a float"),
        ({"Diagonal": {"nu": True}}, "must be a float"),
        ({"Diagonal": {"nu": 7.0}}, r"nu=7.0 must be in \[0, 1\]"),
    ],
)
def test_only_known_parts_are_built(run, part, named):
    made = run(rounds=1)
    header = replace(made.header, method={**made.header.method, "preconditioner": part})
    with pytest.raises(ValueError, match=named):
        replay(header, [], made.initial)


def test_other_streams_or_numerics_are_refused(run):
    made = run(rounds=1)
    for name in ("stream", "numerics"):
        with pytest.raises(ValueError, match=f"{name}=2, this version computes {name}=1"):
            replay(replace(made.header, **{name: 2}), [], made.initial)


class Signed(UpdateRule):
    def move(self, x, direction, lr, state, target):
        x.sub_(direction.sign() * float(np.float32(lr)))


def test_a_part_from_outside_the_package_is_caught_up_by_its_own_code_only(run):
    made = run(rounds=8, update_rule=Signed())
    assert made.header.method["update_rule"] == {f"{Signed.__module__}.Signed": {}}
    with pytest.raises(ValueError, match="--method CONFIG"):
        rebuilt(made)
    parameters = [(name, torch.nn.Parameter(t.clone())) for name, t in made.initial.items()]
    late = ZerothOrderOptimizer(parameters, seed=5, update_rule=Signed())
    catch_up(late, LedgerReader(made.path))
    assert digest(late) == made.digests[8]


class Running(Transform):
    """From outside, with a state: sends what is above the running mean of all records."""

    withholds_losses = False

    def __call__(self, scalars, departure):
        return scalars - departure.state["mean"]

    def initial(self):
        return {"mean": np.zeros(1, np.float32)}

    def advance(self, state, record, averaged):
        state["mean"][0] = np.float32(0.5) * state["mean"][0] + np.float32(0.5) * record.scalars[0, 0]


class Halved(Transform):
    """From outside, without."""

    def __call__(self, scalars, departure):
        return scalars * np.float32(0.5)


def test_a_transform_from_outside_is_needed_only_where_it_has_a_state(run, tmp_path):
    """What it sent is in the records; what it remembers is not."""
    made = run(rounds=6, transform=Halved())
    assert digest(rebuilt(made)) == made.digests[6]
    made.path.unlink()
    made = run(rounds=8, transform=Running())
    with pytest.raises(ValueError, match=r"transform='.*Running' is not one of .* named by --method CONFIG$"):
        rebuilt(made)
    assert digest(rebuilt(made, method=made.optimizer.method)) == made.digests[8]
    with pytest.raises(ValueError, match=r"transform is \{'.*Running': \{\}\} there and None here"):
        rebuilt(made, method=Method())
    late = ZerothOrderOptimizer(
        [(name, torch.nn.Parameter(t.clone())) for name, t in made.initial.items()], seed=5, transform=Running()
    )
    catch_up(late, LedgerReader(made.path))
    assert digest(late) == made.digests[8]


def test_more_rounds_than_there_are(run):
    with pytest.raises(ValueError, match="to=21 must not exceed the 20 rounds"):
        rebuilt(run(), to=21)


# The tensors beside it


def test_stored_tensors_are_compared_with_the_header(run, tmp_path):
    made = run(rounds=1)
    path = stored_path(made.path)
    good, header = {k: v.clone() for k, v in load_file(path).items()}, made.header  # the file is written over below
    assert path.name == "rounds.ledger.safetensors"
    name = "0.weight"

    def refused(match):
        with pytest.raises(LedgerError, match=match) as caught:
            initial_tensors(made.path, header)
        assert "\n" not in str(caught.value)

    for tensors, match in (
        ({**good, "../../extra": torch.ones(1)}, "'../../extra' is in one of this file and rounds.ledger alone"),
        ({k: v for k, v in good.items() if k != name}, f"'{name}' is in one of"),
        ({**good, name: good[name].T.contiguous()}, f"'{name}' is F32 of shape"),
        ({**good, name: good[name].double()}, f"'{name}' is F64"),
        ({**good, name: good[name] + 1}, f"'{name}' has other values"),
        ({**good, name: good[name] * float("nan")}, f"'{name}' has other values"),
    ):
        save_file(tensors, path)
        refused(match)
    path.write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    refused("no safetensors file")
    torch.save(good, path)
    refused("no safetensors file")
    save_file(good, path)
    path.write_bytes(path.read_bytes()[:-3])
    refused("damaged")
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    refused("damaged")
    path.unlink()
    refused("is missing")
    assert not (tmp_path / "planted").exists()
    assert not list(tmp_path.parent.glob("extra"))


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_names_and_values_are_only_data(tmp_path, header_of, record_of):
    """Names that look like paths, and values that are not numbers, come back as they were."""
    from hiso_pl.ledger import header_of as make

    values = {
        "../../up": torch.tensor([float("nan"), -0.0]),
        "/etc/passwd": torch.zeros(0, 3),
        "a\x1b[2J": torch.ones(()),
    }
    header = make(
        list(values.items()),
        Method(),
        seed=1,
        clients=3,
        cohort=3,
        frozen_sha256="0" * 64,
        configuration={},
        versions={},
    )
    path = tmp_path / "inner" / "rounds.ledger"
    with LedgerWriter(path, header, values) as writer:
        writer.append(record_of(0))
    back = initial_tensors(path, LedgerReader(path).header)
    assert {n: tensor_sha256(t) for n, t in back.items()} == {n: tensor_sha256(t) for n, t in values.items()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inner"]
    assert json.loads(header.encode())["tensors"][0]["name"] == "../../up"
