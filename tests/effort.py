"""How much is repeated: in full with ``ISOBAR_RELIABILITY=1``, otherwise a sample."""

from __future__ import annotations

import os

FULL = os.environ.get("ISOBAR_RELIABILITY") == "1"


def repeats(full: int, sample: int) -> int:
    """Return how many examples, seeds or cut-offs a test takes."""
    return full if FULL else sample
