"""Names that can be chosen from, which Tab completes and which say what was nearly meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from market.errors import UsageError
from market.near_names import did_you_mean

_SHOWN = 8


class Names:
    """The names of one kind of thing: to list, to complete, to check.

    Parameters
    ----------
    what : str
        What is named, in the singular.
    names : iterable of str
        In order.
    remedy : str
        What to do where a name is missing and none is near.

    Examples
    --------
    >>> horizons = Names("horizon", ["1h", "1d"], "switch one on")
    >>> horizons["1d"], "2d" in horizons, list(horizons)
    ('1d', False, ['1h', '1d'])
    >>> Names("symbol", ["AAPL"], "ingest it").AAPL
    'AAPL'
    """

    def __init__(self, what: str, names: Iterable[str], remedy: str) -> None:
        self._what = what
        self._names = tuple(names)
        self._remedy = remedy

    def __getitem__(self, name: str | int) -> str:
        """Return the name itself, or that of a place, where there is one.

        Raises
        ------
        UsageError
            When there is none; with near names, and what to do.
        """
        if isinstance(name, int):
            return self._names[name]
        if name in self._names:
            return name
        raise UsageError(
            f"unknown {self._what}", got=name, allowed=self._allowed(), remedy=self._advise(name)
        )

    def __getattr__(self, name: str) -> str:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"unknown {self._what} {name!r}. {self._advise(name)}")
        return name

    def __dir__(self) -> list[str]:
        return [n for n in self._names if n.isidentifier()]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        many = f", … and {len(self) - _SHOWN} more" if len(self) > _SHOWN else ""
        return f"{len(self)}: {', '.join(self._names[:_SHOWN])}{many}"

    def _allowed(self) -> str:
        if len(self) <= 4 * _SHOWN:
            return ", ".join(self._names) or "none so far"
        return f"{len(self):,} of them"

    def _advise(self, name: str) -> str:
        return did_you_mean(name, self._names, self._remedy)
