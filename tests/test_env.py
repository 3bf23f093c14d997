"""`hiso-pl env` tells of the machine and tries it out; it shows no secret, and a wrong bit is a failure."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from hiso_pl.bench import self_test
from hiso_pl.bench.self_test import Check
from hiso_pl.cli import env
from hiso_pl.cli import program as cli
from hiso_pl.ranks import pair
from hiso_pl.zeroth_order.streams import Site, direction

F = np.float32


def test_the_update_is_that_of_the_equations():
    """x' = x - lr (S / h), H' = max((1 - nu) H + nu (D D + eps), floor), each operation one fp32 rounding."""
    n = self_test.ELEMENTS
    x = F((np.arange(n) * 40503 % 65536 - 32768) / 65536)
    hessian = F((np.arange(n) * 30011 % 65536 + 8192) / 65536)
    site, s = Site(20261120, "normal", 1, 7), []
    for k, weights in enumerate([[0.25, -1.5, 0.75], [-0.375, 0.5, 2.0]]):
        s.append(F(weights[0]) * direction(site, k, 0, 0, n))
        for p in (1, 2):
            s[k] = s[k] + F(weights[p]) * direction(site, k, p, 0, n)
    h = np.sqrt(hessian)
    moved = x - F(0.0123) * ((s[0] + s[1]) / h)
    d = s[1] / h
    advanced = np.maximum(F(1 - 0.05) * hessian + F(0.05) * (d * d + F(1e-8)), F(1e-8))
    assert {moved.dtype, advanced.dtype} == {np.dtype(F)}
    assert hashlib.sha256(moved.tobytes() + advanced.tobytes()).hexdigest() == self_test.UPDATED


def test_it_tells_of_the_machine_and_tries_it_out(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:word@proxy:3128")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    path = tmp_path / "env.json"
    assert cli.main(["env", "--json", str(path)]) == 0
    said, found = capsys.readouterr().out, json.loads(path.read_text())
    assert "hf_abc" not in said + path.read_text()
    assert "me:word" not in said + path.read_text()
    assert found["environment"]["HF_TOKEN"] == "(set, not shown)"
    assert found["environment"]["NCCL_DEBUG"] == "WARN"
    assert found["environment"]["HTTPS_PROXY"] == "http://...@proxy:3128"
    assert {"torch", "lightning", "numba", "triton", "hiso_pl", "python"} <= found["versions"].keys()
    names = [check["name"] for check in found["self-test"]]
    assert {f"directions and update, {name} on cpu" for name in ("reference", "numba", "torch")} <= set(names)
    assert names[-1].startswith("two ranks meet by ")
    assert all(f"  {name}: as it must be (" in said for name in names)


def test_what_is_wrong_is_said_and_is_a_failure(capsys, monkeypatch):
    monkeypatch.setattr(self_test, "UPDATED", "0" * 64)
    monkeypatch.setattr(pair, "meet", lambda: None)
    assert cli.main(["env", "--json", "true"]) == 1
    told = capsys.readouterr()
    wrong = [check for check in json.loads(told.out)["self-test"] if check["wrong"]]
    assert [check["name"] for check in wrong][:2] == [
        f"directions and update, {n} on cpu" for n in ("reference", "numba")
    ]
    line = told.err.splitlines()[-1]
    assert (
        "hiso-pl: error: 3 of 5 self-tests failed: directions and update, reference on cpu: the update's digest" in line
    )


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HF_TOKEN", "a", "(set, not shown)"),
        ("HUGGING_FACE_HUB_TOKEN", "a", None),
        ("NCCL_API_KEY", "a", "(set, not shown)"),
        ("HF_SECRET", "a", "(set, not shown)"),
        ("TOKENIZERS_PARALLELISM", "false", "false"),
        ("RANK", "1", "1"),
        ("HF_ENDPOINT", "https://u:p@mirror/x", "https://...@mirror/x"),
        ("HOME", "/root", None),
    ],
)
def test_variables_are_shown_without_secrets(name, value, shown):
    assert env.variables({name: value}) == ({} if shown is None else {name: shown})


def test_ranks_that_do_not_meet_are_told_of(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    found = [check for check in self_test.checks() if check.name.startswith("two ranks")]
    assert isinstance(found[0], Check)
    assert "GLOO_SOCKET_IFNAME=nosuch0" in found[0].wrong
