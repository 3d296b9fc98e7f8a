"""The page `docs/evidence.md`, made from results alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evidence.parts import NAMES, find_part

INTRODUCTION = """\
# Evidence

What the models and the backtests are worth, measured. `make evidence` measures what has not been
measured with the present code, then writes this page and its pictures; nothing on it is written by
hand. `python -m evidence.run --part NAME` measures one part, `python -m evidence.run --page` writes
the page from what was measured before.

Intervals are 95 percent. A *rank IC* is the rank correlation, across symbols at one time, of a
forecast with the outcome: the return over the horizon less the mean of all symbols. Its mean is
over sessions. Real bars are read from the folder that `ISOBAR_SAMPLE_BARS` names; of them only
statistics are shown.

Each chapter ends with the code that it was measured with, and knows nothing of later code.
"""


def render(results: Mapping[str, dict[str, Any] | None]) -> str:
    """Return the page.

    Parameters
    ----------
    results : mapping
        Name of a part to its result; ``None`` or absent where there is none.

    Returns
    -------
    str
        Markdown.
    """
    parts = [INTRODUCTION]
    for name in NAMES:
        part = find_part(name)
        result = results.get(name)
        title = part.TITLE if part is not None else name.replace("_", " ").capitalize()
        parts.append(f"## {title}\n")
        if part is None or result is None:
            needs = part is None or part.NEEDS_REAL_BARS
            parts.append(_not_run(name, needs))
            continue
        parts.append(part.sections(result).strip() + "\n")
        parts.append(_provenance(result))
    return "\n".join(parts)


def _not_run(name: str, needs_real_bars: bool) -> str:
    more = " with `ISOBAR_SAMPLE_BARS` set" if needs_real_bars else ""
    return f"**Not run.** `python -m evidence.run --part {name}`{more} measures it.\n"


def _provenance(result: Mapping[str, Any]) -> str:
    return (
        f"*Measured by `{result['command']}` on {result['date']} ({result['machine']}; "
        f"{_duration(float(result['seconds']))}; code `{result['code']}`).*\n"
    )


def _duration(seconds: float) -> str:
    if seconds < 90.0:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60.0:.0f} minutes of computing"
