"""Whatever an adapter wraps is merged into what plain transformers computes, and what heads are is said truly."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hiso_pl.export.writing import name_classes, save
from hiso_pl.models import CausalLM, ImageClassifier, SequenceClassifier

IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 3}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
WIDE = {**IDS, **SIZES, "vocab_size": 40, "intermediate_size": 32, "max_position_embeddings": 40}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.3}
CAUSAL = (CausalLM, transformers.AutoModelForCausalLM)
SENTENCES = (SequenceClassifier, transformers.AutoModelForSequenceClassification)
MADE = {
    # name: network, how it is opened, its configuration
    "llama": (*CAUSAL, transformers.LlamaConfig(**WIDE, tie_word_embeddings=False)),
    "qwen2": (*CAUSAL, transformers.Qwen2Config(**WIDE, num_key_value_heads=1, tie_word_embeddings=True)),
    "gpt2": (*CAUSAL, transformers.GPT2Config(**GPT2, **IDS)),  # tied, and with Conv1D
    "gpt2 head": (*SENTENCES, transformers.GPT2Config(**GPT2, **IDS)),
    "roberta": (*SENTENCES, transformers.RobertaConfig(**WIDE, type_vocab_size=1)),
    "vit": (
        ImageClassifier,
        transformers.AutoModelForImageClassification,
        transformers.ViTConfig(**SIZES, intermediate_size=32, image_size=8, patch_size=4, num_labels=10),  # type: ignore[call-arg]
    ),
}


def lora(*targets, **more):
    return {"peft_type": "LORA", "r": 2, "target_modules": list(targets), **more}


def of_a_language_model(query, embedding):
    return [
        lora(query, modules_to_save=["lm_head"]),
        lora(query, modules_to_save=[embedding]),
        lora(query, modules_to_save=["lm_head", embedding]),
        lora(query, modules_to_save=["lm_head"], ensure_weight_tying=True),
        lora(query, "lm_head"),
        lora(query, embedding),
        lora(query, embedding, "lm_head"),
        lora(query, embedding, modules_to_save=["lm_head"]),
        lora(query, "lm_head", modules_to_save=[embedding]),
        lora(query, trainable_token_indices=[4, 5]),
        lora(query, bias="all"),
        lora(query, use_dora=True, use_rslora=True, rank_pattern={query: 3}, alpha_pattern={query: 5}),
        {"peft_type": "IA3"},
        {"peft_type": "IA3", "target_modules": [query], "feedforward_modules": [], "modules_to_save": ["lm_head"]},
    ]


CASES = [
    *(("llama", peft) for peft in of_a_language_model("q_proj", "embed_tokens")),
    *(("qwen2", peft) for peft in of_a_language_model("q_proj", "embed_tokens")),
    *(("gpt2", peft) for peft in of_a_language_model("c_attn", "wte")),
    ("llama", {"peft_type": "LOHA", "r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ("llama", {"peft_type": "OFT", "oft_block_size": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ("llama", {"peft_type": "LN_TUNING", "target_modules": ["norm"]}),
    ("gpt2 head", {"peft_type": "LORA"}),
    ("gpt2 head", lora("c_attn", "wte")),
    ("gpt2 head", {"peft_type": "IA3"}),
    ("roberta", lora("query", "word_embeddings", use_dora=False, bias="lora_only")),
    ("roberta", {"peft_type": "IA3"}),  # whose head has no weight of its own
    ("vit", lora("projection", "q_proj", "query")),  # a convolution
    ("vit", lora("q_proj", "query", modules_to_save=["classifier", "layernorm"])),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("base")
            torch.manual_seed(0)
            MADE[name][1].from_config(MADE[name][2]).save_pretrained(made[name])
        return str(made[name])

    return folder


@pytest.mark.parametrize(("name", "peft"), CASES)
def test_merged_or_not_it_computes_the_same(base, tmp_path, name, peft):
    (kind, auto, _), folder = MADE[name], base(name)
    given = json.loads(json.dumps(peft))
    generator = torch.Generator().manual_seed(2)
    inputs = {"input_ids": torch.randint(4, 40, (3, 7), generator=generator)}
    if name == "vit":
        inputs = {"pixel_values": torch.randn(3, 3, 8, 8, generator=generator)}
    networks = []
    for _ in range(2):
        torch.manual_seed(1)
        networks.append(kind(folder, peft=peft))
        noise = torch.Generator().manual_seed(3)
        for p in networks[-1].parameters():
            if p.requires_grad:
                p.data += 0.2 * torch.randn(p.shape, generator=noise)
    assert peft == given  # PEFT adds to the lists that it is given
    with torch.no_grad():
        before = auto.from_pretrained(folder).eval()(**inputs).logits
        expected = networks[0].model(**inputs).logits
        save(networks[0], None, tmp_path / "merged", "merged", torch.float32)
        merged, told = auto.from_pretrained(tmp_path / "merged", output_loading_info=True)
        assert not any(told.values()), told
        torch.testing.assert_close(merged.eval()(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
        save(networks[1], None, tmp_path / "adapter", "adapter", torch.float32)
        adapted = PeftModel.from_pretrained(auto.from_pretrained(folder), tmp_path / "adapter").eval()
        torch.testing.assert_close(adapted(**inputs).logits, expected, rtol=1e-6, atol=1e-6)
    assert (expected - before).abs().max() > 1e-2


# What the head's outputs are


def test_a_pretrained_head_keeps_its_names(tmp_path):
    config = transformers.BertConfig(**WIDE, id2label={0: "positive", 1: "negative"})
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    network = SequenceClassifier(str(tmp_path))
    for task, classes in (("sst2", None), ("sst2", ["negative", "positive"]), ({"classes": ["a", "b"]}, None)):
        name_classes(network, task, classes)
        assert network.model.config.id2label == {0: "positive", 1: "negative"}


def test_a_new_head_is_called_as_the_run_called_it(base):
    network = SequenceClassifier(base("roberta"))
    network.labels = None
    name_classes(network, "sst2", ["bad", "good"])
    assert network.model.config.id2label == {0: "bad", 1: "good"}
    assert network.model.config.label2id == {"bad": 0, "good": 1}


# Padding


@pytest.fixture
def tokenizer():
    """Makes a tokenizer of few words whose first is ``!``."""

    def make(single="$A", **special):
        words = ["!", "<s>", "<unk>", "</s>", "Ġfilm", "great", "a"]
        core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("</s>", 3)])
        return transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **special)

    return make


@pytest.mark.parametrize(
    ("ids", "special", "single", "padding"),
    [
        ({"pad_token_id": None, "eos_token_id": None}, {}, "$A", None),
        ({"pad_token_id": -1, "eos_token_id": None}, {}, "$A", None),
        ({"pad_token_id": None, "eos_token_id": [3]}, {}, "$A", 3),
        ({"pad_token_id": 1, "eos_token_id": 3}, {}, "$A", 1),
        ({"pad_token_id": 0, "eos_token_id": 3}, {"pad_token": "<s>"}, "$A", 1),
        # what ends every text is no padding
        ({"pad_token_id": 3, "eos_token_id": 3}, {"pad_token": "</s>"}, "$A </s>", None),
    ],
)
def test_an_exported_head_reads_what_the_run_read(tmp_path, tokenizer, ids, special, single, padding):
    torch.manual_seed(0)
    config = transformers.GPT2Config(**GPT2, bos_token_id=None, **ids)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "base")
    network, own = SequenceClassifier(str(tmp_path / "base")), tokenizer(single, **special)
    texts = ["great film!", "a film"]
    rows = [own(text).input_ids for text in texts]
    ids_, mask = torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids_[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    with torch.no_grad():
        expected = network.scores({"input_ids": ids_, "attention_mask": mask})
    (tmp_path / "out").mkdir()
    save(network, own, tmp_path / "out", "model", torch.float32)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    told = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.config.pad_token_id == padding
    with torch.no_grad():
        alone = torch.cat([model(input_ids=told(text, return_tensors="pt").input_ids).logits for text in texts])
        torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-5)
        if padding is None:
            with pytest.raises(ValueError, match="Cannot handle batch sizes > 1"):
                model(input_ids=ids_, attention_mask=mask)
        else:
            batch = told(texts, return_tensors="pt", padding=True)
            found = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
