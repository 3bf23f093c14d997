"""The folder of a small model: model, tokenizer, labelled sentences, and what they were made from."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import transformers

from hiso_pl.bounds import FOLDER_FACTS_BYTES
from hiso_pl.export.folder import check_files, file_digest, remove_files, replacing
from hiso_pl.regular_file import read_at_most
from hiso_pl.small_language import corpus, encoder, pretraining, vision
from hiso_pl.small_language.grammar import Sentence
from hiso_pl.small_language.tokenizer import train_tokenizer

log = logging.getLogger(__name__)

Kind = Literal["causal", "encoder", "vit"]

FACTS = "small_language.json"
"""What the folder was made from, and the SHA-256 of each of its files."""

FILES = frozenset(
    (
        *(f"{split}.tsv" for split in corpus.EXAMPLES),
        *("pretraining.txt", "pretraining.tsv", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", FACTS),
    )
)
"""The files of a folder, by any version of transformers; others are not removed."""

VERSION = 2
"""Any change to the text, the model or its training is a new number; a folder of another one is made anew."""

VOCABULARY = 1024
"""Most tokens; enough for each word of the text to become one."""


def make(output: Path, kind: Kind, steps: int, seed: int) -> bool:
    """Makes the folder of a model, unless it is there already as it would be made, and returns whether it had to.

    It is written beside its place and moved there when it is complete.

    Raises:
        ValueError: If something else is in its place.
    """
    wanted = {"version": VERSION, "kind": kind, "steps": steps, "seed": seed}
    if output.exists() and not output.is_dir():
        raise ValueError(f"output={output} is a file, must be a folder")
    if output.is_dir() and any(output.iterdir()):
        if is_complete(output, wanted):
            return False
        if not (output / FACTS).is_file():
            raise ValueError(
                f"output={output} holds other files and no {FACTS}, so it is not replaced: give another folder"
            )
        check_files(output, FILES)
        log.info("%s is of other options or another version, or not complete: it is made anew.", output)
    _remove_broken_off(output)
    with replacing(output, FILES) as folder:
        found = _write(folder, kind, steps, seed)
        files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        versions = {name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
        facts = {**wanted, **found, "versions": versions, "files": files}
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return True


def is_complete(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether a folder is of the wanted version, kind, steps and seed, and its files are as they were written."""
    try:
        facts = json.loads(read_at_most(folder / FACTS, FOLDER_FACTS_BYTES))
        same = all(facts[key] == value for key, value in wanted.items())
        return same and all(
            name in FILES and file_digest(folder / name) == digest for name, digest in facts["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # the file may hold anything
        return False


def _write(folder: Path, kind: Kind, steps: int, seed: int) -> dict[str, Any]:
    """Makes all files but the facts; returns what is to be said of them."""
    start = time.perf_counter()
    if kind == "vit":
        network = vision.new_model(seed)
        losses = vision.train(network, steps, seed)
        model: transformers.PreTrainedModel = network
    else:
        documents = corpus.documents(seed)
        for split, count in corpus.EXAMPLES.items():
            _write_table(folder / f"{split}.tsv", corpus.examples(seed, split, count))
        tokenizer = train_tokenizer(documents, VOCABULARY)
        if kind == "causal":
            model, losses = _causal(folder, documents, tokenizer, steps, seed)
        else:
            model, losses = _encoder(folder, tokenizer, steps, seed)
        tokenizer.save_pretrained(folder)
    taken, steps_taken = time.perf_counter() - start, len(losses)
    log.info("Pretrained in %.0f s, %d steps: loss %.3f -> %.3f.", taken, steps_taken, losses[0], losses[-1])
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "loss": {"first": losses[0], "last": losses[-1]}}


def _causal(
    folder: Path, documents: list[str], tokenizer: transformers.PreTrainedTokenizerFast, steps: int, seed: int
) -> tuple[transformers.PreTrainedModel, list[float]]:
    (folder / "pretraining.txt").write_text("\n".join(documents) + "\n", encoding="utf-8")
    read = documents[: steps * pretraining.BATCH_SIZE]
    tokens = [[*ids, tokenizer.eos_token_id][: pretraining.POSITIONS] for ids in tokenizer(read).input_ids]
    model = pretraining.new_model(len(tokenizer), seed)
    log.info("Pretraining an OPT of %d parameters on %d documents, %d steps.", model.num_parameters(), len(read), steps)
    return model, pretraining.pretrain(model, tokens, steps, seed)


def _encoder(
    folder: Path, tokenizer: transformers.PreTrainedTokenizerFast, steps: int, seed: int
) -> tuple[transformers.PreTrainedModel, list[float]]:
    read = corpus.examples(seed, "pretraining", steps * encoder.BATCH_SIZE)
    _write_table(folder / "pretraining.tsv", read)
    tokens = [ids[: pretraining.POSITIONS] for ids in tokenizer([example.text for example in read]).input_ids]
    model = encoder.new_model(len(tokenizer), seed)
    log.info("Training a BERT of %d parameters, at most %d steps.", model.num_parameters(), steps)
    return model, encoder.train(model, tokens, [example.label for example in read])


def _write_table(path: Path, examples: Iterable[Sentence]) -> None:
    rows = "".join(f"{example.text}\t{example.label}\t{example.domain}\n" for example in examples)
    path.write_text("sentence\tlabel\tdomain\n" + rows, encoding="utf-8")


def _remove_broken_off(output: Path) -> None:
    """Removes what processes that were killed on the way have left beside the folder."""
    for part in output.parent.glob(f".{output.name}.*.part"):
        found = re.fullmatch(r"\.(\d+)\.part", part.name.removeprefix(f".{output.name}"))
        if found is None or part.is_symlink() or not part.is_dir():
            continue
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            remove_files(part, FILES)
        except (PermissionError, OverflowError):
            continue
