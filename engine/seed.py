"""Seeds from seeds: one integer gives every part of a run a random stream of its own, without any hidden state."""

from __future__ import annotations

import hashlib


def fold(seed: int, *words: str | int) -> int:
    """The seed for one use of `seed`: a hash of both, so that uses do not disturb each other.

    `fold(3, "dropout1")` is the same number on every machine and in every order of calls. 64 bits.
    """
    text = "/".join(str(word) for word in (int(seed), *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
