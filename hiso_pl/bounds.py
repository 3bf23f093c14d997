"""What a file from elsewhere may ask for: every bound on its size and on what is made of it, in one place.

A bound is checked before memory is taken or work is begun, and a refusal names the number found and the bound. Each
stands far above what a run writes. Bounds that are part of a format (``stream``, a ledger's frames) are told there, and
repeated here by name.
"""

from __future__ import annotations

# What is asked for

STUDY_BYTES = 1 << 20
"""A study file."""
CONFIGURATION_VALUES = 1 << 16
"""Values of a configuration or study file, an alias counted as what it stands for; real ones have hundreds."""

# A run's checkpoints

ROUNDS = 1 << 32
"""Rounds of a run: a record's number has 32 bits."""
CHECKPOINT_PLAIN_BYTES = 64 << 20
"""Bytes of a checkpoint beside the values of its tensors."""
CHECKPOINT_VALUES = 4 << 20
"""Numbers, words, tensors, lists and mappings of a checkpoint."""
CHECKPOINT_DEPTH = 16
"""Levels of lists and mappings in one another."""
CHECKPOINT_KEY = 1000
"""Characters of a name in a checkpoint."""

# The ledger. Its format bounds a header (16 MiB), local steps, directions and elements of a tensor.

LEDGER_HEADERS = 256
"""Headers of a ledger: the first, and one wherever a run was resumed with options changed by name."""
LEDGER_HEADERS_BYTES = 32 << 20
"""Bytes of all of them; one of a model of a thousand tensors has 200 kB."""
LEDGER_HEADERS_VALUES = 1 << 20
"""Numbers, texts, lists and mappings in all of them, counted as commas and opening brackets."""
LEDGER_DEPTH = 64
"""Levels of lists and mappings in a configuration."""
LEDGER_NAME = 4096
"""Characters of a tensor's name, of what weights are called, and of a package's version."""
LEDGER_INTEGER = 1 << 64
"""Integers in a configuration are smaller."""
COHORT = 1 << 24
"""Slots of a cohort."""
CLIENTS = 1 << 32
"""Clients."""
DIMENSIONS = 64
"""Dimensions of a tensor."""
BUDGET_HEADER_BYTES = 1 << 16
"""The first line of a file of a private run's releases."""
BUDGET_LINE_BYTES, BUDGET_CLIENT_BYTES = 1 << 10, 12
"""A further one, and what each of the run's clients may add to it."""
SAFETENSORS_HEADER_BYTES = 32 << 20
"""Bytes of the header of a safetensors file: names, shapes and places of its tensors."""
WEIGHTS_REUSED = 8
"""How many times the elements of named weights the tensors that a ledger takes from them may have together."""

# Data: the cache of tokens, tables of text, folders saved by ``datasets``

CACHE_HEADER_BYTES = 1 << 20
"""Header of an entry of the cache; real ones have about a thousand."""

READ_BYTES = 2 << 30
"""A file of data, what is compressed in it, and its rows in memory; ``read_limits.bytes`` of the data raises it."""

READ_ROWS = 5_000_000
"""Its rows; ``read_limits.rows`` raises it."""

READ_ROW_BYTES = 4 << 20
"""One row, as large as a long novel; ``read_limits.row_bytes`` raises it."""

READ_VALUE_BYTES = 16
"""What each value of a Parquet file is counted with at least, however small it is compressed."""

TRACE_BYTES, TRACE_ROWS, TRACE_ROW_BYTES = 256 << 20, 2_000_000, 4096
"""A file that says in which rounds clients are there: its bytes, its rows and one of them."""

JSON_DOCUMENT_BYTES = 256 << 20
"""A JSON document, which is read whole; SQuAD's and DROP's have 30 to 100 MB. What is larger goes as .jsonl."""

JSON_VALUE_BYTES = 64
"""What each value of a JSON document is counted with at least."""

PARQUET_FOOTER_BYTES = 8 << 20
"""What a Parquet file says of itself."""

PARQUET_PAGE_BYTES = 256 << 20
"""A page of one once it is decompressed; writers make them of one to a hundred million bytes."""

SAVED_TEXT_BYTES = 16 << 20
"""A JSON file of a folder saved by ``datasets``."""

# Folders that the program wrote

FOLDER_FACTS_BYTES = 1 << 20
"""What an exported folder says of itself; a real one has some thousand bytes."""

RUN_TEXT_BYTES = 4 << 20
"""A run's config.yaml, summary.json or asked.json, as a report reads them; real ones have some thousand bytes."""

RUN_TEXT_VALUES = 1 << 16
"""Values in one of them, those of an alias counted wherever it stands."""

REPORT_FOLDERS = 100_000
"""Folders that are looked through for runs."""

EVENTS_BYTES = 1 << 30
"""A file of curves of a run; a thousand rounds take less than a million bytes."""

EVENT_BYTES = 64 << 20
"""One event of it; pictures and histograms are the largest."""

CURVE_POINTS = 1 << 23
"""Points of curves in all of a run's files."""

# Models and tokenizers

CONFIG_BYTES = 8 << 20
"""A model's config.json, whose largest list the names of some ten thousand classes."""

CONFIG_INTEGER = 1 << 18
"""A whole number in it, or the sum of a list of them: layers, widths, classes. Of each some things are made."""

CONFIG_LENGTH = 1 << 27
"""One that says how long a sequence may be, or how large a vocabulary."""

CONFIG_FREE = 1 << 53
"""One that nothing is made by, such as the base of rotary positions."""

MODEL_INDEX_BYTES = 64 << 20
"""The index of a model's shards."""

MODEL_SHARDS = 10_000
"""Files that it may name."""

MODEL_TEXT_BYTES = 64 << 20
"""A text of a model's folder: tokenizer.json, whose largest have half of it, vocabularies, templates."""

MODEL_WEIGHTS_HEADER_BYTES = 16 << 20
"""Header of a safetensors file, some hundred bytes for each tensor."""

MODEL_TENSORS_BESIDE, MODEL_TENSORS_TIMES = 1000, 4
"""A model may have so many times the tensors that its weight files hold, and so many besides: parts of fused ones, tied
ones, new heads."""

MODEL_ELEMENTS_BESIDE, MODEL_ELEMENTS_TIMES = 1 << 27, 2
"""The same of the elements of its tensors, masks and tables of positions among them."""

TOKENIZER_CONFIG_BYTES = 16 << 20
"""A tokenizer's tokenizer_config.json or special_tokens_map.json, which may list thousands of tokens."""

TOKENIZER_ID = 1 << 24
"""Number of a token."""

TOKENIZER_SPECIAL = 10_000
"""Special tokens in a list, each of which is compared with all others."""
