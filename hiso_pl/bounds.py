"""What a file from elsewhere may ask for: every bound on its size and on what is made of it, in one place.

A bound is checked before memory is taken or work is begun, and a refusal names the number found and the bound. Each
stands far above what a run writes. Bounds that are part of a format (``stream``, a ledger's frames) are told there, and
repeated here by name.
"""

from __future__ import annotations

# Data: the cache of tokens, tables of text, folders saved by ``datasets``

CACHE_HEADER_BYTES = 1 << 20
"""Header of an entry of the cache; real ones have about a thousand."""
