"""Prompts as token ids: cut to length without losing what the answer hangs on, and label words as single tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiso_pl.data.tasks import TextTask

Tokenizer = Any
"""A tokenizer of transformers; named so that this module can be imported without it."""


def tokenize_prompts(
    tokenizer: Tokenizer, task: TextTask, texts: Sequence[dict[str, str]], max_length: int
) -> list[list[int]]:
    """Makes prompts and tokenises them, without what a tokenizer may put at the end of a text.

    A prompt is tokenised as a whole, since tokens may cross the seam between text and template. One that is too long
    has its texts cut at their ends, the longest first, until it fits; the template itself always stays whole.

    Args:
        tokenizer: The tokenizer.
        task: The task, for its template.
        texts: The texts of each example by column.
        max_length: Most tokens of a prompt.

    Returns:
        The token ids of each prompt, ending with the token that the label word follows.

    Raises:
        ValueError: If ``max_length`` has no room for the template.
    """
    appended = appended_tokens(tokenizer)

    def tokenize(cut: Sequence[dict[str, str]]) -> list[list[int]]:
        ids = tokenizer([task.prompt(part) for part in cut], padding=False, truncation=False, verbose=False).input_ids
        return [sequence[: len(sequence) - appended] for sequence in ids]

    if not texts:
        return []
    prompts = tokenize(texts)
    long = [i for i, prompt in enumerate(prompts) if len(prompt) > max_length]
    if not long:
        return prompts
    # The greatest number of characters that a text may keep, by bisection for all long prompts at once. What is kept
    # has been seen to fit, even where more characters make fewer tokens.
    least = tokenize([_cut(texts[i], 0) for i in long])
    longest = max(len(prompt) for prompt in least)
    if longest > max_length:
        raise ValueError(f"max_length={max_length} must be at least {longest}, the tokens of the template alone")
    for i, prompt in zip(long, least, strict=True):
        prompts[i] = prompt
    fits = dict.fromkeys(long, 0)
    fails = {i: max(len(text) for text in texts[i].values()) for i in long}
    while pending := [i for i in long if fails[i] - fits[i] > 1]:
        tries = {i: (fits[i] + fails[i]) // 2 for i in pending}
        for i, prompt in zip(pending, tokenize([_cut(texts[i], tries[i]) for i in pending]), strict=True):
            if len(prompt) <= max_length:
                prompts[i], fits[i] = prompt, tries[i]
            else:
                fails[i] = tries[i]
    return prompts


def label_word_tokens(tokenizer: Tokenizer, task: TextTask) -> list[int]:
    """The token that stands for each class: what the label word becomes right after the prompt.

    Returns:
        A token id for each class.

    Raises:
        ValueError: If a word is not one token of its own there, is unknown, or stands for two classes.
    """
    appended = appended_tokens(tokenizer)

    def tokenize(text: str) -> list[int]:
        ids = tokenizer(text, padding=False, truncation=False, verbose=False).input_ids
        return ids[: len(ids) - appended]

    prompt = task.prompt({column: "x" for column in task.columns})
    before = tokenize(prompt)
    words: list[int] = []
    for word in task.label_words:
        after = tokenize(prompt + word)
        if after[: len(before)] != before:
            raise ValueError(f"label word {word!r} merges with the end of the prompt, must begin with a space")
        added = after[len(before) :]
        if len(added) != 1:
            raise ValueError(f"label word {word!r} is {len(added)} tokens for this tokenizer, must be a single one")
        if added[0] == tokenizer.unk_token_id:
            raise ValueError(f"label word {word!r} is unknown to the tokenizer, must be in its vocabulary")
        if added[0] in words:
            other = task.label_words[words.index(added[0])]
            raise ValueError(f"label words {other!r} and {word!r} are the same token, must be distinct")
        words.append(added[0])
    return words


def appended_tokens(tokenizer: Tokenizer) -> int:
    """How many tokens, such as an end of sequence, a tokenizer puts after a text."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return len(whole) - len(plain) - start
    return 0


def padding_token(tokenizer: Tokenizer) -> int:
    """A token id to fill batches with. It never reaches a result, so any will do where none is set."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _cut(texts: dict[str, str], characters: int) -> dict[str, str]:
    return {column: text if len(text) <= characters else text[:characters].rstrip() for column, text in texts.items()}
