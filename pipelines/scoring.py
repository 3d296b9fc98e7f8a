"""What a scheduled run scores with, read from the stores; and what it forecast, kept."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from features.labels import forward_returns
from features.spec import PANEL_KEYS
from market import calendar
from market.bars import by_company, read_adjusted
from market.horizons import Horizon
from market.lake import Lake
from market.schema import Bar
from market.timeframes import Timeframe
from models.calibration import fit_latest, windows_of
from models.dataset import VOLATILITY, reach_of
from models.ensemble import META_ENGINE, stack_weights
from models.fit import FittedModel
from models.forecast import LIVE_SCHEMA, LIVE_TABLE, Prediction, as_forecast
from models.normal_scores import source_of
from models.outcomes import outcomes_of
from models.registry import families_of
from pipelines.feature_run import feature_table
from pipelines.resources import Stores
from pipelines.settled import read_settled
from signals.inputs import HorizonInputs
from signals.levels import evidence_sessions, fit_residuals
from signals.scale import return_scale
from signals.score import Ensemble, Scores
from signals.session_evidence import SessionEvidence, gather_evidence
from signals.weighting import regime_weights

RECENT_SESSIONS = 5
_OUTCOMES = ("label_known_at", "forward_return", "overnight_return", "excess_return")


def load_ensembles(
    stores: Stores,
    horizons: Collection[Horizon],
    as_of: dt.datetime,
    models: Mapping[str, HorizonInputs] | None = None,
) -> list[Ensemble]:
    """Return all that horizons are scored with, as known at ``as_of``.

    Parameters
    ----------
    stores, horizons, as_of
        Where, which and when.
    models : mapping, optional
        Horizon to the versions of models to take, instead of those that served at ``as_of``.

    Raises
    ------
    ModelError
        When a horizon has no champion by then, or one cannot be restored.
    """
    given = models or {}
    champions = {h.name: _restore(stores, h, as_of, given.get(h.name)) for h in horizons}
    regimes = stores.lake.scan("regimes").filter(pl.col("as_of") <= as_of).sort("as_of").collect()
    pasts = {h.name: _past_of(stores.lake, h, as_of) for h in horizons}
    made: list[Ensemble] = []
    for timeframe in dict.fromkeys(h.timeframe for h in horizons):
        alike = [h for h in horizons if h.timeframe is timeframe]
        starts = [pasts[h.name].start for h in alike]
        bars = _known_bars(stores.lake, timeframe, starts, as_of)
        for horizon in alike:
            name = horizon.name
            labels = by_company(stores.lake, bars, partial(forward_returns, horizon=horizon))
            known = labels.select("symbol", "bar_end", *_OUTCOMES)
            made.append(
                _ensemble(stores, horizon, champions[name], pasts[name], known, regimes, as_of)
            )
    order = {h.name: k for k, h in enumerate(horizons)}
    return sorted(made, key=lambda e: order[e.horizon.name])


@dataclass(frozen=True)
class _Past:
    """Past predictions of a horizon that are looked at, and what is settled of all.

    Attributes
    ----------
    settled : SessionEvidence, optional
        Of sessions that need not be looked at again.
    start : date, optional
        First session that is looked at; ``None`` where there is none.
    rows : pl.LazyFrame
        Read one horizon at a time: they take most memory of a run.
    """

    settled: SessionEvidence | None
    start: dt.date | None
    rows: pl.LazyFrame


def _past_of(lake: Lake, horizon: Horizon, as_of: dt.datetime) -> _Past:
    known = (pl.col(Prediction.HORIZON) == horizon.name) & (pl.col(Prediction.AS_OF) <= as_of)
    rows = lake.scan("predictions").filter(known)
    settled = read_settled(lake, horizon, as_of)
    _, most = evidence_sessions(horizon)
    start = None if settled is None else settled.needed_from(as_of, most)
    if start is not None:
        return _Past(settled, start, rows.filter(pl.col(Prediction.SESSION) >= start))
    first = rows.select(pl.col(Prediction.SESSION).min()).collect().item()
    return _Past(settled, first, rows)


@dataclass(frozen=True)
class _Restored:
    champions: tuple[FittedModel, ...]
    challengers: tuple[FittedModel, ...]


def _restore(
    stores: Stores, horizon: Horizon, as_of: dt.datetime, models: HorizonInputs | None
) -> _Restored:
    tracker = stores.tracker
    if models is None:
        # A family that serves the horizon no longer may still have a champion in the registry.
        serving = {f.name for f in families_of(horizon)}
        return _Restored(
            _of(serving, tracker.champions(horizon.name, as_of)),
            _of(serving, tracker.challengers(horizon.name, as_of)),
        )
    champions, challengers = (
        tuple(tracker.model(horizon.name, f, v) for f, v in sorted(versions.items()))
        for versions in (models.champions, models.challengers)
    )
    return _Restored(champions, challengers)


def _ensemble(
    stores: Stores,
    horizon: Horizon,
    models: _Restored,
    past: _Past,
    labels: pl.DataFrame,
    regimes: pl.DataFrame,
    as_of: dt.datetime,
) -> Ensemble:
    rows = as_forecast(past.rows.collect())
    evidence = gather_evidence(rows, labels, regimes, horizon, past.settled)
    engines = [m.family.name for m in models.champions]
    stacked = stack_weights(evidence.moments, engines, as_of) if horizon.stacked else None
    weighed = engines if stacked is None else [*engines, META_ENGINE]
    least, most = windows_of(horizon)
    band = stores.settings.band_bps
    return Ensemble(
        horizon=horizon,
        champions=models.champions,
        challengers=models.challengers,
        weights=regime_weights(evidence.skill, regimes, weighed, as_of),
        regimes=regimes,
        stacked=stacked,
        calibrators=fit_latest(
            rows,
            outcomes_of(labels, horizon=horizon.name, band_bps=band),
            as_of=as_of,
            min_sessions=least,
            max_sessions=most,
        ),
        residuals=fit_residuals(rows, labels, horizon=horizon, as_of=as_of),
        scale=return_scale(evidence.moments, as_of, horizon),
    )


def _of(names: set[str], models: Iterable[FittedModel]) -> tuple[FittedModel, ...]:
    return tuple(m for m in models if m.family.name in names)


def _known_bars(
    lake: Lake, timeframe: Timeframe, starts: Sequence[dt.date | None], as_of: dt.datetime
) -> pl.DataFrame:
    """Return bars from the earliest of these sessions on, as far as they were known."""
    there = [s for s in starts if s is not None]
    start = min(there) if len(there) == len(starts) else None
    return read_adjusted(lake, timeframe, start, None).filter(pl.col(Bar.KNOWN_AT) <= as_of)


def recent_features(
    stores: Stores, ensembles: Sequence[Ensemble], as_of: dt.datetime
) -> dict[Timeframe, pl.DataFrame]:
    """Return by timeframe the features of the last sessions that the models can reach."""
    day = as_of.astimezone(calendar.NEW_YORK).date()
    by_timeframe: dict[Timeframe, list[FittedModel]] = {}
    for ensemble in ensembles:
        models = by_timeframe.setdefault(ensemble.horizon.timeframe, [])
        models += [m for _, m in ensemble.engines()]
    return {t: _recent(stores, t, models, day) for t, models in by_timeframe.items()}


def _recent(
    stores: Stores, timeframe: Timeframe, models: Sequence[FittedModel], day: dt.date
) -> pl.DataFrame:
    windows = any(m.family.needs_sequences for m in models)
    sessions = max(RECENT_SESSIONS, reach_of(timeframe) if windows else 0)
    first = calendar.offset_session(calendar.previous_session(day), -sessions)
    table = stores.lake.scan(feature_table(timeframe))
    names = (source_of(n) for m in models for n in m.feature_names)
    wanted = {*PANEL_KEYS, VOLATILITY, *names}
    # One that is gone is for the dataset to name.
    there = [c for c in table.collect_schema().names() if c in wanted]
    return stores.only_members(table.filter(pl.col("session") >= first).select(there)).collect()


def keep_live(lake: Lake, scores: Iterable[Scores], as_of: dt.datetime) -> int:
    """Keep what a scheduled run forecast; return how many rows were new.

    What was forecast first stays: a later run on the same bar, or the same run again, changes
    nothing. These rows, and no walk-forward, say how a model does when it counts.
    """
    made = pl.concat([s.predictions for s in scores]).with_columns(
        pl.lit(as_of).cast(LIVE_SCHEMA["run_as_of"]).alias("run_as_of")
    )
    keys = [Prediction.SYMBOL, Prediction.BAR_END, Prediction.HORIZON, Prediction.ENGINE]
    added = 0
    with lake.locked():
        for (session,), rows in made.partition_by(Prediction.SESSION, as_dict=True).items():
            whole = rows.select(LIVE_SCHEMA.names()).cast(LIVE_SCHEMA)
            if lake.exists(LIVE_TABLE):
                there = lake.scan(LIVE_TABLE).filter(pl.col(Prediction.SESSION) == session)
                kept = there.collect().select(LIVE_SCHEMA.names())
                whole = pl.concat([kept, whole.join(kept, on=keys, how="anti")])
                added -= kept.height
            added += whole.height
            lake.replace(LIVE_TABLE, whole, [session])
    return added
