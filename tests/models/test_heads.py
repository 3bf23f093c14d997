"""A text's scores are those that plain transformers gives of it alone, whatever ids its files name or do not name."""

from __future__ import annotations

import pytest
import torch
import transformers

from hiso_pl.models import CausalLM, SequenceClassifier

# some end in what is padding, or an end, or first in the vocabulary, of some model here
ROWS = [[5, 6, 0], [7, 8, 9, 10, 11, 3], [12, 0, 0], [13, 14, 15, 16, 1], [9]]
IDS = {
    "none": {"pad_token_id": None, "eos_token_id": None, "bos_token_id": None},
    "negative": {"pad_token_id": -1, "eos_token_id": None},
    "several ends": {"pad_token_id": None, "eos_token_id": [3, 7]},
    "a real token": {"pad_token_id": 0, "eos_token_id": 3},
    "the end": {"pad_token_id": 3, "eos_token_id": 3},
}
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 32, "max_position_embeddings": 32, "initializer_range": 0.3}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.3}
BART = {
    **{f"{part}_{size}": n for part in ("encoder", "decoder") for size, n in (("layers", 1), ("attention_heads", 2))},
    **{"vocab_size": 40, "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.3},
}
MADE = {
    "gpt2": lambda ids: transformers.GPT2Config(**GPT2, **ids),
    "opt": lambda ids: transformers.OPTConfig(**SIZES, word_embed_proj_dim=16, ffn_dim=32, init_std=0.3, **ids),
    "llama": lambda ids: transformers.LlamaConfig(**WIDE, **ids),
    "qwen2": lambda ids: transformers.Qwen2Config(**WIDE, num_key_value_heads=1, **ids),
    "bloom": lambda ids: transformers.BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2, **ids),
    "ctrl": lambda ids: transformers.CTRLConfig(**GPT2, dff=32, **ids),
    "bert": lambda ids: transformers.BertConfig(**WIDE, **ids),
    "roberta": lambda ids: transformers.RobertaConfig(**{**WIDE, "max_position_embeddings": 40}, **ids),
    "bart": lambda ids: transformers.BartConfig(**BART, **ids),
}
DECODERS = ("gpt2", "opt", "llama", "qwen2", "bloom", "ctrl")
CASES = [
    *((family, ids) for family in DECODERS for ids in IDS),
    *(("bert", ids) for ids in IDS),
    *(("roberta", ids) for ids in ("negative", "a real token", "the end")),
    *(("bart", ids) for ids in ("a real token", "the end")),
]


def padded(rows, left):
    width = max(map(len, rows))
    fill = [[2] * (width - len(row)) for row in rows]
    seen = [[1] * len(row) for row in rows]
    gaps = [[0] * len(more) for more in fill]
    pairs = [zip(fill, rows, strict=True), zip(gaps, seen, strict=True)] if left else []
    pairs = pairs or [zip(rows, fill, strict=True), zip(seen, gaps, strict=True)]
    ids, mask = (torch.tensor([a + b for a, b in pair]) for pair in pairs)
    return {"input_ids": ids, "attention_mask": mask}


def saved(tmp_path, family, ids):
    torch.manual_seed(0)
    config = MADE[family]({**IDS[ids], "num_labels": 3})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(("family", "ids"), CASES)
def test_scores_are_those_of_a_text_alone(tmp_path, family, ids):
    folder = saved(tmp_path, family, ids)
    rows = [[*row, 3] if family == "bart" and row[-1] != 3 else row for row in ROWS]
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if family in DECODERS:
        plain.config.pad_token_id = None  # so that it reads the last token
    network = SequenceClassifier(folder, num_labels=3)
    with torch.no_grad():
        alone = [{"input_ids": torch.tensor([r]), "attention_mask": torch.ones(1, len(r)).long()} for r in rows]
        expected = torch.cat([plain(**batch).logits for batch in alone])
        assert expected.std() > 0.01
        for found in (
            network.scores(padded(rows, left=False)),
            network.scores(padded(rows, left=True)),
            torch.cat([network.scores(batch) for batch in alone]),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("peft", [{"peft_type": "LORA"}, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}])
def test_an_adapted_head_reads_the_last_token_as_well(tmp_path, rounds, peft):
    folder = saved(tmp_path, "gpt2", "none")

    def made():
        torch.manual_seed(1)
        return SequenceClassifier(folder, num_labels=3, peft=peft)

    network = made()
    with torch.no_grad():
        alone = torch.cat([network.scores(padded([row], left=False)) for row in ROWS])
        torch.testing.assert_close(network.scores(padded(ROWS, left=True)), alone, rtol=1e-5, atol=1e-5)
        earlier = network.scores(padded([[5, 6], [12]], left=False))
    assert not torch.isclose(alone[[0, 2]], earlier, atol=1e-3).all()
    batch = {**padded(ROWS, left=False), "label": torch.tensor([0, 1, 2, 0, 1])}
    options = {"lr": 1e-2, "mu": 1e-2}
    found = rounds(network, batch, **options)
    torch.testing.assert_close(
        torch.tensor(rounds(made(), batch, **options, directions_per_forward=3)), torch.tensor(found), rtol=0, atol=1e-3
    )


def test_a_head_that_reads_padding_is_refused(tmp_path):
    config = transformers.XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_inner=32, initializer_range=0.3)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="XLNetForSequenceClassification reads the padding at the end of"):
        SequenceClassifier(str(tmp_path))


def test_a_generation_ends_at_no_token_that_is_not_asked_for(folder, generation_batch, monkeypatch):
    """Without stops none ends it, whatever the model's files say; the rest of a row is not told as tokens."""
    network = CausalLM(folder("gpt2"))
    batch = generation_batch([[5, 6, 7], [8, 9], [10, 11, 12, 13]], [[4]] * 3, stop=(), most=8)
    with torch.inference_mode():
        free = network.generate(batch)
        rows, logits = [[5, 6, 7], [8, 9], [10, 11, 12, 13]], network.model
        for row in rows:
            for _ in range(8):
                row.append(int(logits(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
        monkeypatch.setattr(network.model.generation_config, "eos_token_id", free[:, 1].tolist())
        assert network.generate(batch).tolist() == free.tolist() == [row[-8:] for row in rows]
    assert network.model.generation_config.eos_token_id == free[:, 1].tolist()


def test_a_head_of_another_number_of_classes_is_refused(tmp_path):
    folder = saved(tmp_path, "bert", "the end")
    message = (
        r"classifier\.weight has shape \[3, 16\] in its files, must have \[2, 16\] by num_labels=2: give num_labels=3"
    )
    with pytest.raises(ValueError, match=message):
        SequenceClassifier(folder)


def test_a_language_model_takes_no_sentences(folder, batch):
    del batch["label_words"]
    with pytest.raises(ValueError, match=r"^CausalLM takes prompts .*: data must be hiso_pl\.data\.text\.PromptData$"):
        CausalLM(folder("gpt2")).scores(batch)
