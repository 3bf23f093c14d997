"""A cut keeps as much as fits and ends at a word: compared with trying every cut there is."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from hiso_pl.data.tasks import ClassificationTask
from hiso_pl.data.text import prompts as prompts_room
from hiso_pl.data.text.cuts import LONGEST_WORD, word_ends
from hiso_pl.data.text.prompts import Limit, cut_to_fit
from hiso_pl.data.text.tokenizing import tokenize

WORDS = [
    *("the", "a", "of", "in", "was", "film", "led"),
    *("Broncos", "43-yard", "quarterback,", "(who)", "won!", "it's", "Jets'"),
]
CHINESE = "这部电影很好看但是结局有点让人失望。" * 30


def text(seed: int, words: int) -> str:
    draw = random.Random(seed)
    between = (" ", " ", " ", "  ", "\n", " \t")
    return "".join(draw.choice(WORDS) + draw.choice(between) for _ in range(words)).strip()


def byte_level() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained(core, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return core


def word_piece() -> Tokenizer:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained(core, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"], show_progress=False))
    return core


def sentence_piece() -> Tokenizer:
    """Merges across the seams of words, as nothing is split before."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Metaspace()
    trained(core, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False))
    return core


def unigram() -> Tokenizer:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    trained(
        core, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    )
    return core


def trained(core: Tokenizer, trainer: Any) -> None:
    core.train_from_iterator([text(seed, 200) for seed in range(20)] + ["?\nYes. It was\n\nAnswer: bad good"], trainer)


KINDS = {"byte level": byte_level, "WordPiece": word_piece, "SentencePiece": sentence_piece, "unigram": unigram}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=KINDS[request.param](), unk_token="<unk>")


def task(template: str, *columns: str) -> ClassificationTask:
    return ClassificationTask(
        name="t", template=template, label_words=(" bad", " good"), classes=("0", "1"), cut=columns
    )


def cut(tokenizer: Any, made: ClassificationTask, texts: dict[str, str], room: int) -> list[int]:
    prompts = [tokenizer(made.prompt(texts)).input_ids]
    cut_to_fit(tokenizer, made, [texts], prompts, np.zeros(1, dtype=np.int64), Limit(room), ["here"])
    return prompts[0]


def exhaustive(tokenizer: Any, made: ClassificationTask, texts: dict[str, str], room: int, every: bool = False) -> Any:
    """Of all cuts at ends of words (or at any character) the longest whose prompt fits, tried one by one."""
    columns = made.cut
    longest = max(len(texts[column]) for column in columns)
    for n in range(longest, 0, -1):
        kept = {}
        for column in columns:
            whole = texts[column]
            ends = [m.end() for m in re.finditer(r"\S+", whole) if m.end() <= n]
            kept[column] = whole[:n].rstrip() if every else whole[: max(ends, default=0)]
        if not any(kept.values()):
            return None
        prompt = tokenizer(made.template.format(**{**texts, **kept})).input_ids
        if len(prompt) <= room:
            return prompt
    return None


@pytest.mark.parametrize("template", ["{a} It was", "{a}?\nYes.", "Passage: {a}\n\nAnswer:", "it's {a}, led"])
def test_no_longer_cut_fits(tokenizer, template):
    made = task(template, "a")
    least = len(tokenizer(template.format(a="")).input_ids)
    for seed, more in enumerate((8, 29, 30, 51)):
        texts = {"a": text(100 + seed, 80)}
        expected = exhaustive(tokenizer, made, texts, least + more)
        assert expected is not None
        assert cut(tokenizer, made, texts, least + more) == expected


def test_the_longer_of_two_texts_is_cut_first(tokenizer):
    made = task("{a}\n{b} It was", "a", "b")
    for seed, (a, b, room) in enumerate(((60, 9, 70), (9, 60, 71), (40, 40, 80), (40, 38, 81))):
        texts = {"a": text(seed, a), "b": text(50 + seed, b)}
        assert cut(tokenizer, made, texts, room) == exhaustive(tokenizer, made, texts, room)


def test_a_text_without_words_is_cut_at_a_character(tokenizer):
    if isinstance(tokenizer.backend_tokenizer.model, models.WordPiece):
        pytest.skip("a long word is one unknown token to it")
    made = task("{a}\nAnswer:", "a")
    for whole in (CHINESE, "x" * 300, "http://a.b/" + "film/" * 60):
        texts = {"a": whole}
        assert cut(tokenizer, made, texts, 40) == exhaustive(tokenizer, made, texts, 40, every=True)
    # a word of usual length that does not fit is cut as well where otherwise nothing would be left
    texts = {"a": "quarterback" * 4 + " film"}
    room = len(tokenizer("quarterb\nAnswer:").input_ids)
    assert cut(tokenizer, made, texts, room) == exhaustive(tokenizer, made, texts, room, every=True)


def test_ends_of_words():
    assert word_ends("led  to\nfin.") == [3, 7, 12]
    assert word_ends("a " + "b" * LONGEST_WORD) == [1, 2 + LONGEST_WORD]
    assert word_ends("a " + "b" * (LONGEST_WORD + 1)) == [1, *range(3, LONGEST_WORD + 4)]
    assert word_ends("") == []


def test_a_cut_costs_few_passes(tokenizer, monkeypatch):
    passes = []

    def counted(own: Any, texts: list[str]) -> list[list[int]]:
        passes.append(len(texts))
        return tokenize(own, texts)

    monkeypatch.setattr(prompts_room, "tokenize", counted)
    made, texts = task("{a} It was", "a"), [{"a": text(i, 600)} for i in range(8)]
    prompts = tokenize(tokenizer, [made.prompt(some) for some in texts])
    places = [f"row {i}" for i in range(8)]
    assert cut_to_fit(tokenizer, made, texts, prompts, np.zeros(8, dtype=np.int64), Limit(60), places).all()
    # one without the text, a bisection of 600 words, and one of the words that follow
    assert len(passes) <= 1 + 10 + 1
    assert sum(passes) <= 8 * (1 + 10 + 10)
