"""Generation is the plain greedy loop, example by example, whatever the batch, the adapter and the way of computing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from hiso_pl.models import CausalLM
from hiso_pl.models.compiled import _Compiled
from hiso_pl.zeroth_order import ZerothOrderOptimizer
from hiso_pl.zeroth_order.precision import CastView

FAMILIES = ["opt", "opt-plain", "gpt2", "llama", "qwen2", "gemma2", "mistral", "phi", "bloom"]
VIRTUAL = ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"]
STOP, MOST = (3, 20), 8


def plain_loop(model, prompt, stop=STOP, most=MOST):
    """Argmax over the last position's logits, without cache, padding or batch."""
    tokens: list[int] = []
    while len(tokens) < most and (not tokens or tokens[-1] not in stop):
        ids = torch.tensor([prompt + tokens])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens + [-1] * (most - len(tokens))


def check(network, batch, prompts):
    with torch.inference_mode():
        found = network.evaluate(batch)
        expected = [plain_loop(network.model, prompt) for prompt in prompts]
    assert found.prediction.dtype == torch.int64
    assert found.prediction.tolist() == expected
    assert found.scores.shape == (len(prompts), 0)
    assert torch.equal(found.loss, network.example_losses(batch))
    return expected


@pytest.fixture(scope="module")
def prompts(texts):
    return texts(9, 2, 9)


@pytest.fixture(scope="module")
def batch(generation_batch, prompts):
    return generation_batch(prompts, [[5, 6, 20], [7, 20], [9, 11, 12, 20]] * 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_plain_loop_in_any_batch(folder, batch, prompts, to_left, generation_batch, family):
    network = CausalLM(folder(family))
    expected = check(network, batch, prompts)
    assert len({tuple(tokens) for tokens in expected}) > 3
    check(network, to_left(batch), prompts)
    with torch.inference_mode():
        for prompt, tokens in zip(prompts[:3], expected, strict=False):
            assert network.generate(generation_batch([prompt], [[5]])).tolist() == [tokens]


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "gemma2", "mistral"])
@pytest.mark.parametrize("kind", ["LORA", "IA3", *VIRTUAL])
def test_it_is_the_plain_loop_with_adapters(folder, batch, prompts, family, kind):
    torch.manual_seed(0)
    peft = {"peft_type": kind, **({"num_virtual_tokens": 3} if kind in VIRTUAL else {})}
    network = CausalLM(folder(family), peft=peft)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    adapted = check(network, batch, prompts)
    with torch.inference_mode():
        assert adapted != CausalLM(folder(family)).generate(batch).tolist()


def test_a_generation_ends_at_any_stop_token(folder, generation_batch, prompts):
    network = CausalLM(folder("llama"))
    with torch.inference_mode():
        free = network.generate(generation_batch(prompts[:4], [[5]] * 4, stop=(3,)))
        assert (free[:, 3:] >= 0).any()
        stops = (int(free[0, 3]), int(free[1, 0]))
        found = network.generate(generation_batch(prompts[:4], [[5]] * 4, stop=stops)).tolist()
        for prompt, tokens in zip(prompts, found, strict=False):
            assert tokens == plain_loop(network.model, prompt, stops)
    assert found[1] == [stops[1], *[-1] * (MOST - 1)]


def test_sampling_settings_and_penalties_of_a_model_are_not_used(folder, batch, prompts, tmp_path: Path):
    path = tmp_path / "model"
    shutil.copytree(folder("gpt2"), path)
    settings = {
        "do_sample": True,
        "temperature": 5.0,
        "top_k": 7,
        "num_beams": 3,
        "repetition_penalty": 3.0,
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 5,
        "max_length": 11,
        "suppress_tokens": [5, 6, 7, 8, 9, 10],
        "forced_eos_token_id": 3,
        "bad_words_ids": [[11], [12]],
        "eos_token_id": 30,
    }
    (path / "generation_config.json").write_text(json.dumps(settings))
    check(CausalLM(str(path)), batch, prompts)


def test_too_long_for_the_models_positions_is_refused(folder, generation_batch):
    network = CausalLM(folder("opt"))
    prompt = [5 + i % 30 for i in range(25)]
    with torch.inference_mode():
        assert network.generate(generation_batch([prompt], [[5]], stop=(), most=8)).shape == (1, 8)
        with pytest.raises(ValueError, match=r"max_new_tokens=9 after a prompt of 25 tokens must fit .* 32 positions"):
            network.generate(generation_batch([prompt, prompt[:3]], [[5], [5]], most=9))


def test_a_compiled_network_generates_uncompiled(folder, batch, monkeypatch):
    network = CausalLM(folder("llama"), compile=True)
    body = network.model.base_model
    monkeypatch.setattr(_Compiled, "__call__", lambda *_, **__: pytest.fail("compiled code was called"))
    with torch.inference_mode():
        assert torch.equal(network.generate(batch), CausalLM(folder("llama")).generate(batch))
    assert isinstance(body._compiled_call_impl, _Compiled)
    with pytest.raises(pytest.fail.Exception, match="compiled code was called"):
        network.example_losses(batch)


@pytest.mark.parametrize(
    ("family", "kind"), [("opt", None), ("gemma2", None), ("llama", "LORA"), *(("llama", kind) for kind in VIRTUAL)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_runs_where_validation_evaluates(folder, batch, family, kind, dtype):
    """As ``FederatedModule`` does it: at x as it is, cast, or put in place operator by operator."""
    found = []
    for memory in ("fast", "low"):
        torch.manual_seed(0)
        peft = kind and {"peft_type": kind, **({"num_virtual_tokens": 3} if kind in VIRTUAL else {})}
        network = CausalLM(folder(family), peft=peft)
        if dtype == "bfloat16":
            for p in network.parameters():
                if not p.requires_grad:
                    p.data = p.data.bfloat16()
        trained = [p for p in network.parameters() if p.requires_grad]
        options = {"num_directions": 1, "mu": 0.1, "memory": memory, "compute_dtype": dtype}
        optimizer = ZerothOrderOptimizer(trained, lr=1e-2, **options)
        optimizer.network = network
        optimizer.step(lambda network=network: network.loss(batch))
        with CastView(trained, getattr(torch, dtype)).active(), torch.inference_mode():
            found.append(network.evaluate(batch))
        found.append(optimizer.at_base(lambda network=network: network.evaluate(batch)))
        assert all(p.dtype == torch.float32 for p in trained)
    for evaluation in found[1:]:
        assert torch.equal(evaluation.loss, found[0].loss)
        assert torch.equal(evaluation.prediction, found[0].prediction)
    assert (found[0].prediction[:, 0] >= 0).all()


def test_the_model_taken_away_generates_greedily(folder, tmp_path):
    network = CausalLM(folder("opt"))
    network.model.save_pretrained(tmp_path)
    kept = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (kept.do_sample, kept.bos_token_id, kept.eos_token_id, kept.pad_token_id) == (False, 0, 3, 1)
