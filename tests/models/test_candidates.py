"""Candidates and answers of several tokens: scores and losses equal those of plain full logits, one text at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from hiso_pl.models import CausalLM, causal_lm

PROMPTS = [[0, 10, 11, 12, 8, 9], [0, 10, 8], [0, 7, 12, 30, 8, 9, 14, 15]]
# the second is the first one's beginning, so their logits are in one row
CANDIDATES = [[[5, 6, 7], [5], [9, 12]], [[21, 22], [21, 23], [24]], [[17], [18], [19]]]
ANSWERS = [[25, 26, 20], [27, 20], [28, 29, 30, 31, 20]]
LABELS = [2, 0, 1]
FAMILIES = ["opt", "gpt2", "gemma2", "mistral", "phi", "bloom"]


def plain(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def log_likelihoods(model, prompt, answer):
    """Of each token of an answer, by the logits of all positions of this one text."""
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().log_softmax(dim=-1)
    return logits[torch.arange(-len(answer) - 1, -1), answer]


@pytest.fixture
def candidates(candidate_batch):
    return candidate_batch(PROMPTS, CANDIDATES, LABELS)


@pytest.fixture
def answers(generation_batch):
    return generation_batch(PROMPTS, ANSWERS)


@pytest.mark.parametrize("scoring", ["sum", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_candidates_score_is_its_log_likelihood(folder, candidates, family, scoring):
    if scoring == "mean":
        lengths = [[len(words) for words in choices] for choices in CANDIDATES]
        candidates = {**candidates, "candidate_lengths": torch.tensor(lengths)}
    network = CausalLM(folder(family))
    assert network.full_logits == (family == "gemma2")
    model = plain(folder(family))
    expected = torch.stack(
        [
            torch.stack([getattr(log_likelihoods(model, prompt, words), scoring)() for words in choices])
            for prompt, choices in zip(PROMPTS, CANDIDATES, strict=True)
        ]
    )
    losses = {
        "label_words": -expected.log_softmax(dim=-1)[torch.arange(3), LABELS],
        "full_vocabulary": -expected[torch.arange(3), LABELS],
    }
    for loss, wanted in losses.items():
        network.loss_kind = loss
        with torch.inference_mode():
            found = network.evaluate(candidates)
            assert torch.equal(network.example_losses(candidates), found.loss)
        assert (found.scores.dtype, found.loss.dtype, found.prediction.dtype) == (
            torch.float32,
            torch.float32,
            torch.int64,
        )
        torch.testing.assert_close(found.scores.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.loss.double(), wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(found.prediction, expected.argmax(dim=-1))


def test_candidates_that_share_a_row_score_as_in_rows_of_their_own(folder, candidate_batch):
    network = CausalLM(folder("opt"))
    shared, apart = (candidate_batch(PROMPTS, CANDIDATES, LABELS, share) for share in (True, False))
    assert (len(shared["input_ids"]), len(apart["input_ids"])) == (4, 9)
    with torch.no_grad():
        torch.testing.assert_close(network.scores(shared), network.scores(apart), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answers_loss_is_the_mean_over_its_tokens(folder, answers, family):
    network = CausalLM(folder(family))
    model = plain(folder(family))
    pairs = zip(PROMPTS, ANSWERS, strict=True)
    expected = torch.stack([-log_likelihoods(model, *pair).mean() for pair in pairs])
    with torch.inference_mode():
        losses = network.example_losses(answers)
        assert torch.equal(network.loss(answers), losses.mean())
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
def test_virtual_tokens_come_before_the_positions_that_answer(folder, candidates, answers, kind):
    torch.manual_seed(0)
    network = CausalLM(folder("opt"), peft={"peft_type": kind, "num_virtual_tokens": 3})
    masks = []
    network.model.get_base_model().model.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs["attention_mask"].dtype), with_kwargs=True
    )
    with torch.no_grad():
        losses, scores = network.example_losses(answers), network.scores(candidates)
    for i, (prompt, answer, choices) in enumerate(zip(PROMPTS, ANSWERS, CANDIDATES, strict=True)):
        loss = -log_likelihoods(network.model, prompt, answer).mean()
        torch.testing.assert_close(losses[i].double(), loss, rtol=1e-5, atol=1e-5)
        for c, words in enumerate(choices):
            score = log_likelihoods(network.model, prompt, words).sum()
            torch.testing.assert_close(scores[i, c].double(), score, rtol=1e-5, atol=1e-5)
    assert set(masks) == {torch.int64}  # running sums of it are deterministic everywhere


def test_masked_tokens_and_padding_do_not_count(folder, candidates, answers):
    network = CausalLM(folder("opt"))
    with torch.no_grad():
        for batch, tokens in ((candidates, "candidate"), (answers, "answer")):
            hidden = batch[f"{tokens}_mask"] == 0
            assert hidden.any()
            other = {
                **batch,
                f"{tokens}_tokens": batch[f"{tokens}_tokens"].masked_fill(hidden, 33),
                "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 34),
            }
            assert torch.equal(network.example_losses(other), network.example_losses(batch))


def test_logits_are_made_at_the_answers_positions_only(folder, candidates, answers, monkeypatch):
    network = CausalLM(folder("opt-plain"))
    network.model.lm_head.register_forward_hook(lambda *_: pytest.fail("the model's own head was called"))
    taken = []
    project = causal_lm.project
    monkeypatch.setattr(
        causal_lm, "project", lambda hidden, *head: taken.append(hidden.shape) or project(hidden, *head)
    )
    with torch.no_grad():
        network.example_losses(candidates)
        network.example_losses(answers)
    assert taken == [(4, 3, 16), (3, 5, 16)]


@pytest.mark.parametrize("kind", ["candidates", "answers"])
@pytest.mark.parametrize(
    ("family", "peft"),
    [("opt", None), ("gemma2", None), ("llama", {"peft_type": "LORA", "r": 2}), ("llama", {"peft_type": "IA3"})],
)
def test_every_way_of_probing_gives_the_same(folder, rounds, request, kind, family, peft):
    batch = request.getfixturevalue(kind)

    def run(count=2, **options):
        torch.manual_seed(0)
        return rounds(CausalLM(folder(family), peft=peft), batch, count, **options)

    plain = run()
    assert np.isfinite(plain).all()
    assert np.abs(plain[:, :2]).min() > 1e-4
    np.testing.assert_array_equal(run(memory="low"), plain)
    # a loss of about 4 to rounding, over mu
    np.testing.assert_allclose(run(directions_per_forward=3), plain, rtol=0, atol=4e-6 / 1e-2)
    half = run(compute_dtype="bfloat16", mu=0.1)
    np.testing.assert_array_equal(run(compute_dtype="bfloat16", mu=0.1, memory="low"), half)
    np.testing.assert_allclose(half[:, -1], plain[:, -1], rtol=2e-2)
