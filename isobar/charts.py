"""Pictures for notebooks: each function takes what a :class:`isobar.workspace.Workspace` gives.

They are PNGs on white cards, so that they read in light and in dark pages, stay in a notebook when
it is opened elsewhere, and need nothing from the network.

Examples
--------
>>> ws = Workspace("var/demo")  # doctest: +SKIP
>>> charts.candles(ws.bars("ZZAA").tail(120))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from backtest.pictures import draw_equity
from isobar.tear_sheet import TearSheet
from market.errors import UsageError
from market.schema import Bar
from models.canvas import COLOURS, INK, card, concise_dates, legend, png
from models.feature_evaluation import FeatureReport
from signals.schema import ENSEMBLE_ENGINE

_SCALE = 1.5
_UP, _DOWN = COLOURS[2], COLOURS[1]
_DIRECTIONS = {"short": _DOWN, "neutral": "#8c959f", "long": _UP}


@dataclass(frozen=True, repr=False)
class Picture:
    """A picture that a notebook shows.

    Attributes
    ----------
    title : str
        What is seen, for who does not see it.
    png : bytes
        The file.
    """

    title: str
    png: bytes

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # Bytes 16 to 20 of a PNG are its width; it is drawn denser than it is shown.
        return self.png, {"width": round(int.from_bytes(self.png[16:20], "big") / _SCALE)}

    def __repr__(self) -> str:
        return f"Picture: {self.title}"


def candles(bars: pl.DataFrame) -> Picture:
    """Draw the bars of one symbol with their volume.

    Parameters
    ----------
    bars : pl.DataFrame
        From ``Workspace.bars``; a few hundred at most read well.

    Raises
    ------
    UsageError
        When the bars are of several symbols, or there are none.
    """
    symbols = bars[Bar.SYMBOL].unique().sort().to_list()
    if len(symbols) != 1:
        raise UsageError(
            "candles are of one symbol", got=symbols[:5], allowed="bars of one symbol",
            remedy="filter the bars",
        )  # fmt: skip
    figure, (above, below) = card(9.0, 4.4, rows=2)
    above.get_gridspec().set_height_ratios([3.0, 1.0])
    place = np.arange(bars.height)
    opened, closed = bars[Bar.OPEN].to_numpy(), bars[Bar.CLOSE].to_numpy()
    colours = np.where(closed >= opened, _UP, _DOWN)
    above.vlines(place, bars[Bar.LOW], bars[Bar.HIGH], colors=colours, linewidth=0.9)
    height = np.maximum(np.abs(closed - opened), 1e-4 * closed)
    above.bar(place, height, bottom=np.minimum(opened, closed), color=colours, width=0.7)
    below.bar(place, bars[Bar.VOLUME].to_numpy() / 1e3, color=colours, width=0.7, alpha=0.6)
    # By number: nights and weekends take no room.
    ticks = place[:: max(1, bars.height // 8)]
    names = bars[Bar.SESSION].cast(pl.String).to_list()
    below.sharex(above)
    below.set_xticks(ticks, [names[k] for k in ticks], fontsize=8)
    above.tick_params(labelbottom=False)
    above.set_ylabel("USD")
    below.set_ylabel("volume, thousands")
    title = f"{symbols[0]}, {bars.height} bars, {names[0]} to {names[-1]}"
    above.set_title(title, color=INK)
    return Picture(title, png(figure, _SCALE))


def correlation(features: pl.DataFrame) -> Picture:
    """Draw how alike features are, those that are alike beside one another.

    Parameters
    ----------
    features : pl.DataFrame
        From ``Workspace.features``; forty columns at most read well.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    names = [n for n, kind in features.schema.items() if kind == pl.Float32]
    ranks = features.select(names).fill_nan(None).drop_nulls().select(pl.all().rank())
    matrix = np.nan_to_num(np.corrcoef(ranks.to_numpy(), rowvar=False))
    far = 1.0 - np.abs(matrix)
    np.fill_diagonal(far, 0.0)
    order = leaves_list(linkage(squareform(far, checks=False), "average"))
    side = 2.2 + 0.19 * len(names)
    figure, (axis,) = card(side + 1.0, side)
    axis.grid(visible=False)
    shown = axis.imshow(matrix[np.ix_(order, order)], cmap="RdBu", vmin=-1.0, vmax=1.0)
    ordered = [names[k] for k in order]
    axis.set_xticks(range(len(names)), ordered, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), ordered, fontsize=7)
    figure.colorbar(shown, ax=axis, shrink=0.6, label="rank correlation")
    title = f"How alike {len(names)} features are, over {ranks.height:,} rows"
    axis.set_title(title, color=INK)
    return Picture(title, png(figure, _SCALE, colours=256))


def feature_report(report: FeatureReport) -> Picture:
    """Draw four answers about a feature: steady, for how long, monotonic, at what turnover.

    Parameters
    ----------
    report : FeatureReport
        From ``Workspace.evaluate_feature``.
    """
    figure, (sums, decay, groups, moves) = card(9.0, 6.4, columns=2, rows=2)
    figure.suptitle(report.verdict, color=INK, fontsize=10)
    _draw_sums(sums, report)
    _draw_points(decay, report.decay, "bars", "rank_ic")
    decay.set_title("Rank IC by bars ahead, 95 %", color=INK)
    decay.set_xlabel("bars ahead")
    quantile = report.quantiles["quantile"].to_numpy()
    mean = report.quantiles["mean_return_bps"].to_numpy()
    colours = [_UP if v >= 0.0 else _DOWN for v in mean]
    groups.bar(quantile, mean, color=colours, width=0.65, alpha=0.75)
    groups.errorbar(quantile, mean, yerr=_reach(report.quantiles, mean), fmt="none", ecolor=INK)
    groups.axhline(0.0, color=INK, linewidth=0.9)
    groups.set_xticks(quantile)
    groups.set_xlabel("quantile, 1 the lowest values")
    groups.set_title("Excess return of quantiles, bps, 95 %", color=INK)
    lag = report.autocorrelation
    at = _positions(lag["bars"].to_list())
    moves.plot(at, lag["autocorrelation"].to_numpy(), "o-", color=COLOURS[0], label="ranks")
    moves.set_xticks(at, [str(b) for b in lag["bars"]])
    moves.axhline(0.0, color=INK, linewidth=0.9)
    top = report.turnover["turnover"].to_list()[-1:] or [float("nan")]
    moves.set_title(f"Ranks remembered; {top[0]:.0%} of the top is new a bar", color=INK)
    moves.set_xlabel("bars between")
    return Picture(report.verdict, png(figure, _SCALE))


def compare_features(reports: Sequence[FeatureReport]) -> Picture:
    """Draw the mean rank IC of several features with its interval, the strongest on top."""
    rows = sorted(reports, key=lambda r: abs(r.ic.mean))
    figure, (axis,) = card(8.0, 1.4 + 0.3 * len(rows))
    for place, report in enumerate(rows):
        _draw_interval(axis, place, (report.ic.mean, report.ic.low, report.ic.high))
    axis.axvline(0.0, color=INK, linewidth=0.9)
    axis.set_yticks(range(len(rows)), [r.feature for r in rows])
    axis.set_xlabel("mean rank IC of a session, 95 % interval; grey where it holds zero")
    title = f"{len(rows)} features on {', '.join(sorted({r.horizon for r in rows}))}"
    axis.set_title(title, color=INK)
    return Picture(title, png(figure, _SCALE))


def engines(runs: pl.DataFrame) -> Picture:
    """Draw the out-of-sample rank IC of every engine of the newest training of each horizon.

    Parameters
    ----------
    runs : pl.DataFrame
        From ``Workspace.runs``.
    """
    newest = runs.filter(pl.col("trained_at") == pl.col("trained_at").max().over("horizon", "role"))
    horizons = newest["horizon"].unique(maintain_order=True).to_list()
    high = max(1, -(-len(horizons) // 2))
    figure, axes = card(9.0, 1.6 + 1.5 * high, columns=2, rows=high)
    for axis, horizon in zip(axes, horizons, strict=False):
        rows = newest.filter(pl.col("horizon") == horizon).sort("rank_ic")
        for place, row in enumerate(rows.iter_rows(named=True)):
            _draw_interval(axis, place, (row["rank_ic"], row["rank_ic_low"], row["rank_ic_high"]))
        axis.axvline(0.0, color=INK, linewidth=0.9)
        axis.set_yticks(range(rows.height), rows["engine"].to_list())
        axis.set_title(horizon, color=INK, fontsize=10)
    for axis in axes[len(horizons) :]:
        axis.set_visible(False)
    title = "Rank IC out of sample by engine, 95 % intervals; grey where they hold zero"
    figure.suptitle(title, color=INK, fontsize=11)
    return Picture(title, png(figure, _SCALE))


def skill(by_session: pl.DataFrame, horizon: str) -> Picture:
    """Draw the sum of each engine's rank IC by session; a straight rise is steady skill.

    Parameters
    ----------
    by_session : pl.DataFrame
        From ``Workspace.skill``.
    horizon : str
        For the title.
    """
    figure, (axis,) = card(8.0, 3.8)
    names = by_session["engine"].unique().sort().to_list()
    for place, engine in enumerate(names):
        mine = by_session.filter(pl.col("engine") == engine).sort("session")
        colour = INK if engine == ENSEMBLE_ENGINE else COLOURS[place % len(COLOURS)]
        axis.plot(
            mine["session"].to_numpy(), mine["rank_ic"].cum_sum().to_numpy(),
            color=colour, linewidth=1.5, label=engine,
        )  # fmt: skip
    axis.axhline(0.0, color=INK, linewidth=0.9)
    axis.set_ylabel("sum of rank IC")
    title = f"{horizon}: rank IC out of sample, summed up"
    axis.set_title(title, color=INK)
    concise_dates(axis)
    legend(figure, axis)
    return Picture(title, png(figure, _SCALE))


def equity(*sheets: TearSheet) -> Picture:
    """Draw the equity of one or several backtests from the same start, and their drawdowns.

    Parameters
    ----------
    *sheets : TearSheet
        From ``Workspace.tear_sheet``.
    """
    title = f"Equity of {', '.join(s.run.name for s in sheets)}"
    return Picture(title, draw_equity([s.run for s in sheets], _SCALE))


def sharpe_ratios(backtests: pl.DataFrame) -> Picture:
    """Draw the Sharpe ratio of backtests with its interval, in the order of the table.

    Parameters
    ----------
    backtests : pl.DataFrame
        From ``Workspace.backtests``; those without an interval are left out.
    """
    rows = backtests.drop_nulls(["sharpe_ratio", "sharpe_low", "sharpe_high"]).reverse()
    figure, (axis,) = card(8.0, 1.4 + 0.32 * rows.height)
    for place, row in enumerate(rows.iter_rows(named=True)):
        _draw_interval(axis, place, (row["sharpe_ratio"], row["sharpe_low"], row["sharpe_high"]))
    axis.axvline(0.0, color=INK, linewidth=0.9)
    names = [f"{h}, {n} sessions" for h, n in rows.select("horizon", "sessions").iter_rows()]
    axis.set_yticks(range(rows.height), names)
    axis.set_xlabel("Sharpe ratio after costs, annual, 95 % interval; grey where it holds zero")
    title = f"{rows.height} backtests"
    axis.set_title(title, color=INK)
    return Picture(title, png(figure, _SCALE))


def signals(rows: pl.DataFrame) -> Picture:
    """Draw what signals say, by horizon: expected return against confidence.

    Parameters
    ----------
    rows : pl.DataFrame
        From ``Workspace.signals``; one engine and one batch read well.
    """
    horizons = rows["horizon"].unique(maintain_order=True).to_list()
    wide = min(4, len(horizons)) or 1
    high = max(1, -(-len(horizons) // wide))
    figure, axes = card(2.4 * wide + 0.6, 2.3 * high + 0.7, columns=wide, rows=high)
    for axis, horizon in zip(axes, horizons, strict=False):
        mine = rows.filter(pl.col("horizon") == horizon)
        for direction, colour in _DIRECTIONS.items():
            part = mine.filter(pl.col("direction") == direction)
            axis.scatter(
                part["expected_return_bps"], part["confidence"],
                s=14, color=colour, alpha=0.8, linewidth=0, label=direction,
            )  # fmt: skip
        axis.axvline(0.0, color=INK, linewidth=0.7)
        axis.set_title(horizon, color=INK, fontsize=10)
    for axis in axes[max(1, len(horizons)) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("confidence")
    title = f"{rows.height} signals: expected return (bps) against confidence"
    figure.suptitle(title, color=INK, fontsize=11)
    legend(figure, axes[0])
    return Picture(title, png(figure, _SCALE))


def promises(board: pl.DataFrame, engine: str = ENSEMBLE_ENGINE) -> Picture:
    """Draw live hit rates beside what the backtest promised, with intervals where there are any.

    Parameters
    ----------
    board : pl.DataFrame
        From ``Workspace.scoreboard``.
    engine : str
        Whose.
    """
    rows = board.filter((pl.col("engine") == engine) & (pl.col("regime") == "all")).reverse()
    figure, (axis,) = card(8.0, 1.6 + 0.42 * rows.height)
    sides = (("promised_", 0.15, COLOURS[4], "promised"), ("", -0.15, COLOURS[0], "live"))
    for prefix, shift, colour, label in sides:
        at = np.arange(rows.height) + shift
        names = (f"{prefix}hit_rate", f"{prefix}hit_rate_low", f"{prefix}hit_rate_high")
        mean, low, high = (rows[n].cast(pl.Float64).fill_null(np.nan).to_numpy() for n in names)
        axis.hlines(at, low, high, color=colour, linewidth=2.2, alpha=0.6)
        axis.plot(mean, at, "o", color=colour, markersize=5, label=label)
    axis.axvline(0.5, color=INK, linewidth=0.9)
    told = [f"{h}, {n or 0} signals" for h, n in rows.select("horizon", "signals").iter_rows()]
    axis.set_yticks(np.arange(rows.height), told)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlabel("direction right; 95 % interval from ten sessions on")
    title = f"What {engine} promised and what came"
    axis.set_title(title, color=INK)
    legend(figure, axis)
    return Picture(title, png(figure, _SCALE))


def _draw_sums(axis: Any, report: FeatureReport) -> None:
    days = report.by_session["session"].to_numpy()
    summed = report.by_session["rank_ic"].cum_sum().to_numpy()
    count = np.arange(1, len(days) + 1)
    axis.fill_between(
        days,
        count * report.ic.low,
        count * report.ic.high,
        color=COLOURS[0],
        alpha=0.15,
        linewidth=0,
    )
    axis.plot(days, summed, color=COLOURS[0], linewidth=1.4)
    axis.axhline(0.0, color=INK, linewidth=0.9)
    axis.set_title("Rank IC of sessions, summed up", color=INK)
    concise_dates(axis)


def _draw_points(axis: Any, table: pl.DataFrame, x: str, y: str) -> None:
    mean = table[y].to_numpy()
    at = _positions(table[x].to_list())
    axis.errorbar(at, mean, yerr=_reach(table, mean), fmt="o-", color=COLOURS[0], markersize=5)
    axis.set_xticks(at, [str(v) for v in table[x]])
    axis.axhline(0.0, color=INK, linewidth=0.9)


def _draw_interval(axis: Any, place: int, of: tuple[float | None, ...]) -> None:
    mean, low, high = (np.nan if v is None else v for v in of)
    colour = COLOURS[0] if low > 0.0 else COLOURS[1] if high < 0.0 else "#8c959f"
    axis.hlines([place], [low], [high], color=colour, linewidth=2.4, alpha=0.7)
    axis.plot([mean], [place], "o", color=colour, markersize=5.5)


def _positions(values: Sequence[int]) -> list[float]:
    # Log scale in all but name: one and twenty-one bars are both to be read.
    return [float(np.log(v)) for v in values]


def _reach(table: pl.DataFrame, mean: np.ndarray) -> np.ndarray:
    ends = np.stack([mean - table["low"].to_numpy(), table["high"].to_numpy() - mean])
    return np.nan_to_num(np.maximum(ends, 0.0))
