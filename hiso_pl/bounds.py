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
