"""Whether a feature foretells returns: IC with interval, its decay, quantile returns, turnover.

The measures are those of Alphalens (Quantopian), with intervals that know that rows of a session
share its shocks and that labels overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from market.errors import ModelError
from market.schema import Bar
from models.evaluation import Estimate, rank_ic
from models.outcomes import Outcome
from models.session_bootstrap import share_intervals

QUANTILES = 5
_FEWEST_SYMBOLS = 3
_RETURN = Outcome.EXCESS_RETURN.value


@dataclass(frozen=True)
class FeatureReport:
    """What a feature was worth in a period, for one horizon.

    Attributes
    ----------
    feature, horizon : str
        What was judged, and over how long a return.
    rows, coverage : int, float
        Rows with a value, and their share of all rows.
    ic : Estimate
        Mean rank IC of a session with its 95 percent interval.
    ic_ratio : float
        Mean over standard deviation of the sessions' rank IC; NaN below two sessions.
    by_session : pl.DataFrame
        ``session``, ``rank_ic``, ascending.
    decay : pl.DataFrame
        ``bars``, ``rank_ic``, ``low``, ``high``, ``sessions``: :func:`ic_decay`.
    quantiles : pl.DataFrame
        ``quantile``, ``mean_return_bps``, ``low``, ``high``, ``rows``: :func:`quantile_returns`.
    spread_bps : Estimate
        Mean return of the highest quantile less that of the lowest, of a session.
    turnover : pl.DataFrame
        ``quantile``, ``turnover``: :func:`quantile_turnover`, mean over time.
    autocorrelation : pl.DataFrame
        ``bars``, ``autocorrelation``: mean of :func:`rank_autocorrelation`.
    """

    feature: str
    horizon: str
    rows: int
    coverage: float
    ic: Estimate
    ic_ratio: float
    by_session: pl.DataFrame
    decay: pl.DataFrame
    quantiles: pl.DataFrame
    spread_bps: Estimate
    turnover: pl.DataFrame
    autocorrelation: pl.DataFrame

    @property
    def verdict(self) -> str:
        """What the interval of the IC says, in one sentence."""
        told = f"mean rank IC {self.ic.mean:+.3f} ({self.ic.low:+.3f} to {self.ic.high:+.3f})"
        over = f"over {self.ic.periods} sessions"
        if not np.isfinite(self.ic.low):
            return f"{self.feature} on {self.horizon}: too little to judge; {told} {over}."
        reading = "differs from zero" if self.ic.excludes_zero else "may be chance"
        return f"{self.feature} on {self.horizon}: {told} {over}; it {reading}."

    def as_table(self) -> pl.DataFrame:
        """Return the numbers that one reads first, as text: ``measure``, ``value``, ``95%``."""
        spread, top = self.spread_bps, self.turnover["turnover"]
        slow = self.autocorrelation["autocorrelation"]
        rows = [
            ("rank IC", f"{self.ic.mean:+.4f}", _bounds(self.ic, "+.4f")),
            ("its mean over its deviation", f"{self.ic_ratio:+.3f}", ""),
            ("top less bottom, bps", f"{spread.mean:+.2f}", _bounds(spread, "+.2f")),
            ("turnover of the top quantile", _percent(top[-1] if len(top) else None), ""),
            ("autocorrelation of ranks", _number(slow[0] if len(slow) else None), ""),
            ("rows with a value", f"{self.rows:,} ({self.coverage:.1%})", ""),
        ]
        return pl.DataFrame(rows, schema=["measure", "value", "95%"], orient="row")


def evaluate_feature(
    panel: pl.DataFrame,
    labels: Mapping[int, pl.DataFrame],
    *,
    feature: str,
    horizon: str,
    bars: int,
    seed: int,
    block: float,
    quantiles: int = QUANTILES,
    draws: int = 1000,
) -> FeatureReport:
    """Judge one feature by what came after it.

    Parameters
    ----------
    panel : pl.DataFrame
        ``symbol``, ``session``, ``bar_end`` and the feature's column.
    labels : mapping
        Bars ahead to labels from :func:`features.labels.forward_returns`; with ``bars``.
    feature : str
        The column.
    horizon : str
        What the return over ``bars`` is called.
    bars : int
        Over how many bars the IC, the quantiles and the spread are measured.
    seed : int
        Of the bootstrap.
    block : float
        Mean length of a block in sessions, about twice the overlap of labels; of the decay each
        length has a block that is no shorter than its own.
    quantiles : int
        Number of groups, 2 or more.
    draws : int
        Resamples.

    Returns
    -------
    FeatureReport
        Intervals are NaN below ten sessions (:mod:`models.session_bootstrap`).

    Raises
    ------
    ModelError
        When there are no labels of ``bars``, fewer than two quantiles, or no value to judge.
    """
    if bars not in labels:
        raise ModelError(
            "no labels of the horizon to judge",
            got=bars,
            allowed=", ".join(str(n) for n in labels),
            remedy="pass the labels of this length too",
        )
    known = panel.filter(pl.col(feature).is_finite())
    joined = _with_return(known, labels[bars])
    if joined.is_empty():
        raise ModelError(
            f"nothing to judge of {feature}",
            got=f"{known.height} values in {panel.height} rows, none with a return after it",
            allowed="values whose returns are known",
            remedy="choose a longer period, or look at when the feature has its first value",
        )
    ranked = with_quantile(joined, feature, quantiles)
    means, spread = quantile_returns(ranked, seed=seed, block=block, draws=draws)
    decay = ic_decay(known, labels, feature, seed=seed, block=block, draws=draws)
    by_session = session_ic(joined, feature)
    own = decay.row(by_predicate=pl.col("bars") == bars, named=True)
    values = by_session["rank_ic"].to_numpy()
    ratio = values.mean() / values.std(ddof=1) if len(values) > 1 else float("nan")
    return FeatureReport(
        feature=feature,
        horizon=horizon,
        rows=known.height,
        coverage=known.height / panel.height,
        ic=Estimate(own["rank_ic"], own["low"], own["high"], own["sessions"]),
        ic_ratio=float(ratio),
        by_session=by_session,
        decay=decay,
        quantiles=means,
        spread_bps=spread,
        turnover=quantile_turnover(ranked)
        .group_by("quantile")
        .agg(pl.col("turnover").mean())
        .sort("quantile"),
        autocorrelation=_autocorrelations(known, feature, sorted(labels)),
    )


def session_ic(frame: pl.DataFrame, feature: str) -> pl.DataFrame:
    """Return the mean rank IC of every session: ``session``, ``rank_ic``, ascending.

    Parameters
    ----------
    frame : pl.DataFrame
        ``session``, ``bar_end``, the feature and ``excess_return``.
    feature : str
        The column.
    """
    sessions = frame.select(Bar.BAR_END, Bar.SESSION).unique()
    return (
        rank_ic(frame, feature, _RETURN)
        .join(sessions, on=Bar.BAR_END)
        .group_by(Bar.SESSION)
        .agg(pl.col("rank_ic").mean())
        .sort(Bar.SESSION)
    )


def ic_decay(
    panel: pl.DataFrame,
    labels: Mapping[int, pl.DataFrame],
    feature: str,
    *,
    seed: int,
    block: float,
    draws: int = 1000,
) -> pl.DataFrame:
    """Return the mean rank IC by how far ahead the return reaches.

    Parameters
    ----------
    panel : pl.DataFrame
        ``symbol``, ``session``, ``bar_end`` and the feature, with values only.
    labels : mapping
        Bars ahead to labels.
    feature, seed, block, draws
        As for :func:`evaluate_feature`.

    Returns
    -------
    pl.DataFrame
        ``bars``, ``rank_ic``, ``low``, ``high``, ``sessions``, ascending; NaN where there is
        nothing to measure.
    """
    rows: list[tuple[int, float, float, float, int]] = []
    for bars in sorted(labels):
        of_session = _sessions_spanned(labels[bars])
        found = session_ic(_with_return(panel, labels[bars]), feature)["rank_ic"].to_numpy()
        mean = _mean(found, seed=seed, block=max(block, 2.0 * of_session), draws=draws)
        rows.append((bars, mean.mean, mean.low, mean.high, mean.periods))
    schema = {"bars": pl.Int64(), "rank_ic": pl.Float64(), "low": pl.Float64()}
    return pl.DataFrame(
        rows, schema={**schema, "high": pl.Float64(), "sessions": pl.Int64()}, orient="row"
    )


def with_quantile(frame: pl.DataFrame, feature: str, quantiles: int = QUANTILES) -> pl.DataFrame:
    """Return a frame with each row's ``quantile`` among the symbols of its time, 1 the lowest.

    Parameters
    ----------
    frame : pl.DataFrame
        ``bar_end`` and the feature, with values only.
    feature : str
        The column.
    quantiles : int
        Number of groups, 2 or more.

    Returns
    -------
    pl.DataFrame
        Times with fewer symbols than quantiles, or than three, are left out. Groups are those of
        ``pandas.qcut`` where no two values are equal; equal values share a group.

    Raises
    ------
    ModelError
        On fewer than two quantiles.
    """
    if quantiles < 2:
        raise ModelError(
            "too few quantiles", got=quantiles, allowed="2 or more", remedy="5 is usual"
        )
    symbols = pl.len().over(Bar.BAR_END)
    place = (pl.col(feature).rank("average").over(Bar.BAR_END) - 1.0) * quantiles
    return frame.filter(symbols >= max(quantiles, _FEWEST_SYMBOLS)).with_columns(
        (place / (symbols - 1)).ceil().clip(lower_bound=1.0).cast(pl.Int64).alias("quantile")
    )


def quantile_returns(
    ranked: pl.DataFrame, *, seed: int, block: float, draws: int = 1000
) -> tuple[pl.DataFrame, Estimate]:
    """Return the mean return of each quantile, and of the highest less the lowest.

    Parameters
    ----------
    ranked : pl.DataFrame
        From :func:`with_quantile`, with ``session`` and ``excess_return``.
    seed, block, draws
        As for :func:`evaluate_feature`.

    Returns
    -------
    tuple
        ``quantile``, ``mean_return_bps`` with ``low`` and ``high``, and ``rows``, all rows of a
        quantile counting alike; and the spread in bps, the mean over sessions that have both.
    """
    bps = pl.col(_RETURN) * 1e4
    cells = ranked.group_by(Bar.SESSION, "quantile").agg(
        bps.sum().alias("sum"), pl.len().alias("rows")
    )
    groups = sorted(cells["quantile"].unique())
    sums, rows = (_matrix(cells, name, groups) for name in ("sum", "rows"))
    found = share_intervals(sums, rows, seed=seed, block=block, draws=draws, binary=False)
    table = pl.DataFrame(
        {
            "quantile": groups,
            "mean_return_bps": found.share,
            "low": found.low,
            "high": found.high,
            "rows": rows.sum(axis=0).astype(np.int64),
        }
    )
    both = (rows[:, 0] > 0.0) & (rows[:, -1] > 0.0)
    top, bottom = (sums[both, k] / rows[both, k] for k in (-1, 0))
    return table, _mean(top - bottom, seed=seed, block=block, draws=draws)


def quantile_turnover(ranked: pl.DataFrame) -> pl.DataFrame:
    """Return the share of a quantile's symbols that were not in it one time before.

    Parameters
    ----------
    ranked : pl.DataFrame
        ``symbol``, ``bar_end``, ``quantile``.

    Returns
    -------
    pl.DataFrame
        ``bar_end``, ``quantile``, ``turnover`` from the second time on, ascending.
    """
    times = ranked[Bar.BAR_END].unique().sort()
    following = pl.DataFrame({Bar.BAR_END.value: times[:-1], "_next": times[1:]})
    before = ranked.join(following, on=Bar.BAR_END).select(
        Bar.SYMBOL, "quantile", pl.col("_next").alias(Bar.BAR_END), pl.lit(True).alias("_was")
    )
    return (
        ranked.filter(pl.col(Bar.BAR_END) > times.min())
        .join(before, on=[Bar.SYMBOL, Bar.BAR_END, "quantile"], how="left")
        .group_by(Bar.BAR_END, "quantile")
        .agg(pl.col("_was").is_null().mean().alias("turnover"))
        .sort(Bar.BAR_END, "quantile")
    )


def rank_autocorrelation(panel: pl.DataFrame, feature: str, bars: int = 1) -> pl.DataFrame:
    """Return the correlation of symbols' ranks with their ranks some times before.

    Parameters
    ----------
    panel : pl.DataFrame
        ``symbol``, ``bar_end`` and the feature, with values only.
    feature : str
        The column.
    bars : int
        How many times lie between.

    Returns
    -------
    pl.DataFrame
        ``bar_end``, ``autocorrelation``; times with fewer than three symbols in both, or without
        any difference between them, are left out.
    """
    times = panel[Bar.BAR_END].unique().sort()
    later = pl.DataFrame(
        {Bar.BAR_END.value: times[: max(0, len(times) - bars)], "_next": times[bars:]}
    )
    rank = pl.col(feature).rank("average").over(Bar.BAR_END)
    ranks = panel.select(Bar.SYMBOL, Bar.BAR_END, rank.alias("rank"))
    before = ranks.join(later, on=Bar.BAR_END).select(
        Bar.SYMBOL, pl.col("_next").alias(Bar.BAR_END), pl.col("rank").alias("before")
    )
    return (
        ranks.join(before, on=[Bar.SYMBOL, Bar.BAR_END])
        .group_by(Bar.BAR_END)
        .agg(pl.corr("rank", "before").alias("autocorrelation"), pl.len().alias("symbols"))
        .filter((pl.col("symbols") >= _FEWEST_SYMBOLS) & pl.col("autocorrelation").is_finite())
        .sort(Bar.BAR_END)
        .select(Bar.BAR_END, "autocorrelation")
    )


def _autocorrelations(panel: pl.DataFrame, feature: str, lags: list[int]) -> pl.DataFrame:
    found = [
        (lag, rank_autocorrelation(panel, feature, lag)["autocorrelation"].mean()) for lag in lags
    ]
    return pl.DataFrame(
        found, schema={"bars": pl.Int64(), "autocorrelation": pl.Float64()}, orient="row"
    )


def _with_return(panel: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    wanted = labels.select(Bar.SYMBOL, Bar.BAR_END, _RETURN).filter(pl.col(_RETURN).is_finite())
    return panel.join(wanted, on=[Bar.SYMBOL, Bar.BAR_END])


def _sessions_spanned(labels: pl.DataFrame) -> int:
    """Return over how many sessions a label reaches, at most."""
    ends = labels.select(Bar.SESSION, pl.col("label_known_at").dt.date().alias("end")).drop_nulls()
    days = labels[Bar.SESSION].unique().sort()
    first, last = days.search_sorted(ends[Bar.SESSION]), days.search_sorted(ends["end"])
    return int((last.cast(pl.Int64) - first.cast(pl.Int64)).max() or 0)  # type: ignore[arg-type]


def _mean(values: np.ndarray, *, seed: int, block: float, draws: int) -> Estimate:
    sums, rows = values.reshape(-1, 1), np.ones((len(values), 1))
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    found = share_intervals(sums, rows, seed=seed, block=block, draws=draws, binary=False)
    return Estimate(float(found.share[0]), float(found.low[0]), float(found.high[0]), len(values))


def _matrix(cells: pl.DataFrame, column: str, groups: list[int]) -> np.ndarray:
    wide = cells.pivot("quantile", index=Bar.SESSION, values=column).sort(Bar.SESSION)
    return wide.select(str(g) for g in groups).fill_null(0).to_numpy().astype(np.float64)


def _bounds(estimate: Estimate, form: str) -> str:
    if not np.isfinite(estimate.low):
        return "no interval"
    return f"{estimate.low:{form}} to {estimate.high:{form}}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
