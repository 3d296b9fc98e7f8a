"""The parts of the evidence, in the order of the page. Adding one is a file and a line here."""

from __future__ import annotations

import importlib
import importlib.util
from typing import cast

from evidence.part import Part
from market.errors import UsageError

NAMES = (
    "planted_alpha",
    "no_alpha",
    "real_daily",
    "real_minute",
    "backtest_no_alpha",
    "backtest_planted_alpha",
    "backtest_real_daily",
    "live_replay",
)


def find_part(name: str) -> Part | None:
    """Return a part; ``None`` where its module is not there yet.

    Raises
    ------
    UsageError
        When there is no part of this name.
    """
    if name not in NAMES:
        raise UsageError(
            "unknown part of the evidence",
            got=name,
            allowed=", ".join(NAMES),
            remedy="name one of these, or none for all",
        )
    if importlib.util.find_spec(f"evidence.{name}") is None:
        return None
    return cast("Part", importlib.import_module(f"evidence.{name}"))
