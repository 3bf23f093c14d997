"""Compiled forwards see the weights of the moment, are made once, and do not depend on which batch came first."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from hiso_pl.models import CausalLM, LoRA, SequenceClassifier
from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.watching import check_compiled, is_compiled

BATCHES = [(5, 5), (4, 12), (3, 9), (8, 16), (2, 7)]


def _compiler() -> bool:
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _compiler(), reason="no C++ compiler found")


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # its structured log is kept by pytest line by line, whatever the level
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One layer, and weights large enough for scores to matter."""
    path = tmp_path_factory.mktemp("tiny")
    config = transformers.OPTConfig(
        vocab_size=40,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        init_std=0.3,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)


def make_batch(size: int, length: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * size + length)
    lengths = torch.randint(1, length + 1, (size,), generator=generator)
    lengths[0] = length
    return {
        "input_ids": torch.randint(4, 40, (size, length), generator=generator),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
        "answer_position": lengths - 1,
        "label": torch.arange(size) % 2,
        "label_words": torch.tensor([4, 5]),
    }


def rounds(network, batches, mu=1e-2, **options) -> np.ndarray:
    """Scalars and first losses of a few rounds, each on a batch of another shape."""
    parameters = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    optimizer = ZerothOrderOptimizer(parameters, lr=1e-3, mu=mu, num_directions=2, **options)
    optimizer.network = network
    seen = []
    for batch in batches:
        optimizer.step(lambda batch=batch: network.loss(batch))  # type: ignore[misc]
        seen.append([*optimizer.report.scalars.ravel(), optimizer.report.loss])
    return np.array(seen)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "mu", "tolerance", "freezing"),
    # of a loss; a scalar is a difference of two over mu, so bf16 with its three digits needs a wide one
    [("float32", 1e-2, 2e-6, False), ("bfloat16", 0.2, 2e-2, True)],
)
def test_rounds_see_displaced_weights_through_one_compilation(tiny, dtype, mu, tolerance, freezing):
    eager, compiled = (CausalLM(tiny, compile=compile) for compile in (False, True))
    start = {name: value.clone() for name, value in eager.state_dict().items()}
    batches = [make_batch(*shape) for shape in BATCHES]
    expected = rounds(eager, batches, mu=mu, compute_dtype=dtype)
    # what TORCHINDUCTOR_FREEZING=1 sets: weights would become constants of the code
    with torch._inductor.config.patch(freezing=freezing):
        first = rounds(compiled, batches[:1], mu=mu, compute_dtype=dtype)
        assert counters["stats"]["unique_graphs"] == 1
        compiled.load_state_dict(start)
        with torch._dynamo.config.patch(error_on_recompile=True):
            found = rounds(compiled, batches, mu=mu, compute_dtype=dtype)
    assert counters["stats"]["unique_graphs"] == 1
    np.testing.assert_array_equal(found[:1], first)
    # weights that stay what they were would give scalars of 0
    assert np.abs(expected[:, :2]).max() > 10 * tolerance / mu
    np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=0, atol=2 * tolerance / mu)
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=0, atol=tolerance)


_SCORES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_compiled import make_batch
from hiso_pl.models import SequenceClassifier
torch.manual_seed(0)
network = SequenceClassifier(sys.argv[2], compile=True)
found = {}
with torch.inference_mode():
    for text in sys.argv[3:]:
        found[text] = network.scores(make_batch(*map(int, text.split("x")))).view(torch.int32).tolist()
print("RESULT", torch._dynamo.utils.counters["stats"]["unique_graphs"], sorted(found.items()))
"""


@pytest.mark.slow
@needs_compiler
def test_processes_that_meet_batches_in_another_order_compute_the_same_bits(tiny):
    answers = []
    for shapes in (["8x8", "1x5", "3x17"], ["3x17", "8x8", "1x5"]):
        done = subprocess.run(
            [sys.executable, "-c", _SCORES, str(Path(__file__).parent), tiny, *shapes],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        answers.append(next(line for line in done.stdout.splitlines() if line.startswith("RESULT")))
    assert answers[0] == answers[1]
    assert answers[0].startswith("RESULT 2 ")  # graphs, one of them for the batch of one example


@needs_compiler
def test_a_compiler_that_is_missing_is_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network = CausalLM(tiny, compile=True)
    options = {"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}
    with (
        torch._inductor.config.patch(options),
        torch.inference_mode(),
        pytest.raises(
            ValueError, match=r"compile=True must be false here, the compiler fails: .*C\+\+ compiler"
        ) as caught,
    ):
        network.scores(make_batch(2, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("peft", [None, LoRA(r=2, target_modules=["q_proj"])])
@pytest.mark.parametrize("kind", [CausalLM, SequenceClassifier])
def test_names_stay_and_probing_can_tell(tiny, kind, peft):
    eager, compiled = (kind(tiny, peft=peft, compile=compile) for compile in (False, True))
    assert list(compiled.state_dict()) == list(eager.state_dict())
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in eager.named_modules()]
    assert is_compiled(compiled)
    assert not is_compiled(eager)
    with pytest.raises(ValueError, match="memory='low' must be 'fast' with a compiled network"):
        check_compiled(compiled, "low", 1)
    with pytest.raises(ValueError, match="directions_per_forward=2 must be 1 with a compiled network"):
        check_compiled(compiled, "fast", 2)
    check_compiled(eager, "low", 2)
