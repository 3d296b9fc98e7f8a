"""From the vendor's lists of tickers and their changes to spells of companies under symbols.

The vendor has no table of identities. It lists tickers, active and not, with a composite FIGI
where it has one, and for a FIGI the changes of its ticker. A former ticker of a company stands in
the list as an inactive one, like that of a delisted company; only the changes tell them apart.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from market import polygon_parse as parse
from market.identity import known_at
from market.polygon_actions import impossible
from market.schema import IDENTITY_SCHEMA, Identity

# The vendor's tickers reach back to this day: a company that is older begins here.
RECORDS_BEGIN = dt.date(2003, 9, 10)
_TEXT = frozenset({str})


@dataclass(frozen=True, slots=True)
class Listing:
    """A ticker in the vendor's list: of which company, and until when it was traded."""

    symbol: str
    figi: str | None
    active: bool
    last_day: dt.date | None


@dataclass(frozen=True, slots=True)
class Change:
    """A company bears ``symbol`` from ``date`` on."""

    date: dt.date
    symbol: str


@dataclass(frozen=True, slots=True)
class _Spell:
    key: str
    figi: str | None
    symbol: str
    valid_from: dt.date | None
    valid_to: dt.date | None
    active: bool
    delisted: dt.date | None


def listings(rows: list[Any]) -> list[Listing]:
    """Return the listings of decoded rows, each once."""
    symbols = parse.column(rows, "ticker", _TEXT)
    figis = parse.column(rows, "composite_figi", _TEXT, optional=True)
    active = parse.column(rows, "active", frozenset({bool}))
    ends = parse.column(rows, "delisted_utc", _TEXT, optional=True)
    days = [None if e is None else parse.parse_date(e[:10], "delisted_utc") for e in ends]
    found = (
        Listing(s, f or None, a, None if a else d)
        for s, f, a, d in zip(symbols, figis, active, days, strict=True)
    )
    return list(dict.fromkeys(found))


def changes(results: object, figi: str) -> list[Change]:
    """Return the ticker changes of a company, ascending; of two on one day the last one counts."""
    if not isinstance(results, dict) or results.get("composite_figi") not in (None, figi):
        raise impossible(f"the events of {figi}, which are of something else,", str(results)[:40])
    rows = [r for r in results.get("events") or [] if _kind(r) == "ticker_change"]
    days = [parse.parse_date(d, "date") for d in parse.column(rows, "date", _TEXT)]
    named = parse.column(rows, "ticker_change", frozenset({dict}))
    symbols = parse.column(named, "ticker", _TEXT)
    found = sorted({Change(d, s) for d, s in zip(days, symbols, strict=True)}, key=lambda c: c.date)
    doubles = [a for a, b in itertools.pairwise(found) if a.date == b.date]
    if doubles:
        raise impossible(f"two tickers of {figi} from one day on", doubles[0].date.isoformat())
    return found


def last_symbols(histories: Mapping[str, Sequence[Change]]) -> set[str]:
    """Return the ticker that each company bears, or bore last."""
    return {history[-1].symbol for history in histories.values() if history}


def spells(
    listed: Sequence[Listing], histories: Mapping[str, Sequence[Change]], wanted: Iterable[str]
) -> pl.DataFrame:
    """Return ``IDENTITY_SCHEMA`` rows of the companies that use, or used, a wanted symbol.

    Parameters
    ----------
    listed : sequence of Listing
        Of the wanted symbols and of the last symbols of their companies.
    histories : mapping of str to sequence of Change
        Ticker changes by FIGI; empty where the vendor has none.
    wanted : iterable of str
        The symbols asked for.

    Notes
    -----
    Two companies never share a symbol: where the vendor's dates overlap, the later one has it from
    its first day on, and one with a FIGI goes before one without. A listing without a FIGI is left
    out where a company with one bore that ticker until then, and where it is inactive without a
    date while somebody else bears it.
    """
    named = set(wanted)
    found: list[_Spell] = []
    for figi, history in histories.items():
        found += _of_company(figi, history, [x for x in listed if x.figi == figi])
    for one in listed:
        if one.figi is None and one.symbol in named and not _is_taken(one, found, listed):
            found.append(_without_figi(one))
    by_symbol: dict[str, list[_Spell]] = {}
    for spell in found:
        by_symbol.setdefault(spell.symbol, []).append(spell)
    rows = [spell for several in by_symbol.values() for spell in _apart(several)]
    return pl.DataFrame(
        {
            Identity.KEY: [s.key for s in rows],
            Identity.FIGI: [s.figi for s in rows],
            Identity.SYMBOL: [s.symbol for s in rows],
            Identity.VALID_FROM: [s.valid_from for s in rows],
            Identity.VALID_TO: [s.valid_to for s in rows],
            Identity.ACTIVE: [s.active for s in rows],
            Identity.DELISTED: [s.delisted for s in rows],
            Identity.KNOWN_AT: [known_at(s.valid_from) for s in rows],
        },
        schema=IDENTITY_SCHEMA,
    ).sort(Identity.KEY, Identity.SYMBOL, Identity.VALID_FROM)


def _of_company(figi: str, history: Sequence[Change], mine: Sequence[Listing]) -> list[_Spell]:
    if not history:
        newest = max(mine, key=lambda x: (x.active, x.last_day or dt.date.min))
        history = [Change(RECORDS_BEGIN, newest.symbol)]
    ends = [*(c.date for c in history[1:]), None]
    begins = [None if n == 0 and c.date <= RECORDS_BEGIN else c.date for n, c in enumerate(history)]
    found = [
        _Spell(figi, figi, c.symbol, begin, end, active=False, delisted=None)
        for c, begin, end in zip(history, begins, ends, strict=True)
    ]
    last = [x for x in mine if x.symbol == history[-1].symbol]
    if any(x.active for x in last):
        found[-1] = replace(found[-1], active=True)
    else:
        days = [x.last_day for x in last if x.last_day and x.last_day >= history[-1].date]
        if days:
            gone = max(days)
            after = gone + dt.timedelta(days=1)
            found[-1] = replace(found[-1], valid_to=after, delisted=gone)
    return found


def _without_figi(one: Listing) -> _Spell:
    if one.last_day is None:
        return _Spell(one.symbol, None, one.symbol, None, None, one.active, None)
    after = one.last_day + dt.timedelta(days=1)
    key = f"{one.symbol}@{one.last_day}"
    return _Spell(key, None, one.symbol, None, after, active=False, delisted=one.last_day)


def _is_taken(one: Listing, found: Sequence[_Spell], listed: Sequence[Listing]) -> bool:
    """Say whether a listing without a FIGI stands for a company that is there already."""
    spells = [s for s in found if s.symbol == one.symbol]
    day = one.last_day
    if day is not None:
        return any(
            (s.valid_from or day) <= day and (s.valid_to is None or day <= s.valid_to)
            for s in spells
        )
    others = any(x.symbol == one.symbol and x != one for x in listed)
    return any(s.valid_to is None for s in spells) or (not one.active and others)


def _apart(several: list[_Spell]) -> list[_Spell]:
    """Return the spells of one symbol in order, without overlap, each after the one before."""
    begun: list[_Spell] = []
    for spell in several:
        end = spell.valid_to or dt.date.max
        before = [o.valid_to for o in several if o.valid_to is not None and o.valid_to < end]
        if spell.valid_from is None and before:
            spell = replace(spell, valid_from=max(before))
        begun.append(spell)
    out: list[_Spell] = []
    for spell in sorted(begun, key=lambda s: (s.valid_from or dt.date.min, s.figi is None)):
        last = out[-1] if out else None
        if last is not None and (last.valid_to is None or last.valid_to > _begin(spell)):
            if spell.figi is None or _begin(last) == _begin(spell):
                continue
            out[-1] = replace(last, valid_to=spell.valid_from, active=False)
        out.append(spell)
    return out


def _begin(spell: _Spell) -> dt.date:
    return spell.valid_from or dt.date.min


def _kind(row: object) -> object:
    return row.get("type") if isinstance(row, dict) else None
