"""Macro data, news and identities of a synthetic market, from its seed alone."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import numpy.typing as npt
import polars as pl

from market import calendar
from market.identity import known_at
from market.macro import index_known_at, is_yield_date, news_known_at, yields_known_at
from market.reference_source import ReferenceTables
from market.regimes import RegimeLabel
from market.replay_data import ServedMarket
from market.schema import (
    IDENTITY_SCHEMA,
    INDEX_SCHEMA,
    MATURITIES,
    NEWS_SCHEMA,
    TREASURY_YIELD_SCHEMA,
    Yield,
)
from market.synthetic import SyntheticMarket

# Annual volatility of the market factor in each regime, with the premium that options carry.
_VIX_LEVEL = {RegimeLabel.BULL: 13.0, RegimeLabel.NEUTRAL: 17.0, RegimeLabel.BEAR: 27.0}
_YEARS = np.array([1 / 12, 0.25, 0.5, 1, 2, 3, 5, 7, 10, 20, 30])
_SESSIONS_PER_ARTICLE = 10.0
_LABELS = ("positive", "neutral", "negative")
# Made-up names that no exchange lists, outside those of the market's own symbols.
_FORMER, _GONE = "ZYAA", "ZYAB"
_GONE_FIGI = "BBG000ZYAB00"


def serve_synthetic(market: SyntheticMarket) -> ServedMarket:
    """Return a synthetic market, with what lies beside its bars, for a replay server."""
    return ServedMarket(
        market.daily,
        market.minute,
        market.splits,
        market.dividends,
        market.tickers,
        generate_reference(market),
    )


def generate_reference(market: SyntheticMarket) -> ReferenceTables:
    """Return what a vendor would have beside the bars of a synthetic market.

    Parameters
    ----------
    market : SyntheticMarket
        From :func:`market.synthetic.generate`.

    Returns
    -------
    ReferenceTables
        A VIX that reverts to the level of the session's true regime; Treasury yields as a slow
        random walk of level and slope; on average one article per symbol in ten sessions, with
        labels that say nothing about returns; identities of all symbols, of which the first was
        renamed (from ``ZYAA``) on the first session, and one company that was delisted before it.
        The same market gives the same tables.
    """
    rng = np.random.default_rng([market.spec.seed, 20_240_703])
    days: list[dt.date] = market.regimes["session"].to_list()
    return ReferenceTables(
        treasury_yields=_yields(rng, days),
        indices=_vix(rng, days, market.regimes["regime"].to_list()),
        news=_news(rng, days, market.tickers["symbol"].to_list()),
        identities=_identities(market, days[0]),
    )


def _vix(rng: np.random.Generator, days: list[dt.date], regimes: list[str]) -> pl.DataFrame:
    targets = np.log([_VIX_LEVEL[RegimeLabel(r)] for r in regimes])
    shocks = 0.06 * rng.standard_normal(len(days))
    closes = np.empty(len(days))
    level = targets[0]
    for n, target in enumerate(targets):
        level += 0.15 * (target - level) + shocks[n]
        closes[n] = level
    opens = np.concatenate([targets[:1], closes[:-1]]) + 0.01 * rng.standard_normal(len(days))
    spread = np.abs(0.03 * rng.standard_normal((2, len(days))))
    return pl.DataFrame(
        {
            "symbol": ["VIX"] * len(days),
            "session": days,
            "known_at": [index_known_at(d) for d in days],
            "open": np.exp(opens).round(2),
            "high": np.exp(np.maximum(opens, closes) + spread[0]).round(2),
            "low": np.exp(np.minimum(opens, closes) - spread[1]).round(2),
            "close": np.exp(closes).round(2),
        },
        schema=INDEX_SCHEMA,
    )


def _yields(rng: np.random.Generator, days: list[dt.date]) -> pl.DataFrame:
    dates = [d for d in days if is_yield_date(d)]
    level = _walk(rng, 4.0, 0.04, len(dates), 0.5, 12.0)
    slope = _walk(rng, 0.8, 0.03, len(dates), -1.0, 3.0)
    # From one month (0) to thirty years (1), evenly in the logarithm of the maturity.
    place = np.log(_YEARS / _YEARS[0]) / math.log(_YEARS[-1] / _YEARS[0])
    curve = np.maximum(level[:, None] + slope[:, None] * (place - 0.5), 0.01).round(2)
    data = {Yield.DATE: dates, Yield.KNOWN_AT: [yields_known_at(d) for d in dates]}
    columns = {m: curve[:, n] for n, m in enumerate(MATURITIES)}
    return pl.DataFrame({**data, **columns}, schema=TREASURY_YIELD_SCHEMA)


def _walk(
    rng: np.random.Generator, start: float, step: float, count: int, low: float, high: float
) -> npt.NDArray[np.float64]:
    return np.clip(start + np.cumsum(step * rng.standard_normal(count)), low, high)


def _news(rng: np.random.Generator, days: list[dt.date], symbols: list[str]) -> pl.DataFrame:
    rows: list[tuple[object, ...]] = []
    for day, count in zip(
        days, rng.poisson(len(symbols) / _SESSIONS_PER_ARTICLE, len(days)), strict=True
    ):
        midnight = calendar.midnight(day)
        for n in range(int(count)):
            published = midnight + dt.timedelta(seconds=int(rng.integers(0, 86_400)))
            # Every third article names two companies, and one in five has no label.
            named = rng.choice(symbols, size=2 if n % 3 == 2 else 1, replace=False)
            label = str(rng.choice(_LABELS)) if rng.random() < 0.8 else None
            reason = None if label is None else f"The wording is {label}."
            article = f"synthetic-{day:%Y%m%d}-{n:03d}"
            rows += [
                (
                    article,
                    str(symbol),
                    published.date().replace(day=1),
                    published,
                    news_known_at(published),
                    f"A synthetic article about {' and '.join(map(str, named))}",
                    "Synthetic Wire",
                    label,
                    reason,
                    f"https://example.invalid/{article}",
                )
                for symbol in named
            ]
    return pl.DataFrame(rows, schema=NEWS_SCHEMA, orient="row").sort("article_id", "symbol")


def _identities(market: SyntheticMarket, first: dt.date) -> pl.DataFrame:
    listed = list(market.tickers.select("symbol", "composite_figi").iter_rows())
    renamed, figi = listed[0]
    last_day = calendar.previous_session(first)
    rows: list[tuple[object, ...]] = [
        (f, f, s, None, None, True, None, known_at(None)) for s, f in listed[1:]
    ]
    rows += [
        (figi, figi, _FORMER, None, first, False, None, known_at(None)),
        (figi, figi, renamed, first, None, True, None, known_at(first)),
        (
            _GONE_FIGI,
            _GONE_FIGI,
            _GONE,
            None,
            last_day + dt.timedelta(days=1),
            False,
            last_day,
            known_at(None),
        ),
    ]
    frame = pl.DataFrame(rows, schema=IDENTITY_SCHEMA, orient="row")
    return frame.sort("identity", "symbol", "valid_from")
