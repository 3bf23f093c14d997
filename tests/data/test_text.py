"""Text tasks from file to batch: prompts, tokens, truncation, labels, label words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hiso_pl.data.prompts import label_word_tokens, tokenize_prompts
from hiso_pl.data.tasks import TASKS, TextTask, find_task
from hiso_pl.data.text import PromptData, SentenceClassification

IT_WAS = [8, 9]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    train = tmp_path / "train.tsv"
    train.write_text("sentence\tlabel\na fine film \t1\na bad film\t0\na film\tNegative\na great film\tpositive\n")
    val = tmp_path / "val.jsonl"
    val.write_text('{"sentence": "a terrible film", "label": 0}\n{"sentence": "a good film", "label": 1}\n')
    return {"train_file": str(train), "validation_file": str(val)}


@pytest.fixture
def module(files, tokenizer_folder):
    def make(kind=PromptData, **options):
        options = {"tokenizer": tokenizer_folder, **files, **options}
        return kind(clients=2, cohort=1, batch_size=2, **options)

    return make


GOLDEN = {
    "sst2": ({"sentence": " so dull \n"}, "so dull It was", [" terrible", " great"]),
    "sst2-hiso": ({"sentence": "so dull"}, "so dull It was", [" bad", " good"]),
    "rte": (
        {"sentence1": "It rains.", "sentence2": "It is wet."},
        'It rains.\nDoes this mean that "It is wet." is true? Yes or No?\n',
        ["Yes", "No"],
    ),
    "qqp": (
        {"question1": "Why?", "question2": "How come?"},
        "Question 1: Why?\nQuestion 2: How come?\nAre they semantically equivalent? Yes or No?\n",
        ["No", "Yes"],
    ),
    "cb": (
        {"premise": "It rains.", "hypothesis": "it is wet"},
        'Suppose It rains. Can we infer that "it is wet"? Yes, No, or Maybe?\n',
        ["Yes", "No", "Maybe"],
    ),
    "boolq": ({"passage": "It {rains}.", "question": "is it wet"}, "It {rains}. is it wet?", [" No", " Yes"]),
}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_golden_prompts(name):
    row, prompt, words = GOLDEN[name]
    task = find_task(name)
    assert task.prompt(task.texts(row, "here")) == prompt
    assert list(task.label_words) == words
    assert len(task.classes) == len(words)


def test_golden_tokens_and_batch(module):
    data = module(task="sst2-hiso")
    data.setup()
    train = data.splits.train
    assert [train.tokens(i) for i in range(4)] == [
        [0, 10, 11, 12, *IT_WAS],
        [0, 10, 4, 12, *IT_WAS],
        [0, 10, 12, *IT_WAS],
        [0, 10, 7, 12, *IT_WAS],
    ]
    assert train.labels.tolist() == [1, 0, 0, 1]
    assert train.classes == ("negative", "positive")
    batch = train.collate(np.array([2, 0]))
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[0, 10, 12, *IT_WAS, 1], [0, 10, 11, 12, *IT_WAS]],
        "attention_mask": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
        "label": [0, 1],
        "answer_position": [4, 5],
        "label_words": [4, 5],
    }
    assert {str(value.dtype) for value in batch.values()} == {"torch.int64"}
    assert data.splits.val.tokens(0) == [0, 10, 6, 12, *IT_WAS]
    assert data.splits.test is None


def test_truncation_cuts_the_sentence_and_keeps_the_suffix(module):
    data = module(task="sst2", max_length=5)
    data.setup()
    assert [data.splits.train.tokens(i) for i in range(4)] == [
        [0, 10, 11, *IT_WAS],
        [0, 10, 4, *IT_WAS],
        [0, 10, 12, *IT_WAS],
        [0, 10, 7, *IT_WAS],
    ]
    with pytest.raises(ValueError, match="max_length=2 must be at least 3, the tokens of the template alone"):
        module(max_length=2).setup()


def test_truncation_keeps_as_much_as_fits_and_cuts_the_longer_text_first(make_tokenizer):
    task = TextTask("pair", "{one} It was{two}", (" bad", " good"), ("0", "1"))
    long = "a" + " fine" * 40
    [prompt] = tokenize_prompts(make_tokenizer(), task, [{"one": long, "two": " film"}], max_length=10)
    assert prompt == [0, 10, *[11] * 5, *IT_WAS, 12]


def test_tokens_that_a_tokenizer_appends_do_not_follow_the_prompt(make_tokenizer):
    tokenizer = make_tokenizer(single="<s> $A </s>")
    assert tokenize_prompts(tokenizer, find_task("sst2"), [{"sentence": "a film"}], 16) == [[0, 10, 12, *IT_WAS]]
    assert label_word_tokens(tokenizer, find_task("sst2")) == [6, 7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([" bad", " good film"], "label word ' good film' is 2 tokens for this tokenizer, must be a single one"),
        ([" bad", " splendid"], "label word ' splendid' is unknown to the tokenizer"),
        ([" bad", " bad"], "label words ' bad' and ' bad' are the same token"),
        (["ful", " bad"], "label word 'ful' merges with the end of the prompt"),
        ([" bad", ""], "label word '' is 0 tokens"),
    ],
)
def test_label_words_must_be_single_tokens(module, words, message):
    with pytest.raises(ValueError, match=message):
        module(label_words=words).setup()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a film\t2", r"train\.tsv line 3: label='2' must be 0 to 1 or one of negative, positive"),
        ("a film\t-1", r"train\.tsv line 3: label='-1' must be"),
        ("a film\tnice", r"train\.tsv line 3: label='nice' must be"),
        ("a film", r"train\.tsv line 3: 1 columns, 2 expected \(sentence, label\)"),
    ],
)
def test_a_broken_row_is_named(module, files, row, message):
    Path(files["train_file"]).write_text(f"sentence\tlabel\na film\t1\n{row}\n")
    with pytest.raises(ValueError, match=message):
        module().setup()


def test_a_missing_column_is_named(module):
    with pytest.raises(ValueError, match=r"train\.tsv line 2: no column 'text', there are sentence, label"):
        module(template="{text} It was").setup()
    with pytest.raises(ValueError, match=r"train\.tsv line 2: no column 'y', there are sentence, label"):
        module(label_column="y").setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sst3"}, "task='sst3' must be one of sst2, sst2-hiso"),
        ({"max_length": 0}, "max_length=0 must be at least 1"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of=0 must be at least 1"),
        ({"train_examples": 0}, "train_examples=0 must be at least 1"),
        ({"validation_file": None}, "validation_file=None must be a file as well"),
        ({"task": "cb", "train_file": None, "validation_file": None}, "task='cb' is not on the hub"),
        ({"label_words": [" bad"]}, "label_words=.* must be 2 words, one for each of the classes negative, positive"),
        ({"classes": ["a", "A"]}, "classes=.* must be at least two distinct names"),
        ({"template": "It was"}, "template='It was' must name columns in braces"),
        ({"template": "{} It was"}, "template='{} It was' must name columns in braces"),
        ({"template": "{sentence It was"}, "template='{sentence It was' is not a format string"),
        ({"template": "{sentence.__class__}"}, "must name columns in braces"),
    ],
)
def test_options_are_checked_when_built(module, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        module(**options)
    assert "\n" not in str(caught.value)


def test_sub_samples_follow_the_split_seed(module):
    def tokens(**options):
        data = module(**options)
        data.setup()
        return [data.splits.train.tokens(i) for i in range(len(data.splits.train))], len(data.splits.val)

    everything, _ = tokens()
    draws = [tokens(train_examples=2, validation_examples=1, split_seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len({str(draw) for draw in draws}) > 1
    for sample, held_out in draws:
        assert len(sample) == 2
        assert all(example in everything for example in sample)
        assert held_out == 1
    with pytest.raises(ValueError, match="train_examples=5 must be at most 4"):
        tokens(train_examples=5)


def test_the_tokenizer_comes_from_the_model_when_none_is_named(module, tokenizer_folder, tmp_path):
    def attached(**network):
        data = module(tokenizer=None)
        data.trainer = SimpleNamespace(
            lightning_module=SimpleNamespace(network=SimpleNamespace(**network)), global_rank=0, world_size=1
        )
        return data

    data = attached(tokenizer_source=tokenizer_folder, max_positions=6, vocabulary_size=13)
    data.setup()
    assert data.splits.train.tokens(2) == [0, 10, 12, *IT_WAS]
    with pytest.raises(ValueError, match="tokenizer=None must be a folder or a name on the hub"):
        attached(tokenizer_source=None).setup()
    with pytest.raises(ValueError, match="max_length must be at most 5, the model's positions: an example has 6"):
        attached(tokenizer_source=tokenizer_folder, max_positions=5).setup()
    with pytest.raises(ValueError, match="tokenizer makes token 12, but the model's vocabulary ends at 11"):
        attached(tokenizer_source=tokenizer_folder, vocabulary_size=12).setup()


def test_a_folder_without_tokenizer_is_refused_in_one_line(module, tmp_path):
    empty = tmp_path / "model"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="the folder holds no tokenizer") as caught:
        module(tokenizer=str(empty)).setup()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no such folder"):
        module(tokenizer=str(tmp_path / "nowhere")).setup()


def test_fingerprints_tell_what_the_model_is_given(module):
    def prints(**options):
        data = module(**options)
        data.setup()
        return data.splits.train.fingerprint()

    assert prints() == prints()
    different = [{}, {"task": "sst2-hiso"}, {"max_length": 5}, {"template": "{sentence} was"}, {"train_examples": 3}]
    assert len({prints(**options) for options in different}) == len(different)


GOLDEN_PRINTS = [
    "372093bfd9d24f35d1f8f680c20b98e96e796535bff9ff175b3faa16b96f4049",
    "6b074eef38bbefc23fb463e4549c7c112930cfb1bae8890b089e4650d67d6049",
]


def test_fingerprints_change_with_the_padding_and_only_then(module):
    def prints(**options):
        data = module(**options)
        data.setup()
        return [data.splits.train.fingerprint(), data.splits.val.fingerprint()]

    # what the default gave before there was the option
    assert prints(pad_to_multiple_of=1) == prints() == GOLDEN_PRINTS
    different = [prints(pad_to_multiple_of=multiple) for multiple in (1, 4, 8)]
    assert len({train for train, _ in different}) == len({val for _, val in different}) == 3


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, [5, 6]),
        ({"pad_to_multiple_of": 4}, [8, 8]),
        ({"pad_to_multiple_of": 5}, [5, 10]),
        ({"pad_to_multiple_of": 5, "max_length": 7}, [5, 7]),
        ({"pad_to_multiple_of": 6}, [6, 6]),
        ({"pad_to_multiple_of": 100}, [100, 100]),
        ({"pad_to_multiple_of": 1000}, [256, 256]),  # max_length
    ],
)
def test_batches_are_padded_to_buckets_within_max_length(module, options, lengths):
    data, plain = module(**options), module()
    data.setup()
    plain.setup()
    for indices, length in zip((np.array([2]), np.array([2, 0])), lengths, strict=True):
        batch, unpadded = data.splits.train.collate(indices), plain.splits.train.collate(indices)
        width = unpadded["input_ids"].shape[1]
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(indices), length)
        assert set(batch["input_ids"][:, width:].unique().tolist()) <= {1}
        assert not batch["attention_mask"][:, width:].any()
        for name, values in unpadded.items():
            cut = batch[name][:, :width] if name in ("input_ids", "attention_mask") else batch[name]
            assert torch.equal(cut, values)


def test_rounds_and_evaluation_are_padded_to_buckets_the_model_has_positions_for(module, tokenizer_folder):
    data = module(pad_to_multiple_of=4, max_length=30, eval_batch_size=1)
    network = SimpleNamespace(tokenizer_source=tokenizer_folder, max_positions=7, vocabulary_size=13)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(network=network), global_rank=0, world_size=1)
    data.setup()
    minibatches = [batch for slot in next(iter(data.train_dataloader())).batches for batch in slot]
    assert {batch["input_ids"].shape[1] for batch in minibatches} == {7}
    assert {batch["input_ids"].shape[1] for batch in data.val_dataloader()} == {7}


def test_sentences_and_pairs(module, make_tokenizer, tmp_path):
    data = module(SentenceClassification)
    data.setup()
    assert data.splits.train.tokens(0) == [0, 10, 11, 12]
    assert set(data.splits.train.collate(np.array([0]))) == {"input_ids", "attention_mask", "label"}

    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = make_tokenizer("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", model_input_names=names)
    tokenizer.save_pretrained(tmp_path / "pairs")
    table = tmp_path / "pairs.csv"
    table.write_text("sentence1,sentence2,label\na fine film,a film,entailment\na film,a,1\n")
    data = module(
        SentenceClassification,
        task="rte",
        train_file=str(table),
        validation_file=str(table),
        test_file=str(table),
        tokenizer=str(tmp_path / "pairs"),
        max_length=7,
    )
    data.setup()
    batch = data.splits.test.collate(np.array([0, 1]))
    assert batch["input_ids"].tolist() == [[0, 10, 11, 3, 10, 12, 3], [0, 10, 12, 3, 10, 3, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 0]]
    data.splits.test.pad_to_multiples(8, 256)
    wide = data.splits.test.collate(np.array([0, 1]))
    assert wide["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0, 0]]
    assert batch["label"].tolist() == [0, 1]


def test_three_columns_are_no_pair(module):
    with pytest.raises(ValueError, match="names 3 columns, must be 1 or 2"):
        module(SentenceClassification, template="{a}{b}{c}")


def test_the_hub_is_asked_for_the_tasks_data(monkeypatch, tokenizer_folder):
    import datasets

    asked = []

    def load_dataset(path, name, split):
        asked.append((path, name, split))
        return datasets.Dataset.from_dict({"passage": ["a film", "a"], "question": ["a", "a"], "answer": [True, False]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = PromptData(task="boolq", label_words=[" bad", " good"], tokenizer=tokenizer_folder, clients=1, cohort=1)
    data.prepare_data()
    data.setup()
    assert asked == [("google/boolq", None, "train"), ("google/boolq", None, "validation")] * 2
    assert data.splits.val.labels.tolist() == [1, 0]

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"google/boolq/train cannot be had from the hub \(no route to host\)"):
        data.prepare_data()
