"""Judging daily forecasts: coefficients per session, differences, and a portfolio after costs.

Every model is judged on the same rows, by the same return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from models.comparison import automatic_lags, newey_west_t
from models.evaluation import bootstrap_mean, rank_ic
from models.session_bootstrap import share_intervals

Vector = npt.NDArray[np.float64]
KEYS = ("symbol", "session")
YEAR = 252


def outcomes(daily: pl.DataFrame, steps: int) -> pl.DataFrame:
    """Return each row's return over the horizon from its close, and from the next close."""
    close = pl.col("close")
    bars = daily.sort("symbol", "session")
    sessions = bars.select(pl.col("session").unique().sort()).with_row_index("_at")
    placed = bars.join(sessions, on="session").select(*KEYS, "close", "_at")
    ahead = placed.select("symbol", close.alias("_price"), pl.col("_at").cast(pl.Int64))
    for name, shift in (("_end", steps), ("_next", 1), ("_next_end", steps + 1)):
        moved = ahead.select(
            "symbol", pl.col("_price").alias(name), (pl.col("_at") - shift).alias("_at")
        )
        placed = placed.with_columns(pl.col("_at").cast(pl.Int64)).join(
            moved, on=["symbol", "_at"], how="left"
        )
    return placed.select(
        *KEYS,
        (pl.col("_end") / close - 1.0).alias("outcome"),
        (pl.col("_next_end") / pl.col("_next") - 1.0).alias("outcome_next"),
    )


def simple_baselines(daily: pl.DataFrame, steps: int) -> dict[str, pl.DataFrame]:
    """Return last-period reversal, and momentum of twelve months without the last one."""
    close = pl.col("close")
    bars = daily.sort("symbol", "session")

    def made(value: pl.Expr) -> pl.DataFrame:
        frame = bars.select(*KEYS, value.over("symbol").alias("forecast"))
        return frame.drop_nulls()

    return {
        "reversal": made(-(close / close.shift(steps) - 1.0)),
        "momentum_12_1": made(close.shift(21) / close.shift(252) - 1.0),
    }


def common_rows(
    forecasts: Mapping[str, pl.DataFrame], outcome: pl.DataFrame, members: pl.DataFrame
) -> pl.DataFrame:
    """Return the rows that every model forecasts and whose outcome is known, a column a model."""
    frame = outcome.join(members, on=["session", "symbol"], how="semi").drop_nulls()
    for name, part in forecasts.items():
        own = part.select(*KEYS, pl.col("forecast").alias(name))
        frame = frame.join(own, on=KEYS, how="inner").filter(pl.col(name).is_finite())
    return frame.sort("session", "symbol")


def with_forecast(frame: pl.DataFrame, name: str, part: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with one more forecast, which must know all of them."""
    own = part.select(*KEYS, pl.col("forecast").alias(name))
    both = frame.join(own, on=KEYS, how="inner")
    if both.height != frame.height:
        raise AssertionError(f"{name} lacks {frame.height - both.height} rows")
    return both


def coefficients(frame: pl.DataFrame, model: str, outcome: str) -> pl.DataFrame:
    """Return ``session``, ``ic`` and ``rank_ic`` of a model."""
    plain = frame.group_by("session").agg(pl.corr(model, outcome).alias("ic")).sort("session")
    return plain.join(rank_ic(frame, model, outcome, by="session"), on="session")


def estimate(values: Vector, lags: int, seed: int) -> dict[str, Any]:
    """Return a mean with interval, information ratio and Newey-West t."""
    found = bootstrap_mean(values, seed=seed, block=float(max(5, 2 * lags)), draws=1000)
    test = newey_west_t(values, min(lags, max(0, len(values) - 3)))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {
        "mean": _plain(found.mean),
        "low": _plain(found.low),
        "high": _plain(found.high),
        "information_ratio": _plain(found.mean / spread if spread > 0 else float("nan")),
        "t": _plain(test.statistic),
        "sessions": len(values),
    }


def judge(
    frame: pl.DataFrame,
    models: Sequence[str],
    regimes: pl.DataFrame,
    *,
    steps: int,
    seed: int,
    outcome: str = "outcome",
) -> dict[str, Any]:
    """Return, for each model, its coefficients over all, by year and by regime."""
    lags = max(steps, automatic_lags(frame["session"].n_unique()))
    made: dict[str, Any] = {}
    for model in models:
        per = coefficients(frame, model, outcome).join(regimes, on="session", how="left")
        whole = {m: estimate(per[m].to_numpy(), lags, seed) for m in ("ic", "rank_ic")}
        years = per.with_columns(pl.col("session").dt.year().cast(pl.String).alias("year"))
        for column, table in (("year", years), ("regime", per)):
            whole[f"by_{column}"] = {
                str(key[0]): estimate(part["rank_ic"].to_numpy(), lags, seed)
                for key, part in sorted(table.partition_by(column, as_dict=True).items())
            }
        made[model] = whole
    return made


def differences(
    frame: pl.DataFrame, ours: str, others: Sequence[str], *, steps: int, seed: int, outcome: str
) -> dict[str, Any]:
    """Return the daily difference of rank IC between our forecast and each other one."""
    lags = max(steps, automatic_lags(frame["session"].n_unique()))
    own = coefficients(frame, ours, outcome)
    made: dict[str, Any] = {}
    for other in others:
        both = own.join(coefficients(frame, other, outcome), on="session", suffix="_other")
        gap = (both["rank_ic"] - both["rank_ic_other"]).to_numpy()
        ratio = float(both["rank_ic"].mean()) / float(both["rank_ic_other"].mean())  # pyright: ignore
        made[other] = {**estimate(gap, lags, seed), "ratio": _plain(ratio)}
    return made


def slope(
    frame: pl.DataFrame, model: str, outcome: str, *, steps: int, seed: int
) -> dict[str, float | None]:
    """Return the slope of an outcome on a forecast in basis points, both less a session's mean.

    One means that differences between symbols are as large as is said. The interval is that of
    :func:`models.session_bootstrap.share_intervals`.
    """
    lags = max(steps, automatic_lags(frame["session"].n_unique()))
    said = pl.col(model) / 1e4
    said, came = (c - c.mean().over("session") for c in (said, pl.col(outcome)))
    sums = (
        frame.select("session", (said * came).alias("both"), (said * said).alias("own"))
        .group_by("session")
        .agg(pl.col("both", "own").sum())
        .sort("session")
    )
    found = share_intervals(
        sums.select("both").to_numpy(),
        sums.select("own").to_numpy(),
        seed=seed,
        block=float(max(5, 2 * lags)),
        binary=False,
    )
    named = {"mean": found.share, "low": found.low, "high": found.high}
    return {name: _plain(float(value[0])) for name, value in named.items()}


def beyond_costs(
    frame: pl.DataFrame, model: str, outcome: str, *, least_bps: float, steps: int, seed: int
) -> dict[str, Any]:
    """Return what was said, and what came, where more than a round trip's cost is forecast.

    Parameters
    ----------
    frame : pl.DataFrame
        From :func:`common_rows`; forecasts of the model are in basis points.
    model, outcome : str
        Columns.
    least_bps : float
        Forecasts further from zero than this are looked at.
    steps : int
        Sessions of the horizon.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``rows`` (share of all), ``said`` and ``came`` (basis points a row, in the forecast's
        direction, the outcome less its session's mean, before costs) with ``low`` and ``high``.
    """
    lags = max(steps, automatic_lags(frame["session"].n_unique()))
    excess = (pl.col(outcome) - pl.col(outcome).mean().over("session")) * 1e4
    above = pl.col(model).abs() > least_bps
    sums = (
        frame.with_columns(
            pl.when(above).then(pl.col(model).sign() * excess).otherwise(0.0).alias("came"),
            pl.when(above).then(pl.col(model).abs()).otherwise(0.0).alias("said"),
            above.cast(pl.Float64).alias("rows"),
        )
        .group_by("session")
        .agg(pl.col("came", "said", "rows").sum())
        .sort("session")
    )
    rows = float(sums["rows"].sum())
    found = share_intervals(
        sums.select("came").to_numpy(),
        sums.select("rows").to_numpy(),
        seed=seed,
        block=float(max(5, 2 * lags)),
        binary=False,
    )
    values = {"came": found.share, "low": found.low, "high": found.high}
    return {
        "rows": rows / frame.height,
        "said": float(sums["said"].sum()) / rows if rows else None,
        **{name: _plain(float(value[0])) for name, value in values.items()},
    }


def portfolio(
    frame: pl.DataFrame,
    model: str,
    daily: pl.DataFrame,
    *,
    steps: int,
    cost_bps: float,
    wait: int,
    share: float = 0.1,
) -> dict[str, Any]:
    """Return what a long-short portfolio of the extreme tenths earned after costs.

    Each session a book is made: the best tenth by forecast long, the worst short, equal
    weights, one unit of capital on either side. It is entered ``wait`` closes later and held
    for the horizon; of ``steps`` books that overlap each has its share of the capital. Costs
    are ``cost_bps`` of every unit bought or sold.
    """
    sessions = frame["session"].unique().sort().to_list()
    symbols = frame["symbol"].unique().sort().to_list()
    books = np.zeros((len(sessions), len(symbols)))
    at = {s: k for k, s in enumerate(symbols)}
    for k, (_, part) in enumerate(frame.sort("session").group_by("session", maintain_order=True)):
        order = np.argsort(part[model].to_numpy(), kind="stable")
        places = np.array([at[s] for s in part["symbol"]])[order]
        n = max(1, round(share * len(order)))
        books[k, places[-n:]], books[k, places[:n]] = 1.0 / n, -1.0 / n
    padded = np.vstack([np.zeros((steps - 1 + wait, len(symbols))), books])
    held = sum(padded[k : k + len(sessions)] for k in range(steps)) / steps
    returns = _returns(daily, sessions, symbols)
    gross = np.einsum("ij,ij->i", held[:-1], returns[1:])
    traded = np.abs(np.diff(held, axis=0, prepend=0.0)).sum(axis=1)[:-1]
    net = gross - traded * cost_bps / 1e4
    return {
        "net_information_ratio": _plain(_ratio(net)),
        "gross_information_ratio": _plain(_ratio(gross)),
        "turnover": _plain(float(traded.mean())),
        "net_return": _plain(float(net.mean() * YEAR)),
    }


def _returns(daily: pl.DataFrame, sessions: Sequence[Any], symbols: Sequence[str]) -> Vector:
    own = daily.sort("symbol", "session").select(
        *KEYS, (pl.col("close") / pl.col("close").shift(1).over("symbol") - 1.0).alias("r")
    )
    wide = own.filter(pl.col("session").is_in(sessions) & pl.col("symbol").is_in(symbols)).pivot(
        on="symbol", index="session", values="r"
    )
    return np.nan_to_num(wide.sort("session").select(symbols).to_numpy().astype(np.float64))


def _ratio(values: Vector) -> float:
    spread = float(np.std(values, ddof=1))
    return float(values.mean()) / spread * YEAR**0.5 if spread > 0 else float("nan")


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
