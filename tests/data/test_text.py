"""Text tasks from file to batch: prompts, tokens, truncation, labels, label words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from hiso_pl.data.facts import ModelFacts
from hiso_pl.data.tasks import ClassificationOptions, ClassificationTask, GenerationOptions, find_task
from hiso_pl.data.text import PromptData, SentenceClassification
from hiso_pl.data.text.encoding import encode_prompts, encode_sentences
from hiso_pl.data.text.prompts import Limit, label_word_tokens
from hiso_pl.data.tokenized import Ragged
from hiso_pl.federation import LabelFlip, SignFlip

IT_WAS = [8, 9]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISO_PL_CACHE", str(tmp_path / "cache"))


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
    assert data.splits.train.cut.tolist() == [True, True, False, True]
    with pytest.raises(
        ValueError, match=r"train\.tsv line 2: max_length=2 must be at least 3, the tokens of what is never cut$"
    ):
        module(max_length=2).setup()


def test_truncation_keeps_as_much_as_fits_and_cuts_the_longer_text_first(make_tokenizer):
    def cut(*columns, **texts):
        task = ClassificationTask(
            name="pair", template="{one} It was {two}", label_words=(" bad", " good"), classes=("0", "1"), cut=columns
        )
        arrays = encode_prompts(make_tokenizer(), task, [("here", {**texts, "label": "0"})], Limit(10))
        return arrays["tokens"].tolist()

    long = "a" + " fine" * 40
    assert cut(one=long, two="film") == [0, 10, *[11] * 5, *IT_WAS, 12]
    # only the columns that the task names are cut, be another one longer
    other = "film fine fine fine fine"
    assert cut("one", one="a fine fine fine", two=other) == [0, 10, 11, *IT_WAS, 12, 11, 11, 11, 11]
    message = "^here: max_length=10 must be at least 45, the tokens of what is never cut$"
    with pytest.raises(ValueError, match=message):
        cut("two", one=long, two="film")


def test_tokens_that_a_tokenizer_appends_do_not_follow_the_prompt(make_tokenizer):
    tokenizer = make_tokenizer(single="<s> $A </s>")
    arrays = encode_prompts(tokenizer, find_task("sst2"), [("x", {"sentence": "a film", "label": "1"})], Limit(16))
    assert arrays["tokens"].tolist() == [0, 10, 12, *IT_WAS]
    assert label_word_tokens(tokenizer, find_task("sst2")) == [[6], [7]]


def test_tokens_do_not_depend_on_how_the_tokenizer_was_saved(make_tokenizer, monkeypatch):
    """Some are saved with padding or truncation switched on; and plain Python ones have no backend to ask."""
    rows = [("x", {"sentence": "a" + " fine" * n, "label": "1"}) for n in (1, 9, 3)]
    task = find_task("sst2")
    expected = encode_prompts(make_tokenizer(), task, rows, Limit(16))["tokens"].tolist()
    odd = make_tokenizer()
    odd.backend_tokenizer.enable_padding(length=20)
    odd.backend_tokenizer.enable_truncation(3)
    assert encode_prompts(odd, task, rows, Limit(16))["tokens"].tolist() == expected
    sentences = encode_sentences(make_tokenizer(), task, rows, Limit(16))["tokens"].tolist()
    odd.backend_tokenizer.enable_truncation(3)
    assert encode_sentences(odd, task, rows, Limit(16))["tokens"].tolist() == sentences
    monkeypatch.setattr("hiso_pl.data.text.tokenizing._by_backend", lambda *_: None)
    assert encode_prompts(make_tokenizer(), task, rows, Limit(16))["tokens"].tolist() == expected
    assert encode_sentences(make_tokenizer(), task, rows, Limit(16))["tokens"].tolist() == sentences


def test_label_words_that_differ_as_text_but_not_as_tokens(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    task = find_task("sst2-hiso").changed(template="{sentence} was", label_words=[" bad", " Bad"])
    with pytest.raises(ValueError, match="label words ' bad' and ' Bad' are the same tokens, must be distinct"):
        label_word_tokens(tokenizer, task)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([" bad", " splendid"], "label word ' splendid' is unknown to the tokenizer"),
        ([" bad", " bad"], "label words ' bad' and ' bad' are the same tokens"),
        (["ful", " bad"], "label word 'ful' merges with the end of the prompt"),
        ([" bad", ""], "label word '' is 0 tokens"),
    ],
)
def test_label_words_must_be_tokens_of_their_own(module, words, message):
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
        ({"test_examples": 0}, "test_examples=0 must be at least 1"),
        ({"test_examples": 5}, "test_examples=5 needs test_file or test_split"),
        ({"padding_side": "top"}, "padding_side='top' must be right or left"),
        ({"validation_file": None}, "validation_file=None must be a file as well"),
        ({"train_file": None}, "train_file=None must be a file as well"),
        ({"validation_fraction": 0.5}, r"validation_file='.*val\.jsonl' and validation_fraction exclude each other"),
        ({"validation_fraction": 1.0, "validation_file": None}, r"validation_fraction=1\.0 must be between 0 and 1"),
        ({"dataset": "glue"}, "dataset='glue' and train_file or validation_file exclude each other"),
        ({"dataset_name": "sst2"}, "dataset_name='sst2' must be left out"),
        ({"train_split": "train"}, "train_split='train' must be left out"),
        (
            {"task": ClassificationOptions("{a}", [" a", " b"]), "train_file": None, "validation_file": None},
            "task='own' is not on the hub: train_file and validation_file, or dataset, must be given",
        ),
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
        data.take(ModelFacts(**network))
        return data

    data = attached(tokenizer_source=tokenizer_folder, max_positions=6, vocabulary_size=13)
    data.setup()
    assert data.splits.train.tokens(2) == [0, 10, 12, *IT_WAS]
    with pytest.raises(ValueError, match="tokenizer=None must be a folder or a name on the hub"):
        attached(tokenizer_source=None).setup()
    data = attached(tokenizer_source=tokenizer_folder, max_positions=5)
    data.setup()
    assert data.splits.train.tokens(0) == [0, 10, 11, *IT_WAS]
    message = r"train\.tsv line 2: the model has 2 positions, must have 3, the tokens of what is never cut"
    with pytest.raises(ValueError, match=message):
        attached(tokenizer_source=tokenizer_folder, max_positions=2).setup()
    with pytest.raises(ValueError, match="tokenizer makes token 12, but the model's vocabulary ends at 11"):
        attached(tokenizer_source=tokenizer_folder, vocabulary_size=12).setup()


def test_a_trainer_without_the_models_facts_is_refused(module):
    data = module()
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)
    with pytest.raises(
        ValueError, match=r"hand it over by data\.take\(facts_of\(module\)\) before the trainer starts$"
    ):
        data.setup("fit")


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
    data.take(ModelFacts(tokenizer_source=tokenizer_folder, max_positions=7, vocabulary_size=13))
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
    with pytest.raises(ValueError, match="task='own' generates its answers, must be one with classes"):
        module(SentenceClassification, task=GenerationOptions("{a}", "b"))


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
    assert asked == [("google/boolq", None, "train"), ("google/boolq", None, "validation")]
    assert data.splits.val.labels.tolist() == [1, 0]
    assert data.splits.val.text(0) == "a Ġfilm"  # the tokenizer knows no other word of it, and has no decoder

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    data = PromptData(task="boolq", label_words=[" bad", " good"], tokenizer=tokenizer_folder, clients=1, cohort=1)
    with pytest.raises(
        ValueError, match=r"google/boolq/train' is not on this machine, and HF_HUB_OFFLINE is set: give train_file"
    ):
        data.prepare_data()


def test_left_padding_moves_the_padding_and_what_points_behind_it(module):
    right, left = module(), module(padding_side="left")
    right.setup()
    left.setup()
    assert right.splits.train.fingerprint() != left.splits.train.fingerprint()
    batches = [data.splits.train.collate(np.array([2, 0])) for data in (right, left)]
    assert batches[1]["input_ids"].tolist() == [[1, 0, 10, 12, *IT_WAS], [0, 10, 11, 12, *IT_WAS]]
    assert batches[1]["attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1], [1] * 6]
    assert batches[1]["answer_position"].tolist() == [5, 5]
    for name in ("label", "label_words"):
        assert torch.equal(batches[0][name], batches[1][name])


def test_a_part_of_the_training_examples_can_be_held_out(module, files):
    rows = "".join(f"a{' fine' * n} film\t{n % 2}\n" for n in range(20))
    Path(files["train_file"]).write_text(f"sentence\tlabel\n{rows}")

    def lengths(**options):
        data = module(validation_file=None, **{"validation_fraction": 0.3, **options})
        data.setup()
        return [set(split.lengths.tolist()) for split in data.splits[:2]]

    train, val = lengths()
    assert (len(train), len(val)) == (14, 6)
    assert not train & val
    assert lengths() == [train, val]
    assert lengths(split_seed=1)[1] != val
    some, few = lengths(train_examples=5, validation_examples=2)
    assert (len(some), len(few)) == (5, 2)
    assert some < train
    assert few < val
    with pytest.raises(ValueError, match=r"validation_fraction=0\.01 of 20 training examples is 0, must be 1 to 19"):
        lengths(validation_fraction=0.01)


def test_an_own_task_and_macro_f1(module):
    options = ClassificationOptions("{sentence} It was", [" bad", " good"], metrics=["accuracy", "macro_f1"])
    data = module(task=options, classes=["negative", "positive"])
    data.setup()
    named = module(task="sst2-hiso")
    named.setup()
    assert data.fingerprints() == named.fingerprints()
    table = np.array([[0.0, 1.0], [1.0, 1.0]])
    assert set(data.splits.val.measure.combine(table)) == {"accuracy", "macro_f1"}
    assert set(named.splits.val.measure.combine(table)) == {"accuracy"}


def test_what_is_known_of_examples(module, files):
    text = "sentence\tlabel\tauthor\na fine film\t1\tann\na film\t0\tZoe\na bad film\t0\tann\n"
    Path(files["train_file"]).write_text(text)
    data = module()
    data.partition = SimpleNamespace(column="author", attribute="label", minimum=1, __call__=None)
    examples = data.load().train
    assert examples.attribute("label").tolist() == [1, 0, 0]
    assert examples.attribute("length").tolist() == [6, 5, 6]
    assert examples.attribute("column:author").tolist() == [1, 0, 1]
    assert examples.text(2) == "a Ġbad Ġfilm ĠIt Ġwas"  # the tokenizer has no decoder; and no <s>
    with pytest.raises(ValueError, match="attribute='column:idx' must be one of label, length, column:author"):
        examples.attribute("column:idx")
    data = module()
    data.partition = SimpleNamespace(column="site")
    with pytest.raises(ValueError, match=r"train\.tsv line 2: no column 'site', there are sentence, label, author"):
        data.load()


def test_statistics_of_splits_and_clients(module, caplog):
    data = module(max_length=5)
    with caplog.at_level("INFO", logger="hiso_pl.data.text"):
        data.setup()
    assert [record.message for record in caplog.records] == [
        "training: 4 examples of 5 to 5 tokens (median 5); 3 cut; labels negative 2, positive 2",
        "validation: 2 examples of 5 to 5 tokens (median 5); 2 cut; labels negative 1, positive 1",
    ]
    found = data.statistics()
    assert found["train"] == {
        "examples": 4,
        "tokens": {"min": 5, "median": 5.0, "max": 5},
        "cut": 3,
        "labels": {"negative": 2, "positive": 2},
    }
    assert [client["examples"] for client in found["clients"]] == [2, 2]
    assert sum(client["cut"] for client in found["clients"]) == 3
    lines = data.describe_clients().splitlines()
    assert lines[0] == "| client | examples | shortest | median | longest | cut | negative | positive |"
    assert lines[2].startswith("| 0 | 2 | 5 | 5 | 5 | ")
    assert len(lines) == 4


def test_sentences_that_are_too_long_are_cut_and_counted(module, files, tokenizer_folder):
    data = module(SentenceClassification, max_length=3)
    data.setup()
    assert data.splits.train.tokens(0) == [0, 10, 11]
    assert data.splits.train.cut.tolist() == [True, True, False, True]
    short = module(SentenceClassification, tokenizer=None)
    short.take(ModelFacts(tokenizer_source=tokenizer_folder, max_positions=3))
    short.setup()
    assert short.fingerprints() == data.fingerprints()


def test_ragged_sequences():
    ragged = Ragged.of([[1, 2], [], [3]])
    assert [ragged[i].tolist() for i in range(3)] == [[1, 2], [], [3]]


def test_labels_are_flipped_of_label_words_candidates_and_sentences_and_refused_of_answers(module):
    facts = ModelFacts(attack=LabelFlip(1.0), seed=0)
    for kind, options in (
        (PromptData, {"task": "sst2-hiso"}),
        (PromptData, {"task": "sst2-hiso", "label_words": [" bad film", " good"]}),
        (SentenceClassification, {"task": "sst2"}),
    ):
        labels = []
        for told in (facts, facts._replace(attack=SignFlip(1.0))):
            data = module(kind, **options)
            data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)
            data.take(told)
            data.setup()
            one = next(iter(data.train_dataloader()))
            labels.append([batch["label"].tolist() for batches in one.batches for batch in batches])
        assert labels[0] == [[1 - label for label in batch] for batch in labels[1]]
    answers = GenerationOptions(template="{sentence} It", answer="sentence", stop="", max_new_tokens=4)
    data = module(task=answers, cache=False, train_file="nowhere.tsv")
    with pytest.raises(ValueError, match=r"attack=LabelFlip\(.*flips labels, so the task must be one with classes"):
        data.take(facts)  # before anything is read
