"""Whole runs of one rank give the pinned digests, where the forward passes are those of the table.

Forward passes are not the same on every processor, nor from one version of torch to the next. So the digests are kept
by torch's version, by the processor's capability and by what it makes of a few products, as libraries choose their code
by more than that; those of a language model also by the versions that its forward pass comes from. Elsewhere the tests
are skipped; ``HISO_PL_REPIN=1 pytest tests/end_to_end/test_pinned_runs.py`` adds what is found there to the table.
"""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from torch.nn import functional as F

from hiso_pl.zeroth_order.digest import digest_of_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("process_settings")]

METHOD = "--model.method.init_args"
VIT = {"class_path": "hiso_pl.models.DigitsViT", "init_args": {"width": 8, "depth": 1}}
DIGITS = {
    "CNN": [],
    "ViT": ["--model.network", json.dumps(VIT)],
    "CNN, own directions": [f"{METHOD}.directions", "client"],
}
LANGUAGE = {
    "language": [],
    "language, tau = 3": [f"{METHOD}.local_steps", "3"],
    "language, Rademacher, central": [f"{METHOD}.distribution", "rademacher", f"{METHOD}.difference", "central"],
    "language, LoRA": ["--model.network.peft", '{"r": 2, "alpha": 4}'],
    "language, DeComFL": [f"{METHOD}.preconditioner", "hiso_pl.zeroth_order.Identity"],
}


@pytest.fixture
def place(fixed):
    """The key of what a run's forward passes are like here."""
    torch.set_num_threads(1)  # as in the runs
    x, w = fixed((24, 16), 0), fixed((48, 16), 1)
    products = [F.linear(x, w), F.conv2d(x.reshape(6, 1, 8, 8), w[:, :9].reshape(48, 1, 3, 3)), F.softmax(x, 1)]
    products += [F.layer_norm(x, (16,)), F.gelu(x), x.tanh(), F.scaled_dot_product_attention(*w.reshape(3, 2, 2, 8, 8))]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {capability}, products {digest_of_tensors(products)[:8]}"


@pytest.fixture(scope="module")
def runs(run_jobs, base, text_args, opt, fixed, tmp_path_factory):
    """All runs, made in one process."""
    model = transformers.AutoModelForCausalLM.from_pretrained(opt)
    with torch.no_grad():
        for salt, (name, p) in enumerate(model.named_parameters()):
            p.copy_(0.3 * fixed(p.shape, salt) + (1.0 if "norm.weight" in name else 0.0))
    folder = tmp_path_factory.mktemp("opt-fixed")
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(opt).save_pretrained(folder)
    text = ["fit", *text_args, "--model.network.pretrained", str(folder), "--trainer.max_steps", "12"]
    text += [f"{METHOD}.lr", "0.01", f"{METHOD}.num_directions", "3"]
    jobs = [(name, [*base, *args]) for name, args in DIGITS.items()]
    return run_jobs(1, jobs + [(name, [*text, *args]) for name, args in LANGUAGE.items()])


@pytest.mark.parametrize("name", [*DIGITS, *LANGUAGE])
def test_a_run_gives_the_pinned_digest(request, pins, place, name):
    if name in LANGUAGE:
        place += f", transformers {transformers.__version__}, peft {peft.__version__}"
    key = f"{name}: {place}"
    if key not in pins.table and not pins.repin:
        pytest.skip(f"no digest is pinned for {place}")
    summary = request.getfixturevalue("runs")[name].summary
    assert (summary["rounds"], summary["ranks"], summary["dropped_slots"]) == (12, 1, 0)
    pins.hold(key, summary["digest"])


def test_the_table_is_of_these_runs_and_each_differs_from_the_others(pins):
    places = {}
    for key, found in pins.table.items():
        name, _, place = key.partition(": ")
        places.setdefault(place.partition(", transformers")[0], {})[name] = found
    for found in places.values():
        assert found.keys() == {*DIGITS, *LANGUAGE}
        assert len(set(found.values())) == len(found)
