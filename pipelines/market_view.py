"""What trading needs to know of the market, read from the lake."""

import datetime as dt
from decimal import Decimal

import polars as pl

from backtest.tape import VOLUME_SESSIONS
from execution.adjustments import CorporateActions
from execution.intents import LastPrice
from execution.trade import MarketView
from market import calendar
from market.actions import per_share_of
from market.bars import splits_in_force
from market.lake import Lake
from market.quarantine import read_held
from market.schema import (
    DIVIDEND_SCHEMA,
    IDENTITY_SCHEMA,
    Bar,
    Dividend,
    empty,
)
from market.timeframes import Timeframe
from pipelines.resources import Stores
from pipelines.side_tables import read_sectors

_RECENT = 10
_SESSIONS_PER_YEAR = 252


def read_market(stores: Stores, now: dt.datetime) -> MarketView:
    """Return what is known at a moment.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    now : datetime
        Aware. Nothing that was known later is looked at.

    Returns
    -------
    MarketView
        Prices are those of the last bar, of one minute where there are such. A symbol has a
        problem where bars of the last session are held in quarantine, or where that session is
        settled and has no bar of it.
    """
    lake, latest, actions = stores.lake, calendar.latest_session(now), _actions(stores.lake, now)
    first = calendar.offset_session(latest, -VOLUME_SESSIONS - 1)
    daily = _daily(lake, first, now)
    path = stores.settings.features.sectors_file
    sectors = None if path is None else read_sectors(lake, path, latest)
    return MarketView(
        prices=_last_prices(lake, daily, actions.splits, now),
        volatilities=_volatilities(lake, latest, now),
        average_volumes=_average_volumes(daily, latest, actions.splits),
        data_problems=_problems(lake, daily, latest, now),
        sectors=None if sectors is None else dict(sectors.iter_rows()),
        actions=actions,
    )


def newest_prices(lake: Lake) -> dict[str, LastPrice]:
    """Return the last prices that the lake has, however old: a replay's ends in the past."""
    if not lake.exists("bars_1d"):
        return {}
    latest = max(lake.sessions("bars_1d"))
    now = calendar.session_close(latest) + dt.timedelta(hours=12)
    daily = _daily(lake, calendar.offset_session(latest, -_RECENT), now)
    return _last_prices(lake, daily, _actions(lake, now).splits, now)


def _daily(lake: Lake, first: dt.date, now: dt.datetime) -> pl.DataFrame:
    return lake.read_bars("bars_1d", start=first, as_of=now).select(
        Bar.SYMBOL, Bar.SESSION, Bar.BAR_END, Bar.CLOSE, Bar.VOLUME
    )


def _last_prices(
    lake: Lake, daily: pl.DataFrame, splits: pl.DataFrame, now: dt.datetime
) -> dict[str, LastPrice]:
    """Return last prices per share of now: before an ex-date's open the close is of old shares."""
    columns = [Bar.SYMBOL, Bar.SESSION, Bar.BAR_END, Bar.CLOSE]
    parts: list[pl.DataFrame] = []
    if lake.exists("bars_1m"):
        # The session that runs and the last one closed: older ones end with their daily bars.
        first = calendar.latest_session(now)
        parts.append(lake.read_bars("bars_1m", start=first, as_of=now).select(columns))
    # Of two bars that end together the daily one has the official close.
    parts.append(daily.select(columns))
    ordered = pl.concat(parts).sort(Bar.BAR_END, maintain_order=True)
    last = per_share_of(ordered.group_by(Bar.SYMBOL).last(), splits)
    return {
        symbol: LastPrice(Decimal(str(round(close, 4))), at)
        for symbol, at, close in last.select(Bar.SYMBOL, Bar.BAR_END, Bar.CLOSE).iter_rows()
    }


def _volatilities(lake: Lake, latest: dt.date, now: dt.datetime) -> dict[str, float]:
    if not lake.exists("features_1d"):
        return {}
    rows = (
        lake.scan("features_1d")
        .filter(
            pl.col("session") >= calendar.offset_session(latest, -_RECENT),
            pl.col("as_of") <= now,
            pl.col("volatility_20") > 0,
        )
        .select("symbol", "bar_end", "volatility_20")
        .collect()
        .sort("bar_end")
        .group_by("symbol")
        .last()
    )
    yearly = _SESSIONS_PER_YEAR**0.5
    return {s: float(v) * yearly for s, v in rows.select("symbol", "volatility_20").iter_rows()}


def _average_volumes(
    daily: pl.DataFrame, latest: dt.date, splits: pl.DataFrame
) -> dict[str, Decimal]:
    counted = per_share_of(daily, splits).filter(
        pl.col(Bar.SESSION) > calendar.offset_session(latest, -VOLUME_SESSIONS)
    )
    means = counted.group_by(Bar.SYMBOL).agg(pl.col(Bar.VOLUME).mean())
    return {s: Decimal(str(round(v, 3))) for s, v in means.iter_rows() if v is not None}


def _problems(lake: Lake, daily: pl.DataFrame, latest: dt.date, now: dt.datetime) -> dict[str, str]:
    found: dict[str, str] = {}
    there = set(daily.filter(pl.col(Bar.SESSION) == latest)[Bar.SYMBOL])
    if there:
        before = daily.filter(pl.col(Bar.SESSION) == calendar.previous_session(latest))
        for symbol in sorted(set(before[Bar.SYMBOL]) - there):
            found[symbol] = f"no daily bar of {latest}"
    for timeframe in (Timeframe.D1, Timeframe.M1):
        held = read_held(lake, timeframe, [latest])
        # A row that lacks the moment was never good.
        held = held.filter(pl.col("evident_at").is_null() | (pl.col("evident_at") <= now))
        for symbol, reason in held.select(Bar.SYMBOL, "reason").unique().sort(pl.all()).iter_rows():
            if symbol is not None:
                found[symbol] = f"{timeframe.value} bars of {latest} in quarantine: {reason}"
    return found


def _actions(lake: Lake, now: dt.datetime) -> CorporateActions:
    def known(table: str, schema: pl.Schema) -> pl.DataFrame:
        if not lake.exists(table):
            return empty(schema)
        return lake.scan(table).filter(pl.col("known_at") <= now).collect()

    day = now.astimezone(calendar.NEW_YORK).date()
    return CorporateActions(
        splits_in_force(lake, now),
        known("dividends", DIVIDEND_SCHEMA).filter(pl.col(Dividend.EX_DATE) <= day),
        known("identities", IDENTITY_SCHEMA),
    )
