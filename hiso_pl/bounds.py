"""What a file from elsewhere may ask for: every bound on its size and on what is made of it, in one place.

A bound is checked before memory is taken or work is begun, and a refusal names the number found and the bound. Each
stands far above what a run writes. Bounds that are part of a format (``stream``, a ledger's frames) are told there, and
repeated here by name.
"""

from __future__ import annotations

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
SAFETENSORS_HEADER_BYTES = 32 << 20
"""Bytes of the header of a safetensors file: names, shapes and places of its tensors."""
WEIGHTS_REUSED = 8
"""How many times the elements of named weights the tensors that a ledger takes from them may have together."""
