"""A checkpoint is taken whole or not at all: its form, the digest of its state and its values are checked when read."""

from __future__ import annotations

import contextlib
import copy
import re
import zipfile

import numpy as np
import pytest
import torch

from hiso_pl.run import checkpoint
from hiso_pl.run.checkpoint_state import state_digest
from hiso_pl.zeroth_order import Diagonal, Momentum, ZerothOrderOptimizer
from hiso_pl.zeroth_order.digest import digest

NAMES = ["weight", "bias"]


def build(rounds: int = 2) -> ZerothOrderOptimizer:
    parameters = [("weight", torch.nn.Parameter(torch.linspace(-1, 1, 600).reshape(20, 30)))]
    parameters += [("bias", torch.nn.Parameter(torch.zeros(30)))]
    optimizer = ZerothOrderOptimizer(
        parameters, lr=0.01, num_directions=2, preconditioner=Diagonal(), update_rule=Momentum()
    )
    for _ in range(rounds):
        optimizer.step(lambda: (parameters[0][1].sum(0) + parameters[1][1]).square().mean())
    return optimizer


@pytest.fixture(scope="module")
def content(checkpoint_of):
    return checkpoint_of(build())


@pytest.fixture
def path(content, tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    return path


def refusal(path):
    try:
        return "", checkpoint.read(path)
    except ValueError as error:
        return str(error), None


def with_digest(content):
    """As it would be, had it been written so."""
    content[checkpoint.KEY]["digest"] = state_digest(content, list(content[checkpoint.KEY]["trainable"]))
    return content


def test_it_carries_the_digest_of_the_optimizers_state(content, path):
    assert checkpoint.read(path)[checkpoint.KEY]["digest"] == digest(build())


@pytest.mark.parametrize("where", ["weight", "bias", "hessian", "momentum", "everywhere"])
def test_a_changed_bit_is_noticed(content, path, where):
    whole = path.read_bytes()
    if where == "everywhere":
        places = np.linspace(0, 8 * len(whole) - 1, 400).astype(int)
    else:
        state = content["optimizer_states"][0]["state"]
        tensor = state[0][where] if where in state[0] else content["state_dict"][f"network.{where}"]
        begin = whole.index(tensor.numpy().tobytes())
        places = 8 * begin + np.array([0, 1, 9, 31, 8 * 4 * tensor.numel() - 1])
    unchanged = 0
    for place in map(int, places):
        damaged = bytearray(whole)
        damaged[place >> 3] ^= 1 << (place & 7)
        path.write_bytes(damaged)
        said, found = refusal(path)
        if found is None:
            assert re.match(rf"ckpt_path={path}(:| is truncated).*$", said), said
        else:  # padding between members, or a date
            unchanged += 1
            assert found[checkpoint.KEY] == content[checkpoint.KEY]
            assert state_digest(found, NAMES) == state_digest(content, NAMES)
            assert found["optimizer_states"][0]["param_groups"] == content["optimizer_states"][0]["param_groups"]
    assert unchanged == 0 if where != "everywhere" else unchanged < len(places) / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict"]["network.bias"][3:4].fill_(float("nan")), "bias holds values that are not finite"),
        (
            lambda c: c["optimizer_states"][0]["state"][1]["hessian"][0:1].fill_(float("inf")),
            r"bias \(hessian\) holds values that are not finite",
        ),
        (lambda c: c["state_dict"].update({"network.bias": torch.zeros(30).half()}), "'bias' is torch.float16"),
        (lambda c: c["state_dict"].update({"network.bias": torch.zeros(31)}), r"'bias' .* shape \[31\], must be"),
        (
            lambda c: c["state_dict"].update({"network.frozen": torch.zeros(3)}),
            "'network.frozen', which is not trained",
        ),
        (lambda c: c["state_dict"].pop("network.bias"), "lacks the tensor 'bias'"),
        (lambda c: c["optimizer_states"][0].update(param_groups=[]), r"param_groups must be a list of mappings"),
        (lambda c: c["optimizer_states"][0].pop("state"), r"state must be a mapping"),
        (lambda c: c["optimizer_states"][0]["state"].update({7: {}}), "must be of tensors 0 to 1"),
        (lambda c: c.update(optimizer_states=[1, 2]), "must be a list of one mapping"),
        (lambda c: c.update(callbacks=[1]), "callbacks must be a mapping"),
        (lambda c: c.update(lr_schedulers={}), "lr_schedulers must be a list"),
        (lambda c: c.update(global_step=-1), "global_step=-1"),
        (lambda c: c.update(global_step=1 << 40), "global_step=1099511627776"),
        (lambda c: c.update(global_step="3"), "holds no round"),
        (lambda c: c.update(extra=1 << 70), "more than 64 bits"),
        (lambda c: c.update(extra=torch.zeros(1).expand(1 << 40)), "extra .* more elements than the file holds"),
        (lambda c: c.update(extra=torch.nn.Parameter(torch.zeros(1))), "extra is no plain tensor"),
        (lambda c: c.update(extra=torch.zeros(2, 2).to_sparse()), "extra is no plain tensor"),
        (lambda c: c.update(extra=nested(20)), "nested deeper than 16 levels"),
        (lambda c: c.update(extra=laughing(15, 30)), "holds more than"),
        (lambda c: c[checkpoint.KEY].update(format=99), "format 99"),
        (lambda c: c[checkpoint.KEY].update(trainable={"weight": 3}), "trainable.weight must be list"),
        (lambda c: c[checkpoint.KEY].update(config={"a": 1}), "config.a must be str"),
        (lambda c: c[checkpoint.KEY].pop("config"), "config must be a mapping"),
        (lambda c: c[checkpoint.KEY].update(digest=None), "digest must be a SHA-256"),
        (lambda c: c[checkpoint.KEY].update(frozen="x"), "frozen must be a SHA-256"),
        (lambda c: c[checkpoint.KEY].update(traffic={"rounds": -1}), "traffic.rounds must be"),
        (lambda c: c[checkpoint.KEY].update(measured_bytes=True), "measured_bytes must be an integer"),
        (lambda c: c[checkpoint.KEY].pop("rebuilt"), "rebuilt must be true or false"),
        (lambda c: c.pop(checkpoint.KEY), "not a checkpoint of hiso_pl"),
    ],
)
def test_what_cannot_be_is_refused_by_name_whatever_the_digest_says(content, path, change, message):
    content = copy.deepcopy(content)
    change(content)
    if isinstance(content.get(checkpoint.KEY, {}).get("digest"), str):
        with contextlib.suppress(Exception):  # of something without a state
            with_digest(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def nested(depth):
    return [nested(depth - 1)] if depth else 0


def laughing(depth, width):
    """A few hundred bytes that are as many values as one likes, as they refer to one another."""
    value: object = 0
    for _ in range(depth):
        value = [value] * width
    return value


def test_an_archive_that_grows_is_refused(content, path, tmp_path):
    small = tmp_path / "small.ckpt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    with pytest.raises(ValueError, match="its parts are compressed"):
        checkpoint.read(small)
    torch.save(content, small, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="is truncated or no checkpoint"):
        checkpoint.read(small)


def test_the_order_of_the_tensors_is_the_runs(content):
    facts = content[checkpoint.KEY]
    mine = checkpoint.RunFacts({}, facts["trainable"], facts["frozen"])
    checkpoint.compare(content, mine, resuming=True)
    turned = checkpoint.RunFacts({}, dict(reversed(facts["trainable"].items())), facts["frozen"])
    with pytest.raises(ValueError, match="in another order"):
        checkpoint.compare(content, turned, resuming=True)


def test_an_option_that_is_younger_than_the_checkpoint_had_its_default(content):
    facts = content[checkpoint.KEY]
    method = {"model.method.class_path": "'hiso_pl.zeroth_order.Method'"}
    facts["config"] = dict(method)

    def compared(value):
        config = {**method, "model.method.init_args.local_lr": value}
        return checkpoint.compare(content, checkpoint.RunFacts(config, facts["trainable"], facts["frozen"]), True)

    assert compared("None") == []
    with pytest.raises(ValueError, match=r"model\.method\.init_args\.local_lr was absent and is 0\.1"):
        compared("0.1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["state"][1]["hessian"][2:3].fill_(-1.0), "'bias' holds hessian with values below 0"),
        (lambda s: s["state"][0]["momentum"][2:3].fill_(float("nan")), "'weight' holds momentum with values that are"),
        (lambda s: s["state"][1].update(hessian=torch.ones(30).double()), r"hessian \(30,\) float64"),
        (lambda s: s["state"][1].update(hessian=1.0), "'bias' must be tensors by name"),
        (lambda s: s["state"][1].update(more=torch.ones(1)), r"more \(1,\)"),
        (lambda s: s["state"].pop(0), "'weight' holds nothing"),
        (lambda s: s["param_groups"].append({}), "a list of one mapping"),
        (lambda s: s["param_groups"][0].update(lr=float("nan")), "lr=nan of a saved state"),
        (lambda s: s["param_groups"][0].update(lr="0.1"), "lr='0.1' of a saved state"),
        (lambda s: s["param_groups"][0].pop("lr"), "must hold its lr"),
        (lambda s: s["param_groups"][0].update(seed=1), "seed=0 configured"),
        (lambda s: s["param_groups"][0].update(round=1.5), "round=1.5 of a saved state"),
        (
            lambda s: s["param_groups"][0].update(applied=3),
            r"applied=3 of a saved state must be an integer in \[0, 2\]",
        ),
        (lambda s: s["param_groups"][0]["record"].update(round=7), "record of a saved state cannot be: round=7"),
        (lambda s: s["param_groups"][0]["record"].update(scalars=[[1.0], [1.0, 2.0]]), "record of a saved state"),
        (lambda s: s["param_groups"][0]["record"].update(more=1), "record of a saved state cannot be"),
        (lambda s: s["param_groups"][0].update(record=[1]), "record of a saved state cannot be"),
    ],
)
def test_a_state_that_cannot_be_is_refused_by_the_optimizer(change, message):
    state = copy.deepcopy(build().state_dict())
    fresh = build(0)
    before = digest(fresh)
    change(state)
    with pytest.raises(ValueError, match=message):
        fresh.load_state_dict(state)
    assert (digest(fresh), fresh.round) == (before, 0)


def test_of_a_saved_group_only_what_moves_is_taken():
    state = copy.deepcopy(build().state_dict())
    state["param_groups"][0].update(path="/etc/passwd", param_names=["x", "y"], params=[1, 0])
    fresh = build(0)
    fresh.load_state_dict(state)
    assert "path" not in fresh.param_groups[0]
    assert (fresh.names, fresh.round) == (NAMES, 2)
    assert torch.equal(fresh.state[fresh.parameters[1]]["hessian"], state["state"][1]["hessian"])
