"""What was nearly meant by a name that nobody knows."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable

_MOST = 3
_CUTOFF = 0.5


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that begin with this one or else look like it.

    Upper and lower case count as the same; names that differ in nothing else come together.

    Examples
    --------
    >>> near_names("1mo", ["1m", "1h", "1M"])
    ['1m', '1M']
    >>> near_names("weather", ["1m", "1h", "1M"])
    []
    """
    folded: dict[str, list[str]] = defaultdict(list)
    for one in known:
        folded[one.casefold()].append(one)
    wanted = name.casefold()
    begun = [f for f in folded if wanted and f.startswith(wanted)]
    near = begun or difflib.get_close_matches(wanted, folded, n=_MOST, cutoff=_CUTOFF)
    return [one for f in near for one in folded[f]][:_MOST]


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the remedy of an unknown name: what was nearly meant, or else ``otherwise``.

    Examples
    --------
    >>> did_you_mean("2h", ["1h", "14d"], "choose one of these")
    'did you mean 1h?'
    """
    near = near_names(name, known)
    return f"did you mean {', '.join(near)}?" if near else otherwise
