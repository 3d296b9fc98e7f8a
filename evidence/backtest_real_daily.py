"""The backtest on real daily bars beside simple and published strategies.

Measured in :mod:`evidence.backtest_real_daily_runs`; here is what the page says of it.
"""

from __future__ import annotations

from typing import Any

from evidence.backtest_real_daily_runs import CONFIG, NAME, measure

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Backtests on real daily bars"
NEEDS_REAL_BARS = True


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    return ""


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """See :class:`evidence.part.Part`."""
    return {}
