"""Pictures of a training and of what became of it: PNGs that read in light and in dark pages.

Dagster strips elements from Markdown and leaves images; MLflow shows PNG files.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from models.canvas import COLOURS, FAINT, INK, card, concise_dates, legend, png
from models.confidence import LEVELS, Accuracy, Reliability
from models.evaluation import Estimate
from models.importances import Importance
from models.training_tables import Stage, TrainingTables

TOP_FEATURES = 25
_CLASS_NAMES = {-1: "short", 0: "neutral", 1: "long"}


def draw_training(tables: TrainingTables, *, horizon: str, ensemble: str) -> dict[str, bytes]:
    """Draw the pictures of a training.

    Parameters
    ----------
    tables : TrainingTables
        What is known about it.
    horizon, ensemble : str
        For the titles; whose line is the thick one.

    Returns
    -------
    dict
        Name to PNG: ``reliability``, ``accuracy``, ``rank_ic`` and ``importances``, each where
        there is something to draw.
    """
    drawn: dict[str, bytes] = {}
    if tables.reliability.height:
        drawn["reliability"] = draw_reliability(tables.reliability, horizon)
    if tables.accuracy.height:
        drawn["accuracy"] = draw_accuracy(tables.accuracy, horizon)
    if tables.by_session.height:
        drawn["rank_ic"] = draw_rank_ic(tables.by_session, horizon, ensemble)
    if tables.importances.height:
        drawn["importances"] = draw_importances(tables.importances, horizon)
    return drawn


def draw_reliability(table: pl.DataFrame, horizon: str) -> bytes:
    """Draw forecast against observed shares of each class, before and after calibration."""
    there = set(table["stage"])
    named = {
        "calibrated" if stage is Stage.CALIBRATED else "raw": table.filter(
            pl.col("stage") == stage.value
        )
        for stage in Stage
        if stage.value in there
    }
    return _draw_shares(named, f"{horizon}: stated and observed probability, 95 % intervals")


def draw_live_reliability(walked: pl.DataFrame, live: pl.DataFrame, horizon: str) -> bytes:
    """Draw stated against observed probability, live and in the walk-forward.

    Parameters
    ----------
    walked, live : pl.DataFrame
        From :func:`models.confidence.reliability_table`.
    horizon : str
        For the title.
    """
    title = f"{horizon}: stated and observed probability, live and walk-forward, 95 % intervals"
    return _draw_shares({"live": live, "walk-forward": walked}, title)


def _draw_shares(named: Mapping[str, pl.DataFrame], title: str) -> bytes:
    """Draw reliability tables into one picture, the first one in front."""
    figure, axes = card(9.0, 3.7, columns=3)
    figure.suptitle(title, color=INK)
    for axis, (outcome, class_name) in zip(axes, _CLASS_NAMES.items(), strict=True):
        mine = {n: t.filter(pl.col(Reliability.CLASS) == outcome) for n, t in named.items()}
        columns = [Reliability.FORECAST, Reliability.OBSERVED]
        seen = np.concatenate([t.select(columns).to_numpy() for t in mine.values()])
        low, high = _around(seen)
        axis.plot([low, high], [low, high], color=FAINT, linewidth=1.2, zorder=1)
        for place, (label, part) in enumerate(mine.items()):
            forecast, observed = part[Reliability.FORECAST], part[Reliability.OBSERVED]
            in_front = place == 0
            axis.errorbar(
                forecast,
                observed,
                yerr=_bars(part, Reliability.OBSERVED, Reliability.LOW, Reliability.HIGH),
                color=COLOURS[place],
                fmt="o-" if in_front else "s--",
                markersize=4,
                linewidth=1.2,
                elinewidth=0.8,
                alpha=1.0 if in_front else 0.75,
                label=label,
            )
        axis.set_title(class_name, fontsize=10, color=INK)
        axis.set_xlabel("stated")
        axis.set_xlim(low, high)
    axes[0].set_ylabel("observed")
    legend(figure, axes[0])
    return png(figure)


def draw_accuracy(table: pl.DataFrame, horizon: str) -> bytes:
    """Draw how often the direction is right among the most confident rows."""
    figure, (axis,) = card(7.0, 4.0)
    share = table[Accuracy.SHARE].to_numpy()
    axis.fill_between(
        share,
        table[Accuracy.BAND_LOW].to_numpy(),
        table[Accuracy.BAND_HIGH].to_numpy(),
        color=COLOURS[0],
        alpha=0.13,
        linewidth=0,
        label="all points at once, 95 %",
    )
    axis.fill_between(
        share,
        table[Accuracy.LOW].to_numpy(),
        table[Accuracy.HIGH].to_numpy(),
        color=COLOURS[0],
        alpha=0.30,
        linewidth=0,
        label="each point, 95 %",
    )
    accuracy = table[Accuracy.ACCURACY].to_numpy()
    axis.plot(share, accuracy, "o-", color=COLOURS[0], markersize=4, label="accuracy")
    axis.axhline(0.5, color=INK, linewidth=0.9)
    for level in LEVELS:
        axis.axhline(level, color=COLOURS[1], linewidth=0.9, linestyle=":")
    axis.set_xscale("log")
    axis.set_xlim(max(0.9 * share.min(), 1e-4), 1.05)
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if t >= 0.9 * share.min()]
    axis.set_xticks(ticks, [f"{t:.0%}" for t in ticks])
    axis.minorticks_off()
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(0.0, min(bottom, 0.45)), min(1.0, max(top, 0.73)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlabel("share of rows, the most confident first")
    axis.set_ylabel("direction right")
    axis.set_title(f"{horizon}: accuracy against coverage (dotted: 60, 65, 70 %)", color=INK)
    legend(figure, axis)
    return png(figure)


def draw_rank_ic(by_session: pl.DataFrame, horizon: str, ensemble: str) -> bytes:
    """Draw the sum of each engine's daily rank IC; a straight rise is steady skill."""
    figure, (axis,) = card(7.0, 4.0)
    engines = sorted(by_session["engine"].unique(), key=lambda e: (e == ensemble, e))
    colours = _colours([e for e in engines if e != ensemble])
    for engine in engines:
        mine = by_session.filter(pl.col("engine") == engine).sort("session")
        axis.plot(
            mine["session"].to_numpy(),
            mine["rank_ic"].cum_sum().to_numpy(),
            color=colours.get(engine, INK),
            linewidth=2.2 if engine == ensemble else 1.2,
            label=engine,
        )
    axis.axhline(0.0, color=INK, linewidth=0.9)
    axis.set_ylabel("sum of daily rank IC")
    axis.set_title(f"{horizon}: rank IC out of sample, summed up", color=INK)
    legend(figure, axis)
    concise_dates(axis)
    return png(figure)


def draw_importances(table: pl.DataFrame, horizon: str, top: int = TOP_FEATURES) -> bytes:
    """Draw the features that move forecasts most: a bar for the mean, a dot for each family."""
    means = (
        table.group_by(Importance.FEATURE)
        .agg(pl.col(Importance.SHARE).mean())
        .sort(Importance.SHARE, Importance.FEATURE, descending=[True, False])
        .head(top)
    )
    names = means[Importance.FEATURE].to_list()
    figure, (axis,) = card(7.0, 1.4 + 0.21 * len(names))
    places = np.arange(len(names))[::-1]
    axis.barh(places, means[Importance.SHARE].to_numpy(), color=FAINT, height=0.75)
    engines = sorted(table[Importance.ENGINE].unique())
    for engine, colour in _colours(engines).items():
        share = dict(
            table.filter(pl.col(Importance.ENGINE) == engine)
            .select(Importance.FEATURE, Importance.SHARE)
            .rows()
        )
        axis.plot([share[n] for n in names], places, "o", color=colour, ms=4.5, label=engine)
    axis.set_yticks(places, names, fontsize=8)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.set_xlim(left=0.0)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axis.set_xlabel("share of mean absolute contribution; bar: mean over families")
    title = f"{horizon}: the {len(names)} features that move forecasts most"
    axis.set_title(title, color=INK)
    legend(figure, axis)
    return png(figure)


def draw_feature_shares(features: Mapping[str, pl.DataFrame], horizon: str) -> bytes:
    """Draw how features are distributed now, beside how they were in training.

    Parameters
    ----------
    features : mapping
        A title to bins from :func:`models.drift.bin_shares`; six at most are drawn.
    horizon : str
        For the title.
    """
    shown = dict(list(features.items())[:6])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = card(3.4 * columns, 2.6 * rows + 0.7, columns=columns, rows=rows)
    figure.suptitle(f"{horizon}: features in training and now, by the training's tenths")
    for axis, (title, bins) in zip(axes, shown.items(), strict=False):
        places = np.arange(bins.height)
        axis.bar(places - 0.2, bins["then"], 0.4, color=FAINT, label="training")
        axis.bar(places + 0.2, bins["now"], 0.4, color=COLOURS[0], label="now")
        axis.set_xticks(places, bins["bin"].to_list(), rotation=60, ha="right", fontsize=6)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.set_title(title, fontsize=8, color=INK)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    legend(figure, axes[0])
    return png(figure)


def draw_live_skill(
    walked: pl.DataFrame, live: pl.DataFrame, means: tuple[Estimate, Estimate], horizon: str
) -> bytes:
    """Draw the rank IC of each session, live and in the walk-forward, with means and intervals.

    Parameters
    ----------
    walked, live : pl.DataFrame
        ``session`` and ``score``, ascending.
    means : tuple of Estimate
        Of the walk-forward and of the live sessions.
    horizon : str
        For the title.
    """
    figure, (axis,) = card(7.0, 4.0)
    sides = (("walk-forward", walked, means[0], COLOURS[1]), ("live", live, means[1], COLOURS[0]))
    for label, scores, mean, colour in sides:
        days = scores["session"].to_numpy()
        axis.plot(days, scores["score"].to_numpy(), ".", color=colour, ms=3, alpha=0.45)
        span = [days[0], days[-1]]
        told = f"{label}: {mean.mean:+.3f} ({mean.low:+.3f} to {mean.high:+.3f})"
        axis.fill_between(span, mean.low, mean.high, color=colour, alpha=0.25, linewidth=0)
        axis.plot(span, [mean.mean] * 2, color=colour, linewidth=2.0, label=told)
    axis.axhline(0.0, color=INK, linewidth=0.9)
    axis.set_ylabel("rank IC of a session")
    axis.set_title(f"{horizon}: rank IC live and in the walk-forward, 95 % intervals", color=INK)
    legend(figure, axis, columns=2)
    concise_dates(axis)
    return png(figure)


def as_markdown(name: str, png: bytes) -> str:
    """Return a picture as Markdown with its bytes in it.

    Examples
    --------
    >>> as_markdown("rank IC", b"abc")
    '![rank IC](data:image/png;base64,YWJj)'
    """
    return f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _colours(engines: list[str]) -> dict[str, str]:
    return {e: COLOURS[k % len(COLOURS)] for k, e in enumerate(engines)}


def _around(seen: Any) -> tuple[float, float]:
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    pad = max(0.02, 0.08 * (high - low))
    return max(0.0, low - pad), min(1.0, high + pad)


def _bars(part: pl.DataFrame, middle: str, low: str, high: str) -> Any:
    at = part[middle].to_numpy()
    ends = np.stack([at - part[low].to_numpy(), part[high].to_numpy() - at])
    return np.nan_to_num(np.maximum(ends, 0.0))
