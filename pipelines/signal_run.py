"""A scheduled run's signals: made from a frozen lake, published whole, and made again.

What a run reads is frozen when it begins: versions of tables, of models, and the settings. They
are kept beside the batch, so that the same function makes the same signals again on any later day.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from market import calendar
from market.actions import per_share_of
from market.bars import splits_in_force
from market.errors import SignalError
from market.horizons import Horizon, Run, find_horizon, scheduled_for
from market.ledger import Ledger
from market.ledger_tables import batch_inputs
from market.schema import Bar
from market.source import EVERY
from pipelines.code_version import code_version
from pipelines.resources import Stores
from pipelines.scoring import keep_live, load_ensembles, recent_features
from pipelines.settings import Settings
from pipelines.used_settings import settings_as_used, settings_as_were
from signals.compose import compose_signals
from signals.inputs import BatchInputs, HorizonInputs, horizon_inputs
from signals.publish import PublishedBatch, publish_batch
from signals.reasons import strongest_reasons, strongest_symbols
from signals.record import record_engines, record_regime, record_weights
from signals.score import Scores, score_horizons

EXPLAINED = 20
"""Of so many of a horizon's strongest signals reasons are published; of others on request."""


@dataclass(frozen=True)
class MadeSignals:
    """What a run made.

    Attributes
    ----------
    rows : pl.DataFrame
        ``signals.schema.CONTENT_SCHEMA``.
    scores : tuple of Scores
        By horizon.
    inputs : BatchInputs
        From what.
    seconds : mapping
        What took how long.
    """

    rows: pl.DataFrame
    scores: tuple[Scores, ...]
    inputs: BatchInputs
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])


def published_horizons(settings: Settings, run: Run) -> list[Horizon]:
    """Return the horizons that are on and that this run publishes."""
    return [h for h in settings.enabled_horizons if run in h.runs]


def make_signals(
    stores: Stores,
    horizons: Collection[Horizon],
    as_of: dt.datetime,
    *,
    models: Mapping[str, HorizonInputs] | None = None,
    symbols: Collection[str] | None = None,
) -> MadeSignals:
    """Score horizons from stores whose lake is frozen.

    Parameters
    ----------
    stores : Stores
        With a frozen lake: see :meth:`market.lake.Lake.freeze`.
    horizons : collection of Horizon
        Which.
    as_of : datetime
        Aware; nothing known later is looked at.
    models : mapping, optional
        Horizon to the versions of models to score with; the champions of ``as_of`` when absent.
    symbols : collection of str, optional
        Give reasons for these, instead of for the strongest.

    Raises
    ------
    SignalError, ModelError, LakeError
        When something that is read is not there.
    """
    settings, spent = stores.settings, _Clock()
    ensembles = load_ensembles(stores, horizons, as_of, models)
    spent.lap("models and weights")
    features = recent_features(stores, ensembles, as_of)
    spent.lap("features")
    scores = tuple(
        score_horizons(
            features, ensembles, as_of=as_of, delay=stores.delay, band_bps=settings.band_bps
        ).values()
    )
    spent.lap("scoring")
    prices = {h: last_prices(stores, h, as_of) for h in {s.ensemble.horizon for s in scores}}
    rows = [_compose(settings, s, prices[s.ensemble.horizon], as_of, symbols) for s in scores]
    spent.lap("reasons and levels")
    inputs = BatchInputs(
        code=code_version(),
        settings=settings_as_used(settings),
        tables=stores.lake.versions or {},
        horizons={
            s.ensemble.horizon.name: horizon_inputs(s, prices[s.ensemble.horizon]) for s in scores
        },
    )
    spent.lap("digests")
    return MadeSignals(pl.concat(rows), scores, inputs, spent.seconds)


def publish_run(
    stores: Stores, run: Run, session: dt.date, now: dt.datetime
) -> tuple[MadeSignals, PublishedBatch]:
    """Score and publish everything that a run of a session publishes.

    Raises
    ------
    SignalError
        When the run is not due yet, or nothing is published by it.
    """
    settings, as_of = stores.settings, scheduled_for(run, session)
    horizons = published_horizons(settings, run)
    if now < as_of:
        raise SignalError(
            f"the {run.value} run of {session} is not due yet",
            got=f"now {now.isoformat()}",
            allowed=f"from {as_of.isoformat()}",
            remedy="wait, or name an earlier session",
        )
    if not horizons:
        raise SignalError(
            f"the {run.value} run publishes none of the horizons that are on",
            got=", ".join(settings.models.horizons),
            allowed="a horizon whose row names this run",
            remedy="switch such a horizon on in the settings",
        )
    late = now > as_of + dt.timedelta(minutes=settings.trading.late_after_minutes)
    made = make_signals(stores.reading(stores.lake.freeze()), horizons, as_of)
    clock = _Clock()
    with stores.ledger as ledger:
        for scores in made.scores:
            _record(ledger, scores, settings.config_hash, as_of, now)
        batch = publish_batch(
            ledger,
            made.rows,
            run=run.value,
            as_of=as_of,
            scheduled_for=as_of,
            ts_emit=now,
            late=late,
            head_file=stores.head_file,
            inputs=made.inputs.to_json(),
            universe=_universe(stores, as_of),
        )
    keep_live(stores.lake, made.scores, as_of)
    clock.lap("publication")
    return replace(made, seconds={**made.seconds, **clock.seconds}), batch


def read_inputs(ledger: Ledger, batch_id: str) -> BatchInputs:
    """Return what a batch was made from.

    Raises
    ------
    SignalError
        When that was not kept: the batch is of an earlier version of Isobar.
    """
    found = ledger.rows(batch_inputs.select().where(batch_inputs.c.batch_id == batch_id))
    if not found:
        raise SignalError(
            f"nobody wrote down what batch {batch_id} was made from",
            allowed="a batch that this version of Isobar, or a later one, published",
            remedy="ask about a newer batch",
        )
    return BatchInputs.from_json(found[0]["inputs"])


def make_again(
    stores: Stores,
    inputs: BatchInputs,
    as_of: dt.datetime,
    *,
    horizons: Collection[str] | None = None,
    symbols: Collection[str] | None = None,
) -> MadeSignals:
    """Make a batch again from what it was made from.

    Parameters
    ----------
    stores : Stores
        Where tables and models are; of its settings those that change no number.
    inputs : BatchInputs
        From :func:`read_inputs`.
    as_of : datetime
        Of the batch.
    horizons : collection of str, optional
        These alone; all of the batch when absent.
    symbols : collection of str, optional
        See :func:`make_signals`.

    Raises
    ------
    SignalError, ModelError, LakeError, SettingsError
        When something that it was made from is there no longer.
    """
    settings = settings_as_were(inputs.settings, stores.settings)
    frozen = Stores(settings, stores.progress).reading(stores.lake.at(inputs.tables))
    wanted = [h for h in inputs.horizons if horizons is None or h in horizons]
    return make_signals(
        frozen,
        [find_horizon(h) for h in wanted],
        as_of,
        models=inputs.horizons,
        symbols=symbols,
    )


def last_prices(stores: Stores, horizon: Horizon, as_of: dt.datetime) -> Mapping[str, float]:
    """Return each symbol's last raw close known at ``as_of``, per share of that day."""
    table = "bars_1m" if horizon.timeframe.is_intraday else "bars_1d"
    day = as_of.astimezone(calendar.NEW_YORK).date()
    first = calendar.offset_session(calendar.previous_session(day), -5)
    bars = stores.lake.read_bars(table, start=first, as_of=as_of)
    last = bars.group_by(Bar.SYMBOL).agg(pl.col(Bar.SESSION, Bar.CLOSE).last())
    priced = per_share_of(last, splits_in_force(stores.lake, as_of)).sort(Bar.SYMBOL)
    return dict(priced.select(Bar.SYMBOL, Bar.CLOSE).iter_rows())


def _compose(
    settings: Settings,
    scores: Scores,
    prices: Mapping[str, float],
    as_of: dt.datetime,
    symbols: Collection[str] | None,
) -> pl.DataFrame:
    wanted = strongest_symbols(scores.predictions, EXPLAINED) if symbols is None else symbols
    return compose_signals(
        scores.predictions,
        horizon=scores.ensemble.horizon,
        prices=prices,
        regime=regime_of(scores),
        band_bps=settings.band_bps,
        as_of=as_of,
        data_hash=scores.data_hash,
        config_hash=settings.config_hash,
        contributions=strongest_reasons(scores, wanted),
        levels=scores.ensemble.residuals,
    )


def regime_of(scores: Scores) -> str:
    """Return the regime of the market that was known when these were made."""
    regimes = scores.ensemble.regimes
    return str(regimes["regime"][-1]) if regimes.height else "neutral"


def _record(
    ledger: Ledger, scores: Scores, config_hash: str, as_of: dt.datetime, now: dt.datetime
) -> None:
    ensemble = scores.ensemble
    record_weights(ledger, ensemble.weights, horizon=ensemble.horizon.name, as_of=as_of)
    record_engines(ledger, ensemble, scores.data_hash, config_hash, recorded_at=now)
    record_regime(ledger, regime_of(scores), as_of=as_of, recorded_at=now)


def _universe(stores: Stores, as_of: dt.datetime) -> Collection[str] | None:
    """Return the symbols that may have a signal; ``None`` where whatever traded may."""
    last = calendar.latest_session(as_of)
    today = as_of.astimezone(calendar.NEW_YORK).date()
    sessions = sorted({last, today} if calendar.is_session(today) else {last})
    members = stores.members(sessions)
    if members is not None:
        return members["symbol"].unique().to_list()
    named = stores.settings.symbols
    return None if not named or EVERY in named else named


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what] = self.seconds.get(what, 0.0) + round(now - self._since, 3)
        self._since = now
