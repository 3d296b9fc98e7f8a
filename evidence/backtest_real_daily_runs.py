"""The product's backtest on real daily bars 2010 to 2014, beside simple and published strategies.

Forecasts are those of :mod:`evidence.real_daily`. Each configuration is a look at these years; it
is counted with those of that part, and how often one looked enters the deflated Sharpe ratio.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from typing import Any

import polars as pl

from backtest.comparison import Run as Compared
from backtest.comparison import compare_runs
from backtest.metrics import session_curve
from backtest.overfitting import (
    Trials,
    compare_engines,
    estimate_sharpe,
    minimum_track_record,
    probabilistic_sharpe_ratio,
)
from backtest.session_metrics import block_of, draw_sessions, session_metrics
from backtest.simulate import Simulation
from backtest.simulation import DELISTED
from evidence import daily_peers, real_daily
from evidence.backtests import Market, calibrated, judged, simulate_live, with_outcomes
from evidence.cache_folders import run_of
from evidence.daily_data import MEMBERSHIP, read_daily, read_members, read_raw, read_sectors
from evidence.daily_strategies import (
    buy_and_hold,
    dump_for_pyqlib,
    member_benchmark,
    momentum_predictions,
    series_of,
    topk_dropout,
)
from evidence.part import Run
from evidence.training import Prepared, ensemble_of
from execution.risk import RiskLimits
from features.labels import forward_returns
from features.regime import classify_regimes
from market import calendar
from market.horizons import find_horizon
from market.universe import membership_universe, read_membership
from signals.schema import ENSEMBLE_ENGINE

NAME = "backtest_real_daily"
CONFIG: dict[str, Any] = {
    "first_session": "2010-01-01",
    "last_session": "2014-12-31",
    # Bars from here on, for volumes, volatilities and spreads of before the first fill.
    "bars_from": "2009-07-01",
    "forecasts": real_daily.config_hash(real_daily.CONFIG),
    "horizons": ["1d", "7d", "14d", "1M"],
    # As installed; and without the limit on drawdowns, after which a person has to say go on.
    "limits": {"as installed": {}, "without the drawdown stop": {"drawdown_share": "1"}},
    "momentum": {"horizon": "1M", "every": 21, "share": 0.1},
    # As published: the best 50, of which 5 change a session.
    "topk": {"topk": 50, "n_drop": 5, "recipes": ["linear", "lightgbm", "xgboost"]},
    # Its own label begins at the next close; ours fill at the next open.
    "deals": {"1d": ["open", "close"], "7d": ["open"], "14d": ["open"], "1M": ["open"]},
    "seed": 1,
}
WHAT = "backtests of the groups' ensembles, by year and regime"
CHANGED = (
    "the ensembles of look 4 traded by the live code after costs, with the settings as installed "
    "and without the drawdown stop; nothing was chosen by this look"
)
UNSTOPPED = "without the drawdown stop"


def measure(run: Run) -> dict[str, Any]:
    """Return every backtest's report, and what stands beside it."""
    assert run.bars is not None
    data = _Data(run)
    look = real_daily.count_look(
        CONFIG,
        real_daily.LOOKS,
        today=dt.datetime.now(dt.UTC).date(),
        changed=CHANGED,
        what=WHAT,
    )
    result: dict[str, Any] = {"look": look, "universe": run.once("universe", data.universe)}
    for name in CONFIG["horizons"]:
        run.progress(f"{NAME}: {name}")
        result.setdefault("horizons", {})[name] = run.once(
            name, partial(_one_horizon, data, name, look["looks"])
        )
    run.progress(f"{NAME}: momentum, and holding the members")
    result["momentum"] = run.once("momentum", partial(_momentum, data))
    result["held"] = run.once("held", partial(_held, data))
    for name in CONFIG["horizons"]:
        rates = result["horizons"][name]["rates"]
        for recipe in CONFIG["topk"]["recipes"]:
            for deal in CONFIG["deals"][name]:
                key = f"topk-{name}-{recipe}-{deal}"
                run.progress(f"{NAME}: {key}")
                found = run.once(key, partial(_topk, data, name, recipe, deal, rates))
                result.setdefault("topk", {}).setdefault(name, {})[f"{recipe}, {deal}"] = found
    return {**result, "differences": run.once("differences", partial(_differences, data))}


@dataclass(frozen=True)
class _Data:
    """What is read, once and only where it is needed."""

    run: Run

    @cached_property
    def daily(self) -> pl.DataFrame:
        """Adjusted bars up to the last session."""
        assert self.run.bars is not None
        last = dt.date.fromisoformat(CONFIG["last_session"])
        return read_daily(self.run.bars).filter(pl.col("session") <= last)

    @cached_property
    def members(self) -> pl.DataFrame:
        assert self.run.bars is not None
        return read_members(self.run.bars, self.daily)

    @cached_property
    def regimes(self) -> pl.DataFrame:
        return classify_regimes(self.daily)

    @cached_property
    def market(self) -> Market:
        """Raw bars of the judged years and a little before, with splits and dividends."""
        assert self.run.bars is not None
        first, last = (dt.date.fromisoformat(CONFIG[k]) for k in ("bars_from", "last_session"))
        bars, splits, dividends = read_raw(self.run.bars, first, last)
        return Market(bars, self.regimes, splits, dividends)

    @cached_property
    def benchmark(self) -> tuple[str, pl.DataFrame]:
        first = dt.date.fromisoformat(CONFIG["bars_from"])
        return member_benchmark(self.daily.filter(pl.col("session") >= first), self.members)

    @cached_property
    def engines(self) -> dict[str, dict[str, pl.DataFrame]]:
        """Out-of-sample predictions of the other part, by horizon and family."""
        assert self.run.bars is not None
        sectors = read_sectors(self.run.bars)
        beside = run_of(real_daily, self.run)
        return real_daily.group_predictions(beside, self.daily, self.members, sectors)

    @cached_property
    def peers(self) -> dict[str, dict[str, pl.DataFrame]]:
        beside = run_of(real_daily, self.run)
        return daily_peers.forecasts(beside, self.daily, self.members, real_daily.CONFIG)

    def predictions(self, name: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """Return every engine scored, the calibrated ensemble, and labels of a horizon."""
        horizon, own = find_horizon(name), self.engines[name]
        labels = forward_returns(self.daily, horizon)
        prepared = Prepared(pl.DataFrame(), labels, self.regimes, ())
        engines = pl.concat(own.values())
        blends = ensemble_of(engines, prepared, list(own), stacked=horizon.stacked)
        ensemble = blends.filter(pl.col("engine") == ENSEMBLE_ENGINE)
        scored = with_outcomes(pl.concat([engines, blends]), labels)
        return scored, calibrated(ensemble, labels, horizon), labels

    def universe(self) -> dict[str, Any]:
        """Return how many members have bars, of how many there were, and who stopped trading."""
        assert self.run.bars is not None
        first, last = (dt.date.fromisoformat(CONFIG[k]) for k in ("first_session", "last_session"))
        sessions = calendar.sessions_between(first, last)
        every = membership_universe(read_membership(self.run.bars / MEMBERSHIP), sessions)
        bars = self.daily.filter(pl.col("session") >= first).select("session", "symbol")
        known = every.join(bars, on=["session", "symbol"], how="semi")
        ends = bars.group_by("symbol").agg(pl.col("session").max())
        by_year = [
            (str(y), frame.filter(pl.col("session").dt.year() == y).height)
            for y in range(first.year, last.year + 1)
            for frame in (every, known)
        ]
        return {
            "sessions": len(sessions),
            "symbols": bars["symbol"].n_unique(),
            "members": every.height / len(sessions),
            "members_with_bars": known.height / len(sessions),
            "with_bars_by_year": {
                year: known_rows / rows
                for (year, rows), (_, known_rows) in zip(by_year[::2], by_year[1::2], strict=True)
            },
            "ended_before_the_end": ends.filter(pl.col("session") < sessions[-1]).height,
        }

    def curve(self, key: str) -> pl.DataFrame:
        return pl.read_parquet(self._curve_file(key))

    def keep_curve(self, key: str, curve: pl.DataFrame) -> pl.DataFrame:
        """Keep a curve for the comparison."""
        path = self._curve_file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        curve.write_parquet(path)
        return curve

    def _curve_file(self, key: str) -> Any:
        return self.run.folder / "curves" / f"{key}.parquet"


def _limits(name: str) -> RiskLimits:
    return RiskLimits(**{k: Decimal(v) for k, v in CONFIG["limits"][name].items()})


def count_trials(looks: int) -> Trials:
    """Return how often these years were looked at.

    Every look counts with as many engines as the present configuration judges, at all horizons:
    the first ones judged fewer. The backtests are those of this part, momentum left out.
    """
    earlier = looks - 1
    backtests = len(CONFIG["horizons"]) * len(CONFIG["limits"])
    return Trials(
        training_runs=earlier,
        forecasters=earlier * real_daily.engines_judged(),
        tuning_trials=0,
        backtests=backtests,
        sharpe_ratios=(),
        counted_in=f"{earlier} earlier looks at these years in daily_looks.json, each with "
        f"{real_daily.engines_judged()} engines of all horizons, and the {backtests} backtests of "
        "this one; parameters were searched on other years",
    )


def _one_horizon(data: _Data, name: str, looks: int) -> dict[str, Any]:
    horizon = find_horizon(name)
    scored, ensemble, _ = data.predictions(name)
    splits, trials = compare_engines(scored, [horizon]), count_trials(looks)
    benchmark_name, benchmark = data.benchmark
    made: dict[str, Any] = {"reports": {}}
    for limits in CONFIG["limits"]:
        simulation = simulate_live(ensemble, data.market, horizon, limits=_limits(limits))
        data.keep_curve(f"{name}-{limits}", session_curve(simulation))
        made["reports"][limits] = {
            **judged(
                simulation,
                scored,
                horizon,
                trials=trials,
                splits=splits,
                seed=CONFIG["seed"],
                benchmark=benchmark,
                benchmark_name=benchmark_name,
                regimes=data.regimes,
            ),
            "delisted": _delisted(simulation),
        }
        if limits == UNSTOPPED:
            made["rates"] = cost_rates(simulation)
    return made


def cost_rates(simulation: Simulation) -> dict[str, float]:
    """Return what purchases and sales cost on average, as shares of what was bought and sold."""
    fills = simulation.fills.filter(pl.col("reason") != DELISTED)
    sums = fills.group_by("side").agg(
        pl.col("cost_usd").sum() / (pl.col("quantity") * pl.col("price")).sum()
    )
    return {str(side): float(rate) for side, rate in sorted(sums.iter_rows())}


def _delisted(simulation: Simulation) -> int:
    return simulation.orders.filter(pl.col("reason") == DELISTED).height


def _momentum(data: _Data) -> dict[str, Any]:
    """Return momentum through the same code; it learned nothing, so that one look is its own."""
    own = CONFIG["momentum"]
    horizon = find_horizon(own["horizon"])
    _, like, labels = data.predictions(horizon.name)
    traded = momentum_predictions(data.daily, like, every=own["every"], share=own["share"])
    benchmark_name, benchmark = data.benchmark
    reports: dict[str, Any] = {}
    for limits in CONFIG["limits"]:
        simulation = simulate_live(traded, data.market, horizon, limits=_limits(limits))
        data.keep_curve(f"momentum-{limits}", session_curve(simulation))
        reports[limits] = {
            **judged(
                simulation,
                with_outcomes(traded, labels),
                horizon,
                trials=Trials(0, 0, 0, 1, (), "a published rule, tried once"),
                splits={},
                seed=CONFIG["seed"],
                benchmark=benchmark,
                benchmark_name=benchmark_name,
                regimes=data.regimes,
            ),
            "delisted": _delisted(simulation),
        }
    return {"reports": reports}


def _held(data: _Data) -> dict[str, Any]:
    """Return the members of the first decision, bought at the next open and held."""
    sessions = data.members.filter(
        pl.col("session") >= dt.date.fromisoformat(CONFIG["first_session"])
    )["session"]
    decided = sessions.min()
    assert isinstance(decided, dt.date)
    first = calendar.next_session(decided)
    symbols = data.members.filter(pl.col("session") == decided)["symbol"].to_list()
    curve = data.keep_curve("held", buy_and_hold(data.market, data.daily, symbols, first))
    return _measured(curve, data)


def _topk(
    data: _Data, name: str, recipe: str, deal: str, rates: Mapping[str, float]
) -> dict[str, Any]:
    folder = data.run.folder / "topk"
    bars = dump_for_pyqlib(folder, data.daily)
    held = data.curve(f"{name}-{UNSTOPPED}")["session"]
    curve = topk_dropout(
        folder,
        data.peers[name][f"pyqlib_{recipe}"],
        f"{name}-{recipe}-{deal}",
        bars=bars,
        first=held[1],
        last=held[-1],
        deal=deal,
        rates=rates,
        config=CONFIG["topk"],
    )
    return _measured(data.keep_curve(f"topk-{name}-{recipe}-{deal}", curve), data)


def _measured(curve: pl.DataFrame, data: _Data) -> dict[str, Any]:
    """Return the measures of a curve that our simulator did not make, as for one that it did."""
    series = series_of(curve, data.benchmark[1])
    block = block_of(series.returns)
    draws = draw_sessions(len(series), block=block, seed=CONFIG["seed"])
    estimate = estimate_sharpe(series.returns)
    needed = minimum_track_record(estimate)
    return {
        "start": str(curve["session"][1]),
        "end": str(curve["session"][-1]),
        "sessions": len(series),
        "total_costs_usd": float(curve["costs_usd"][-1]),
        "table": session_metrics(series, draws).to_dicts(),
        "probabilistic_sharpe_ratio": probabilistic_sharpe_ratio(estimate),
        "minimum_track_record_sessions": needed if needed < float("inf") else None,
    }


def _differences(data: _Data) -> dict[str, Any]:
    """Return by horizon the Sharpe ratio of ours without the stop less that of each other."""
    return {
        name: {
            other: _lead(data, other, f"{name}-{UNSTOPPED}")
            for other in (
                "held",
                f"momentum-{UNSTOPPED}",
                *(
                    f"topk-{name}-{recipe}-{deal}"
                    for recipe in CONFIG["topk"]["recipes"]
                    for deal in CONFIG["deals"][name]
                ),
            )
        }
        for name in CONFIG["horizons"]
    }


def _lead(data: _Data, other: str, ours: str) -> Mapping[str, Any]:
    both = [Compared(k, {"sessions": 0, "table": []}, data.curve(k)) for k in (other, ours)]
    rows = {r["metric"]: r["values"] for r in compare_runs(both, seed=CONFIG["seed"])}
    return rows["sharpe_difference"][ours]
