"""Prompts as token ids: cut to length without losing what the answer hangs on, and what follows them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiso_pl.data.tasks import ClassificationTask, GenerationTask, TextTask
from hiso_pl.data.text.cuts import Cuts
from hiso_pl.data.text.tokenizing import Tokenizer, tokenize


class Limit(NamedTuple):
    """The most tokens that an example may have.

    Attributes:
        tokens: That number.
        positions: Whether the model's positions set it; else the option ``max_length`` does.
    """

    tokens: int
    positions: bool = False

    @classmethod
    def of(cls, max_length: int, max_positions: int | None) -> Limit:
        """The lesser of the option and the model's positions, where it has a limit."""
        if max_positions is not None and max_positions < max_length:
            return cls(max_positions, positions=True)
        return cls(max_length)

    def exceeded(self, place: str, needed: int, what: str) -> ValueError:
        """The error that says that an example cannot be made so short."""
        if self.positions:
            return ValueError(f"{place}: the model has {self.tokens} positions, must have {needed}, {what}")
        return ValueError(f"{place}: max_length={self.tokens} must be at least {needed}, {what}")


def cut_to_fit(
    tokenizer: Tokenizer,
    task: TextTask,
    texts: Sequence[dict[str, str]],
    prompts: list[list[int]],
    after: NDArray[np.int64],
    limit: Limit,
    places: Sequence[str],
) -> NDArray[np.bool_]:
    """Shortens the prompts that are too long, in place.

    The columns that may be cut lose their ends, the longest first, until the whole prompt, tokenised anew, fits: each
    keeps the words that end within its first n characters, with the greatest n that fits. The rest of the prompt always
    stays whole.

    Args:
        tokenizer: The tokenizer.
        task: The task, for its template and the columns that may be cut.
        texts: The texts of each example by column.
        prompts: The token ids of each prompt.
        after: Tokens that each prompt must leave room for, shape ``[N]``.
        limit: Most tokens of a prompt and what comes after it.
        places: Where each example stands, for messages.

    Returns:
        Whether a prompt was cut, shape ``[N]``.

    Raises:
        ValueError: If a prompt has no room even without the texts that may be cut, or for nothing of them.
    """
    most = (limit.tokens - after).tolist()
    long = [i for i, prompt in enumerate(prompts) if len(prompt) > most[i]]
    was_cut = np.zeros(len(prompts), dtype=np.bool_)
    if not long:
        return was_cut
    was_cut[long] = True
    columns = task.cut or task.columns
    cuts = {i: Cuts([texts[i][column] for column in columns]) for i in long}

    def fitting(tries: Sequence[tuple[int, int]]) -> dict[int, int]:
        """Of prompts and numbers of ends before the cut, the last that fits for each prompt, which is kept."""
        kept = [dict(zip(columns, cuts[i].texts(n), strict=True)) for i, n in tries]
        made = tokenize(
            tokenizer, [task.prompt({**texts[i], **some}) for (i, _), some in zip(tries, kept, strict=True)]
        )
        found = {}
        for (i, n), prompt in zip(tries, made, strict=True):
            if len(prompt) <= most[i]:
                prompts[i], found[i] = prompt, n
            elif n == 0:
                what = "the tokens of what is never cut" + (f" and {after[i]} of the answer" if after[i] else "")
                raise limit.exceeded(places[i], len(prompt) + int(after[i]), what)
        return found

    def greatest() -> list[int]:
        """Cuts by bisection, all prompts at once, and then tries what follows; tells of which nothing is left."""
        fits = fitting([(i, 0) for i in long])
        fails = {i: len(cuts[i].ends) - 1 for i in long}
        while tries := {i: (fits[i] + fails[i]) // 2 for i in long if fails[i] - fits[i] > 1}:
            found = fitting(list(tries.items()))
            fits |= found
            fails |= {i: n for i, n in tries.items() if i not in found}
        fits |= fitting([(i, n) for i in long for n in cuts[i].beyond(fails[i])])
        return [i for i in long if fits[i] == 0]

    long = greatest()
    if long:  # of some not even a word fits: as many of its characters as do
        for i in long:
            cuts[i].ends = list(range(cuts[i].ends[1] + 1))
        for i in greatest():
            raise limit.exceeded(places[i], limit.tokens + 1, f"or nothing is left of {', '.join(columns)}")
    return was_cut


def label_word_tokens(tokenizer: Tokenizer, task: ClassificationTask) -> list[list[int]]:
    """What label words that name no columns become right after the prompt.

    Returns:
        The token ids that stand for each class.

    Raises:
        ValueError: If a word merges with the prompt, is no token, is unknown, or is the same as another.
    """
    prompt = task.prompt(dict.fromkeys(task.columns, "x"))
    before = tokenize(tokenizer, [prompt])
    words: list[list[int]] = []
    for word in task.label_words:
        [added] = continuations(tokenizer, [prompt], before, [word], [f"label word {word!r}"])
        if tokenizer.unk_token_id in added:
            raise ValueError(f"label word {word!r} is unknown to the tokenizer, must be in its vocabulary")
        words.append(added)
    _check_distinct(task.label_words, words)
    return words


def candidate_tokens(
    tokenizer: Tokenizer,
    task: ClassificationTask,
    texts: Sequence[dict[str, str]],
    prompts: Sequence[list[int]],
    places: Sequence[str],
) -> list[list[int]]:
    """What label words that name columns become after the prompt of each example.

    Returns:
        The token ids of each candidate, example by example in the order of the classes, ``N * C`` of them.

    Raises:
        ValueError: As for :func:`label_word_tokens`; the message begins with the example's place.
    """
    count = len(task.classes)
    candidates = [task.candidates(text) for text in texts]
    found = continuations(
        tokenizer,
        [task.prompt(text) for text in texts for _ in range(count)],
        [prompt for prompt in prompts for _ in range(count)],
        list(chain.from_iterable(candidates)),
        [f"{place}: label word {word!r}" for place, words in zip(places, candidates, strict=True) for word in words],
    )
    for i, words in enumerate(candidates):
        _check_distinct(words, found[i * count : (i + 1) * count], f"{places[i]}: ")
    return found


def answer_tokens(
    tokenizer: Tokenizer,
    task: GenerationTask,
    texts: Sequence[str],
    prompts: Sequence[list[int]],
    added: Sequence[str],
    places: Sequence[str],
) -> list[list[int]]:
    """What the answers to learn become after their prompts, with what ends them.

    An answer whose first token would reach into the prompt is tokenised apart from it: a model that generates goes on
    after the prompt's own tokens, so those of the answer are all it can be asked for.

    Args:
        tokenizer: The tokenizer.
        task: The task; without a stop of its own, the tokenizer's end of sequence is put after an answer.
        texts: The prompts.
        prompts: The token ids of the prompts.
        added: The text after each prompt.
        places: Where each example stands, for messages.
    """
    found = continuations(tokenizer, texts, prompts, added, [f"{place}: the answer" for place in places], apart=True)
    end = [] if task.stop or tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return [tokens + end for tokens in found]


def continuations(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    prompts: Sequence[list[int]],
    added: Sequence[str],
    names: Sequence[str],
    apart: bool = False,
) -> list[list[int]]:
    """What the tokenizer makes of texts beyond the prompts that they follow.

    Args:
        tokenizer: The tokenizer.
        texts: The prompts.
        prompts: The token ids of the prompts.
        added: The text after each prompt.
        names: What each added text is called in messages.
        apart: Whether a text that merges with the end of its prompt is tokenised apart from it instead of refused.

    Raises:
        ValueError: If a text merges with the end of its prompt, or is no token at all.
    """
    wholes = tokenize(tokenizer, [prompt + more for prompt, more in zip(texts, added, strict=True)])
    found = []
    for prompt, whole, more, name in zip(prompts, wholes, added, names, strict=True):
        tokens = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt:
            if not apart:
                raise ValueError(f"{name} merges with the end of the prompt, must begin with a space")
            tokens = list(tokenizer(more, add_special_tokens=False).input_ids)
        if not tokens:
            raise ValueError(f"{name} is 0 tokens for this tokenizer, must be at least one")
        found.append(tokens)
    return found


def stop_tokens(tokenizer: Tokenizer, task: GenerationTask) -> list[int]:
    """The token ids that end a generation: the end of sequence, and the stop where it is one token after an answer."""
    stops = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if task.stop:
        answered = task.prompt(dict.fromkeys(task.columns, "x")) + task.answer_prefix + "x"
        before, after = tokenize(tokenizer, [answered]), tokenize(tokenizer, [answered + task.stop])
        [added] = [whole[len(start) :] for start, whole in zip(before, after, strict=True)]
        alone = len(added) == 1 and after[0][: len(before[0])] == before[0] and added[0] != tokenizer.unk_token_id
        stops += [token for token in added if alone and token not in stops]
    return stops


def _check_distinct(words: Sequence[str], tokens: Sequence[list[int]], place: str = "") -> None:
    for i, own in enumerate(tokens):
        if own in tokens[:i]:
            other = words[tokens.index(own)]
            raise ValueError(f"{place}label words {other!r} and {words[i]!r} are the same tokens, must be distinct")
