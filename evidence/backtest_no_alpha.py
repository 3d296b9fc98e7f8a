"""Backtests on markets in which nothing is planted: how often one looks like skill.

Measured in :mod:`evidence.backtest_no_alpha_runs`; here is what the page says of it.
"""

from __future__ import annotations

from typing import Any

from evidence.backtest_no_alpha_runs import CONFIG, NAME, measure

__all__ = ["CONFIG", "NAME", "NEEDS_REAL_BARS", "TITLE", "measure", "pictures", "sections"]

TITLE = "Backtests on synthetic markets without alpha"
NEEDS_REAL_BARS = False


def sections(result: dict[str, Any]) -> str:
    """See :class:`evidence.part.Part`."""
    return ""


def pictures(result: dict[str, Any]) -> dict[str, bytes]:
    """See :class:`evidence.part.Part`."""
    return {}
