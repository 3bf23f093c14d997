"""The order of the classes: of the task, of a data set's own names, and of a pretrained head."""

from __future__ import annotations

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers

from hiso_pl.class_names import places, says_something
from hiso_pl.data import DigitsData, ModelFacts
from hiso_pl.data.facts import facts_of
from hiso_pl.data.tasks import ClassificationOptions, GenerationOptions, find_task
from hiso_pl.data.text import PromptData, SentenceClassification
from hiso_pl.models import ImageClassifier, SequenceClassifier
from hiso_pl.zeroth_order import Method

NAMES = ("negative", "positive")
TEXTS = ["a fine film", "a bad film", "a film", "a great film", "a terrible film", "a good film", "fine"]
LABELS = [1, 0, 0, 1, 0, 1, 1]  # of an odd number no half is right
OWN = {"template": "{sentence} It was", "label_words": [" bad", " good"]}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HISO_PL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path):
    """The rows as files; what is given are the labels."""

    def write(labels=tuple(NAMES[label] for label in LABELS)):
        path = tmp_path / "rows.jsonl"
        rows = [{"sentence": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"train_file": str(path), "validation_file": str(path)}

    return write


@pytest.fixture
def module(tokenizer_folder):
    def make(kind=PromptData, facts=None, **options):
        options = {"task": "sst2-hiso", "tokenizer": tokenizer_folder, **options}
        data = kind(clients=2, cohort=1, batch_size=2, **options)
        if facts is not None:
            data.take(facts)
        data.setup()
        return data

    return make


def named(names, labels=LABELS):
    """A data set whose label column calls its numbers so; ``labels`` are places in :data:`NAMES`."""
    numbers = [list(names).index(NAMES[label]) if NAMES[label] in names else label for label in labels]
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"sentence": TEXTS, "label": numbers}, features=features)


@pytest.mark.parametrize("names", [["negative", "positive"], ["positive", "negative"], ["POSITIVE", "Negative"]])
@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_data_set_that_names_its_classes_is_read_by_name(module, files, tmp_path, names, form):
    expected = module(**files()).fingerprints()
    spelt = ["positive" if name == "POSITIVE" else "negative" if name == "Negative" else name for name in names]
    data = named(spelt)
    data = data.cast_column("label", datasets.ClassLabel(names=names)) if spelt == names else data
    if form == "saved":
        datasets.DatasetDict({"train": data, "validation": data}).save_to_disk(tmp_path / "saved")
        options = {"dataset": str(tmp_path / "saved")}
    else:
        data.to_parquet(tmp_path / "rows.parquet")
        options = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "rows.parquet"))
    for _ in range(2):  # read, and from the cache
        assert module(**options).fingerprints() == expected
    assert module(cache=False, **options).fingerprints() == expected


@pytest.mark.parametrize(
    ("names", "task", "message"),
    [
        (["bad", "good"], "sst2", "column 'label' has the classes bad, good, the task 'sst2' negative, positive: n"),
        (["negative", "neutral", "positive"], "sst2", r"has 3 classes \(negative, neutral, positive\), the task "),
        (["positive", "neutral"], "sst2", "has the classes positive, neutral, the task 'sst2' negative, positive"),
    ],
)
def test_a_data_set_of_other_classes_is_refused(module, tmp_path, names, task, message):
    named(names).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=message) as caught:
        module(task=task, dataset=str(tmp_path / "saved"), validation_fraction=0.5)
    assert "\n" not in str(caught.value)
    if len(names) == 2:  # as it says
        module(task=task, classes=names, dataset=str(tmp_path / "saved"), validation_fraction=0.5)


@pytest.mark.parametrize("names", [["0", "1"], ["bad one", "good one"]])
def test_names_that_cannot_be_compared_leave_numbers_as_they_are(module, files, tmp_path, names):
    """Numbers say nothing, and a task that calls its classes by their label words has not named them."""
    task = ClassificationOptions(**OWN) if names[0] != "0" else "sst2"
    named(names).save_to_disk(tmp_path / "saved")
    data = module(task=task, dataset=str(tmp_path / "saved"), validation_fraction=0.5)
    expected = module(task=task, train_file=files(LABELS)["train_file"], validation_fraction=0.5)
    assert data.fingerprints() == expected.fingerprints()


def test_published_names_of_a_task_that_has_its_own():
    task = find_task("qqp")
    assert task.label_places(["not_duplicate", "duplicate"], "x") is None
    assert task.label_places(["duplicate", "not duplicate"], "x") == (1, 0)
    assert task.label({"label": "not_duplicate"}, "x") == 0


@pytest.mark.parametrize(
    ("label", "found"),
    [(1, 1), (0, 0), (1.0, 1), ("1", 1), ("1.0", 1), (" Positive ", 1), ("NEGATIVE", 0)]
    + [(label, None) for label in (2, -1, 0.5, True, False, "pos", "1.5", "", "-0")],
)
def test_values_of_labels(module, files, label, found):
    options = files([label, *LABELS[1:]])
    if found is None:
        with pytest.raises(ValueError, match=r"rows\.jsonl line 1: .*(0 to 1 or one of negative|label)") as caught:
            module(**options)
        assert "\n" not in str(caught.value)
    else:
        assert module(**options).splits.train.labels.tolist() == [found, *LABELS[1:]]


def test_classes_called_by_numbers_are_not_numbered_otherwise():
    task = find_task("sst2").changed(classes=["1", "2"])
    assert [task.label({"label": text}, "x") for text in ("1", "2", "2.0")] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"^x: label='0' must be one of 1, 2$"):
        task.label({"label": "0"}, "x")


# A pretrained head


def facts(labels=None, count=2):
    return ModelFacts(num_labels=count, labels=labels)


@pytest.mark.parametrize("kind", [PromptData, SentenceClassification])
def test_labels_are_numbered_as_a_pretrained_head_has_them(module, files, kind):
    plain = module(kind, **files())
    for labels in (NAMES, ("Negative", "POSITIVE"), None):
        assert module(kind, facts(labels), **files()).fingerprints() == plain.fingerprints()
    data = module(kind, facts(("Positive", "negative")), **files())
    for split in data.splits[:2]:
        assert split.labels.tolist() == [1 - label for label in LABELS]
        assert split.classes == ("positive", "negative")
        assert split.collate(np.arange(7))["label"].tolist() == [1 - label for label in LABELS]
    assert data.fingerprints() != plain.fingerprints()


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (facts(count=3), {}, "^num_labels=3 of the network must be the number of the data's classes, 2: n"),
        (facts(("good", "bad")), {}, "^the model calls its classes good, bad, the data negative, positive: they must"),
        (facts(("neutral", "positive")), {}, "^the model calls its classes neutral, positive, the data negative, pos"),
        (
            facts(),
            {"task": GenerationOptions("{sentence}", answer="label")},
            "^num_labels=2 of the network must be the number of the data's classes, none to tell apart$",
        ),
    ],
)
def test_other_classes_than_the_heads_are_refused(module, files, given, more, message):
    with pytest.raises(ValueError, match=message):
        module(PromptData, given, **files(), **more)


def test_data_are_renamed_by_an_option(module, files, caplog):
    data = module(PromptData, facts(("good", "bad")), classes=["bad", "good"], **files(LABELS))
    assert data.splits.train.labels.tolist() == [1 - label for label in LABELS]
    # label words are no names: they are taken in the order they come in, and that is said
    own = ClassificationOptions("{sentence} It", label_words=[" good", " great"])
    data = module(PromptData, facts(("x", "y")), task=own, **files(LABELS))
    assert data.splits.train.labels.tolist() == LABELS
    assert "The model calls its classes x, y, the data good, great: they are taken to be in the same" in caplog.text


def test_the_test_split_has_labels_of_its_classes_too(monkeypatch):
    data = DigitsData(clients=2, cohort=1)
    splits = data.load()
    splits.test.labels = np.where(np.arange(len(splits.test)) == 5, -100, splits.test.labels)
    monkeypatch.setattr(data, "load", lambda: splits)
    with pytest.raises(ValueError, match=r"^test labels in \[-100, 9\] must be in \[0, 10\)"):
        data.setup()


def test_digits_and_images_too(tmp_path):
    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
        id2label={i: str(name) for i, name in enumerate(order)},
    )  # fmt: skip
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    network = ImageClassifier(str(tmp_path))
    data, plain = DigitsData(clients=2, cohort=1), DigitsData(clients=2, cohort=1)
    data.take(facts_of(SimpleNamespace(network=network, method=Method(), change_on_resume=[])))
    for one in (data, plain):
        one.setup()
    found, true = data.splits.train, plain.splits.train
    assert [order[label] for label in found.labels] == true.labels.tolist()
    assert found.classes == tuple(map(str, order))
    assert ImageClassifier(str(tmp_path), num_labels=5).labels is None  # whose head is new
    data = DigitsData(clients=2, cohort=1)
    data.take(facts(count=5))
    with pytest.raises(ValueError, match=r"^num_labels=5 of the network must be the number of .*, 10: 0, 1"):
        data.setup()


def test_the_accuracy_of_a_head_is_that_of_its_names(module, files, tmp_path, make_tokenizer):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        initializer_range=0.5, id2label={0: "positive", 1: "negative"}, label2id={"positive": 0, "negative": 1},
    )  # fmt: skip
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "bert")
    network = SequenceClassifier(str(tmp_path / "bert"))
    assert network.labels == ("positive", "negative")
    told = facts_of(SimpleNamespace(network=network, method=Method(), change_on_resume=[]))
    data = module(SentenceClassification, told, **files())
    val = data.splits.val
    with torch.no_grad():
        evaluation = network.evaluate(val.collate(np.arange(7)))
    found = val.measure.combine(val.measure.rows(np.arange(7), evaluation))["accuracy"]

    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    right, tokenizer = 0, make_tokenizer()
    for text, label in zip(TEXTS, LABELS, strict=True):
        with torch.no_grad():
            said = model(tokenizer(text, return_tensors="pt").input_ids).logits.argmax().item()
        right += model.config.id2label[said] == NAMES[label]
    assert found == right / 7
    lines = val.measure.lines(np.arange(7), evaluation)
    assert [line["label"] for line in lines] == [NAMES[label] for label in LABELS]
    assert all(max(line["scores"], key=line["scores"].get) == line["prediction"] for line in lines)


def test_a_head_that_is_new_or_says_nothing_has_no_order(tmp_path):
    sizes = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=32, id2label={0: "b", 1: "a"})
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "new")
    assert SequenceClassifier(str(tmp_path / "new")).labels is None
    config = transformers.BertConfig(**sizes, intermediate_size=32)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "plain")
    assert SequenceClassifier(str(tmp_path / "plain")).labels is None


@pytest.mark.parametrize(
    ("told", "ours", "found"),
    [
        (("a", "b"), ("b", "A"), (1, 0)),
        (("NOT-ENTAILMENT", " entailment"), ("entailment", "not_entailment"), (1, 0)),
        (("+", "-"), ("-", "+"), (1, 0)),
        (("a", "a"), ("a", "a"), None),
        (("a", "b"), ("a", "c"), None),
    ],
)
def test_places_of_names(told, ours, found):
    assert places(told, ours) == found


def test_names_that_say_something():
    assert says_something(("1", "0"))
    assert says_something(("3 stars", "1 star"))
    for names in (("LABEL_0", "LABEL_1"), ("0", "1", "2"), ("class 0", "class 1"), ("a", ""), ("a", "A")):
        assert not says_something(names)
