"""What a report concludes from its frames: what stands, what turned, who disagrees, who was right.

Nothing is averaged over horizons: a symbol may be long for a day and short for a month.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
from scipy.stats import binomtest

from market.horizons import HORIZONS, find_horizon
from reports.facts import Report
from signals.schema import Direction, SignalColumn

_SIGNED = pl.col(SignalColumn.DIRECTION).replace_strict(
    {d.value: d.sign for d in Direction}, return_dtype=pl.Int64
)
_ORDER = {h.name: place for place, h in enumerate(HORIZONS)}


def in_order(names: list[str]) -> list[str]:
    """Return horizons from the shortest to the longest.

    Examples
    --------
    >>> in_order(["1M", "5m", "1d"])
    ['5m', '1d', '1M']
    """
    return sorted(set(names), key=lambda n: _ORDER[n])


def strongest(signals: pl.DataFrame, horizon: str) -> pl.DataFrame:
    """Return the signals of a horizon that have a direction, the largest expected move first."""
    return (
        signals.filter(
            (pl.col(SignalColumn.HORIZON) == horizon)
            & (pl.col(SignalColumn.DIRECTION) != Direction.NEUTRAL.value)
        )
        .with_columns(pl.col(SignalColumn.EXPECTED_RETURN_BPS).abs().alias("_size"))
        .sort(
            "_size",
            SignalColumn.CONFIDENCE,
            SignalColumn.SYMBOL,
            descending=[True, True, False],
        )
        .drop("_size")
    )


def standing(report: Report) -> pl.DataFrame:
    """Return what holds now: this batch, and of other horizons what an earlier one left valid."""
    of_batch = report.signals[SignalColumn.HORIZON].unique().to_list()
    left = report.earlier.filter(
        ~pl.col(SignalColumn.HORIZON).is_in(of_batch)
        & (pl.col(SignalColumn.VALID_UNTIL) > report.as_of)
    )
    return pl.concat([report.signals, left])


def is_compared(horizon: str) -> bool:
    """Whether a horizon outlives a run, so that a change of direction says something."""
    return find_horizon(horizon).crosses_close


def turned(report: Report) -> pl.DataFrame:
    """Return the signals whose direction is not what it was in the batch before of that horizon.

    Returns
    -------
    pl.DataFrame
        ``symbol``, ``horizon``, ``was``, ``direction``, ``expected_was_bps``,
        ``expected_return_bps``, ``was_as_of`` and ``kind``: ``reversed``, ``new`` (from neutral)
        or ``ended`` (to neutral); the largest change of the expected return first. Horizons of
        an hour and less are new at every run and left out.
    """
    keys = [SignalColumn.SYMBOL, SignalColumn.HORIZON]
    before = report.earlier.select(
        *keys,
        pl.col(SignalColumn.DIRECTION).alias("was"),
        pl.col(SignalColumn.EXPECTED_RETURN_BPS).alias("expected_was_bps"),
        pl.col(SignalColumn.AS_OF).alias("was_as_of"),
    )
    compared = [h for h in report.signals[SignalColumn.HORIZON].unique() if is_compared(h)]
    neutral = Direction.NEUTRAL.value
    return (
        report.signals.filter(pl.col(SignalColumn.HORIZON).is_in(compared))
        .join(before, on=keys, how="inner")
        .filter(pl.col(SignalColumn.DIRECTION) != pl.col("was"))
        .with_columns(
            kind=pl.when(pl.col("was") == neutral)
            .then(pl.lit("new"))
            .when(pl.col(SignalColumn.DIRECTION) == neutral)
            .then(pl.lit("ended"))
            .otherwise(pl.lit("reversed")),
            _change=(pl.col(SignalColumn.EXPECTED_RETURN_BPS) - pl.col("expected_was_bps")).abs(),
        )
        .sort("_change", *keys, descending=[True, False, False])
        .select(
            *keys,
            "was",
            SignalColumn.DIRECTION,
            "expected_was_bps",
            SignalColumn.EXPECTED_RETURN_BPS,
            "was_as_of",
            "kind",
        )
    )


def vanished(report: Report) -> dict[str, list[str]]:
    """Return by horizon the symbols that the batch before had and this one lacks."""
    found: dict[str, list[str]] = {}
    for horizon in in_order(report.signals[SignalColumn.HORIZON].to_list()):
        mine = pl.col(SignalColumn.HORIZON) == horizon
        now = set(report.signals.filter(mine)[SignalColumn.SYMBOL])
        gone = sorted(set(report.earlier.filter(mine)[SignalColumn.SYMBOL]) - now)
        if gone:
            found[horizon] = gone
    return found


@dataclass(frozen=True, slots=True)
class Conflict:
    """A symbol that is long over one horizon and short over another."""

    symbol: str
    by_horizon: dict[str, dict[str, Any]]


def conflicts(report: Report) -> list[Conflict]:
    """Return the symbols whose standing signals point both ways, the sharpest first.

    A disagreement is as sharp as the weaker of its two sides.
    """
    rows = standing(report)
    expected = pl.col(SignalColumn.EXPECTED_RETURN_BPS).abs()
    found = (
        rows.group_by(SignalColumn.SYMBOL)
        .agg(
            up=expected.filter(_SIGNED > 0).max(),
            down=expected.filter(_SIGNED < 0).max(),
        )
        .filter(pl.col("up").is_not_null() & pl.col("down").is_not_null())
        .with_columns(sharpness=pl.min_horizontal("up", "down"))
        .sort("sharpness", SignalColumn.SYMBOL, descending=[True, False])
    )
    by_symbol = rows.filter(
        pl.col(SignalColumn.SYMBOL).is_in(found[SignalColumn.SYMBOL].to_list())
    ).partition_by(SignalColumn.SYMBOL, as_dict=True)
    return [
        Conflict(
            symbol,
            {r[SignalColumn.HORIZON]: r for r in by_symbol[(symbol,)].to_dicts()},
        )
        for symbol in found[SignalColumn.SYMBOL]
    ]


@dataclass(frozen=True, slots=True)
class Record:
    """How the signals of one horizon did; ``low`` and ``high`` bound the share that was right."""

    horizon: str
    directed: int
    right: int
    neutral: int
    low: float | None
    high: float | None
    realised_bps: float | None
    expected_bps: float | None
    targets: int
    stops: int
    moments: int


def judge_outcomes(outcomes: pl.DataFrame) -> list[Record]:
    """Return per horizon how often the direction was right, and what it earned before costs.

    Parameters
    ----------
    outcomes : pl.DataFrame
        ``reports.facts.OUTCOME_SCHEMA``.

    Returns
    -------
    list of Record
        From the shortest horizon to the longest. Returns are in the signal's direction. The
        interval is Wilson's at 95 percent, as if signals of one moment were independent, which
        they are not: it is too narrow.
    """
    sign = _SIGNED
    rows = outcomes.with_columns(
        sign=sign,
        gained=sign * pl.col("realised_return_bps"),
        promised=sign * pl.col("expected_return_bps"),
    )
    found: list[Record] = []
    for horizon in in_order(rows["horizon"].to_list()):
        mine = rows.filter(pl.col("horizon") == horizon)
        directed = mine.filter(pl.col("sign") != 0)
        right = directed.filter(pl.col("gained") > 0).height
        low = high = None
        if directed.height:
            interval = binomtest(right, directed.height).proportion_ci(method="wilson")
            low, high = float(interval.low), float(interval.high)
        found.append(
            Record(
                horizon=horizon,
                directed=directed.height,
                right=right,
                neutral=mine.height - directed.height,
                low=low,
                high=high,
                realised_bps=_mean(directed, "gained"),
                expected_bps=_mean(directed, "promised"),
                targets=directed.select(first_touched() == "target").sum().item(),
                stops=directed.select(first_touched() == "stop").sum().item(),
                moments=directed["as_of"].n_unique(),
            )
        )
    return found


def first_touched() -> pl.Expr:
    """Return which level an outcome touched first; the stop where one bar reached both."""
    target, stop = pl.col("target_touched_at"), pl.col("stop_touched_at")
    return (
        pl.when(stop.is_not_null() & (target.is_null() | (stop <= target)))
        .then(pl.lit("stop"))
        .when(target.is_not_null())
        .then(pl.lit("target"))
        .otherwise(pl.lit("neither"))
    )


def _mean(rows: pl.DataFrame, column: str) -> float | None:
    return float(rows.select(pl.col(column).mean()).item()) if rows.height else None


@dataclass(frozen=True, slots=True)
class Exposure:
    """Sums over positions in USD, and the symbols that have no price."""

    long_usd: float
    short_usd: float
    unpriced: list[str]

    @property
    def gross_usd(self) -> float:
        """Return the sum of absolute values."""
        return self.long_usd + self.short_usd

    @property
    def net_usd(self) -> float:
        """Return longs less shorts."""
        return self.long_usd - self.short_usd


def exposure_of(positions: pl.DataFrame) -> Exposure:
    """Return what the positions (``POSITION_SCHEMA``) amount to.

    Examples
    --------
    >>> from reports.facts import POSITION_SCHEMA
    >>> exposure_of(pl.DataFrame(schema=POSITION_SCHEMA)).gross_usd
    0.0
    """
    priced = positions.filter(pl.col("price_usd").is_not_null())
    value = priced["quantity"] * priced["price_usd"]
    return Exposure(
        long_usd=float(value.filter(value > 0).sum()),
        short_usd=-float(value.filter(value < 0).sum()),
        unpriced=positions.filter(pl.col("price_usd").is_null())["symbol"].to_list(),
    )


def against_signal(report: Report) -> pl.DataFrame:
    """Return own positions whose own horizon's standing signal points the other way.

    ``symbol``, ``horizon``, ``direction``, ``expected_return_bps``.
    """
    now = standing(report).select("symbol", "horizon", "direction", "expected_return_bps")
    return (
        report.book.positions.filter(pl.col("own_quantity") != 0)
        .select("symbol", "horizon", "own_quantity")
        .join(now, on=["symbol", "horizon"], how="inner")
        .filter(_SIGNED * pl.col("own_quantity") < 0)
        .drop("own_quantity")
        .sort("symbol")
    )
