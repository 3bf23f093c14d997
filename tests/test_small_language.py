"""The text follows its grammar and its seed, the model learns from it, and the folder is whole or not there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys

import pytest
import torch
import transformers

from hiso_pl.small_language import corpus, encoder, grammar, lexicon, pretraining, program, vision
from hiso_pl.small_language.folder import FACTS
from hiso_pl.small_language.tokenizer import SPECIAL, train_tokenizer

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
FILES = {
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("train.tsv", "validation.tsv", "test.tsv", "pretraining.txt", FACTS),
}


@pytest.fixture(autouse=True)
def _process():
    """The program sets up the process it runs in; here that is the tests' own."""
    hiso_pl = logging.getLogger("hiso_pl")
    level, threads, state = hiso_pl.level, torch.get_num_threads(), torch.get_rng_state()
    yield
    hiso_pl.setLevel(level)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def tiny(monkeypatch):
    """Little text, so that a folder is made in a second."""
    monkeypatch.setattr(corpus, "EXAMPLES", {"train": 40, "validation": 20, "test": 20})
    monkeypatch.setattr(corpus.documents, "__defaults__", (600,))


def make(folder, *more):
    return program.main(["--output", str(folder), "--steps", "2", *more])


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_text_is_a_function_of_the_seed():
    def text(seed):
        sentences = [example.text for split in corpus.EXAMPLES for example in corpus.examples(seed, split, 50)]
        return [*corpus.documents(seed, 200), *sentences]

    assert text(1) == text(1)
    assert len(set(text(1)) & set(text(2))) < 10  # short ones may meet
    # constants: another text under the same version would be taken for the one of an earlier folder
    assert text(1)[0] == "In short: delightful, fresh, lovely, lovely, charming, friendly, charming."
    assert text(1)[199] == "We ordered the soup and the fish. The main course was both terrible and bland."
    assert text(1)[-1] == "The manual managed to disappoint us."


def test_no_clause_of_a_split_occurs_in_another_or_in_the_pretraining_text():
    text = "\n".join(corpus.documents(1, 12_000)).lower()
    clauses = {}
    for split, count in corpus.EXAMPLES.items():
        found = corpus.examples(1, split, count)
        assert len({example.text for example in found}) == len(found) == count
        assert sum(example.label for example in found) * 2 == count
        clauses[split] = {clause for example in found for clause in example.clauses}
        for example in found:
            assert all(clause in example.text.lower() for clause in example.clauses)
    assert not any(clause in text for clause in clauses["test"])
    names = list(clauses)
    assert not any(clauses[a] & clauses[b] for i, a in enumerate(names) for b in names[:i])


def judge(clause):
    """What a clause says, by a list of words: 1 or -1, turned over by what denies it."""
    praise, blame = (set(words).union(*more) for words, more in JUDGEMENTS)
    words = clause.replace(",", "").split()
    found = {1 for word in words if word in praise} | {-1 for word in words if word in blame}
    assert len(found) == 1, clause
    denied = sum(word in ("not", "never", "hardly", "nothing", "nobody", "failed") for word in words)
    denied += clause.count("far from") + clause.count("anything but")
    return found.pop() * (-1) ** denied


JUDGEMENTS = (
    (lexicon.PRAISE, [d.praise for d in lexicon.DOMAINS] + [*lexicon.LIKING, *lexicon.PLEASING]),
    (lexicon.BLAME, [d.blame for d in lexicon.DOMAINS] + [*lexicon.DISLIKING, *lexicon.DISPLEASING]),
)


def test_labels_follow_from_words_denials_and_conjunctions():
    seen = {"denied": 0, "but": 0, "although": 0, "even though": 0}
    for example in corpus.examples(1, "train", 2000):
        text = example.text.lower().rstrip(".")
        counts = text
        if ", but " in text:
            counts = text.split(", but ")[1]
        elif text.startswith("although "):
            counts = text.split(", ")[1]
        elif ", even though " in text:
            counts = text.split(", even though ")[0]
        signs = {judge(c) for c in example.clauses if c in counts}
        assert signs == {2 * example.label - 1}, example
        if counts is not text:
            assert {judge(clause) for clause in example.clauses} == {1, -1}
        seen["denied"] += any(word in text for word in (" not ", " never ", " hardly ", "nobody", "nothing"))
        for word in ("but", "although", "even though"):
            seen[word] += f"{word} " in text
    assert min(seen.values()) > 10
    assert seen["denied"] > 300


def test_splits_have_their_shares_of_all_clauses():
    found = [grammar.split_of(f"clause {i}") for i in range(4000)]
    for split, share in grammar.SHARES.items():
        assert found.count(split) / 40 == pytest.approx(share, abs=2.5)


def test_the_tokenizer_gives_texts_back_and_has_the_words_whole():
    documents = corpus.documents(1)
    tokenizer = train_tokenizer(documents, 1024)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3]
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for text in [*documents[::4001], "Zürich naïve 北京 <b>\n\t 3.14", "It was good"]:
        ids = tokenizer(text).input_ids
        assert ids[0] == 0
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert 3 not in ids
    for word in (" good", " bad", " great", " terrible", " was", " disappointing"):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    assert train_tokenizer(documents, 1024).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_pretraining_lowers_the_loss_and_repeats():
    documents = corpus.documents(1, 1500)
    tokenizer = train_tokenizer(documents, 600)
    tokens = [[*ids, 2][: pretraining.POSITIONS] for ids in tokenizer(documents).input_ids]

    def train():
        model = pretraining.new_model(len(tokenizer), seed=3)
        losses = pretraining.pretrain(model, tokens, 8, seed=3)
        return losses, [p.detach().clone() for p in model.parameters()]

    losses, weights = train()
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.5
    again, weights_again = train()
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again, strict=True))


def test_minibatches_read_every_document_once_and_in_about_their_order():
    documents = [[i] * (1 + i * 7 % 13) for i in range(2500)]
    batches = pretraining.minibatches(documents, seed=1)
    taken = [next(batches) for _ in range(40)]
    assert sorted(document[0] for batch in taken for document in batch) == list(range(2500))
    assert max(document[0] for batch in taken[:16] for document in batch) < 1024
    padded = sum(len(batch) * max(map(len, batch)) for batch in taken)
    assert padded < 1.15 * sum(map(len, documents))
    assert next(batches)[0][0] < 1024  # and once more from the start


def test_a_folder_is_used_again_or_made_anew(tmp_path, tiny, caplog):
    folder = tmp_path / "small"
    assert make(folder) == 0
    # transformers 4 writes the special tokens to a file of their own as well
    assert {path.name for path in folder.iterdir()} - {"special_tokens_map.json"} == FILES
    first, stamp = digests(folder), folder.stat().st_ino
    transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert transformers.AutoTokenizer.from_pretrained(folder)(" good").input_ids[0] == 0

    assert make(folder) == 0
    assert folder.stat().st_ino == stamp
    assert "made earlier" in caplog.text

    for damage in (
        lambda: (folder / "model.safetensors").unlink(),
        lambda: (folder / "train.tsv").write_text("sentence\tlabel\n"),
        lambda: (folder / FACTS).write_text('{"version": 1'),
        lambda: (folder / FACTS).write_text(json.dumps(json.loads((folder / FACTS).read_text()) | {"version": 0})),
    ):
        damage()
        assert make(folder) == 0
        assert digests(folder) == first

    assert make(folder, "--seed", "2") == 0
    second = digests(folder)
    assert {name for name in FILES if first[name] != second[name]} >= {"model.safetensors", "train.tsv", FACTS}
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_broken_off_leaves_nothing_that_is_taken_for_a_folder(tmp_path, tiny, monkeypatch, capsys):
    folder = tmp_path / "small"

    def fail(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", fail)
        assert make(folder) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "hiso-pl: error: no space left on device"
    assert not list(tmp_path.iterdir())

    # killed where nothing could be tidied: a part of a process that is no more, beside one of a living process
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f".small.{pid}.part").mkdir()
        (tmp_path / f".small.{pid}.part" / "train.tsv").write_text("")
    other = tmp_path / ".small.-1.part"
    other.mkdir()
    assert make(folder) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"small", f".small.{os.getppid()}.part", other.name}
    kept = tmp_path / f".small.{dead.pid}.part"
    kept.mkdir()
    (kept / "thesis.txt").write_text("years of work")
    (folder / "thesis.txt").write_text("years of work")
    assert make(folder, "--seed", "2") == 1
    assert (folder / "thesis.txt").exists()
    (folder / "thesis.txt").unlink()
    assert make(folder, "--seed", "2") == 0
    assert (kept / "thesis.txt").exists()


def test_the_tables_say_what_is_reviewed(tmp_path, tiny):
    make(tmp_path / "small")
    aspects = {domain.name: domain.aspects for domain in lexicon.DOMAINS}
    for split in corpus.EXAMPLES:
        head, *rows = (tmp_path / "small" / f"{split}.tsv").read_text().splitlines()
        assert head == "sentence\tlabel\tdomain"
        for sentence, label, domain in (row.split("\t") for row in rows):
            assert any(aspect in sentence.lower() for aspect in aspects[domain])
            assert label in "01"


@pytest.mark.parametrize(
    ("kind", "auto", "until"),
    [
        ("encoder", transformers.AutoModelForSequenceClassification, encoder.UNTIL),
        ("vit", transformers.AutoModelForImageClassification, vision.UNTIL),
    ],
)
def test_other_kinds_are_trained_until_they_are_better_than_chance_and_no_further(kind, auto, until, tmp_path, tiny):
    folder = tmp_path / kind
    assert program.main(["--output", str(folder), "--kind", kind]) == 0
    facts = json.loads((folder / FACTS).read_text())
    assert facts["loss"]["first"] > facts["loss"]["last"]
    assert until - 0.4 < facts["loss"]["last"] < until + 0.1
    model = auto.from_pretrained(folder)
    assert model.num_parameters() == facts["parameters"] < 100_000
    assert (folder / "tokenizer.json").exists() == (folder / "train.tsv").exists() == (kind == "encoder")
    first, stamp = digests(folder), folder.stat().st_ino
    assert program.main(["--output", str(folder), "--kind", kind]) == 0
    assert folder.stat().st_ino == stamp  # it is there
    (folder / FACTS).write_text("{}")
    assert program.main(["--output", str(folder), "--kind", kind]) == 0
    assert digests(folder) == first
    # another kind takes its place, and leaves nothing of it
    assert program.main(["--output", str(folder), "--steps", "2"]) == 0
    assert {path.name for path in folder.iterdir()} - {"special_tokens_map.json"} == FILES


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        ([], 2, ["output"]),
        (["--output", ""], 2, ["output=''", "must be a folder"]),
        (["--output", "{}/new", "--steps", "0"], 2, ["steps=0", "at least 1"]),
        (["--output", "{}/new", "--steps", "many"], 2, ["steps", "many"]),
        (["--output", "{}/new", "--seed", "-1"], 2, ["seed=-1"]),
        (["--output", "{}/new", "--kind", "decoder"], 2, ["kind", "decoder", "encoder"]),
        (["--output", "{}/new", "--sed", "1"], 2, ["sed"]),
        (["--output", "{}/file"], 1, ["is a file", "must be a folder"]),
        (["--output", "{}/others"], 1, ["holds other files", FACTS, "give another folder"]),
    ],
)
def test_refuses_in_one_line(tmp_path, capsys, args, status, words):
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "thesis.tex").write_text("all of it")
    assert program.main([arg.format(tmp_path) for arg in args]) == status
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert err[0].startswith("hiso-pl: error: ")
    assert all(word in err[0] for word in words), err[0]
    assert (tmp_path / "others" / "thesis.tex").read_text() == "all of it"
    assert not (tmp_path / "new").exists()


def test_refuses_a_launch_of_several_ranks(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert make(tmp_path / "new") == 2
    assert "one process, not 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_made_model_is_fine_tuned_by_two_ranks(tmp_path):
    """The two commands of the preset language_quickstart, the second under torchrun."""
    environment = {**os.environ, **ENVIRONMENT}

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    said = call("hiso_pl.small_language", "--output", "runs/small_language", "--steps", "8")
    assert "Pretrained in" in said
    call(
        *("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "hiso_pl", "fit"),
        *("--config", "language_quickstart", "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"),
    )
    summary = json.loads((tmp_path / "runs" / "default" / "summary.json").read_text())
    assert (summary["rounds"], summary["clients"], summary["ranks"]) == (4, 8, 2)
    assert 200_000 < summary["parameters"] < 1_000_000
    assert summary["metrics"]["val/loss"]["last"] != summary["metrics"]["val/loss"]["first"]
    assert 0 < summary["metrics"]["test/accuracy"]["last"] < 1
