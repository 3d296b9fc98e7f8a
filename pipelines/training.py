"""Train one horizon: out-of-sample predictions into the lake, models and report into MLflow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from features.labels import forward_returns
from features.neutral_labels import NEUTRAL_RETURN
from market.bars import by_company, read_adjusted
from market.horizons import Horizon
from market.ingest_log import settled_sessions
from market.lake import Lake
from market.lineage import dataset_digest
from market.timeframes import Timeframe
from models.calibration import calibrate_walk_forward, windows_of
from models.dataset import EXCESS_RETURN
from models.ensemble import stack_walk_forward
from models.evaluation import Estimate, skill
from models.fit import NEUTRAL, FittedModel
from models.forecast import Prediction, keep_raw
from models.outcomes import outcomes_of
from models.provenance import Provenance, feature_hash
from models.recipe import challenger_engine, is_challenger
from models.train import Rhythm, Training, train_horizon
from models.trained_features import merge_trained
from models.training_report import TrainingReport, report_training, training_metadata
from pipelines.code_version import code_version
from pipelines.daily_recipe import learns_ranks, neutral_labels
from pipelines.feature_run import definitions_of, feature_table, kept_features, used_timeframes
from pipelines.recipes import Recipes, plan_recipes, wanted_recipes, window_setting
from pipelines.resources import Stores
from pipelines.settings import ModelSettings
from pipelines.settled import keep_settled
from signals.schema import ENSEMBLE_ENGINE
from signals.weighting import blend_walk_forward

TrainingProgress = Callable[[int, int, int], None]
"""Called with models fitted, models in all, and windows in all."""


@dataclass(frozen=True)
class _Trained:
    predictions: pl.DataFrame
    champions: tuple[FittedModel, ...]
    challengers: tuple[FittedModel, ...]
    windows: int
    estimates: Mapping[str, Estimate]
    reports: Mapping[bool, TrainingReport]


@dataclass(frozen=True)
class TrainingSummary:
    """What a training of a horizon made.

    Attributes
    ----------
    predictions : int
        Rows: engines, challengers, meta-learner and ensemble; out of sample.
    champions, challengers : tuple of str
        Versions of the newest models.
    windows : int
        Out-of-sample windows.
    estimates : mapping
        Engine to its rank IC with interval.
    run_id : str
        The MLflow run of the champions.
    shown : mapping
        Markdown by label, for the asset's metadata.
    """

    predictions: int
    champions: tuple[str, ...]
    challengers: tuple[str, ...]
    windows: int
    estimates: Mapping[str, Estimate]
    run_id: str
    shown: Mapping[str, str]


def read_labels(lake: Lake, horizon: Horizon, start: dt.date | None = None) -> pl.DataFrame:
    """Return the labels of a horizon from the bars in the lake, from a session on."""
    bars = read_adjusted(lake, horizon.timeframe, start, None)
    return by_company(lake, bars, lambda rows: forward_returns(rows, horizon))


def training_features(
    stores: Stores, timeframe: Timeframe, after: dt.date | None = None
) -> pl.LazyFrame:
    """Return members' feature rows of settled sessions, of later ones than ``after``."""
    settled = settled_sessions(stores.lake, Timeframe.D1)
    if timeframe.is_intraday:
        settled &= settled_sessions(stores.lake, Timeframe.M1)
    wanted = sorted(s for s in settled if after is None or s > after)
    features = stores.lake.scan(feature_table(timeframe))
    return stores.only_members(features.filter(pl.col("session").is_in(wanted)))


def train_and_store(
    stores: Stores,
    horizon: Horizon,
    *,
    start: dt.date | None,
    end: dt.date | None,
    as_of: dt.datetime,
    now: dt.datetime,
    progress: TrainingProgress,
) -> TrainingSummary:
    """Train a horizon on the lake; keep predictions and models.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    horizon : Horizon
        Its row of the horizons table.
    start, end : date, optional
        First and last session of the out-of-sample period.
    as_of : datetime
        Aware. What was known later is not looked at.
    now : datetime
        Aware. From when on the models serve.
    progress : callable
        Called with (models fitted, models in all, windows in all).

    Raises
    ------
    ModelError
        When there is too little to train on, or MLflow refuses: what served goes on serving.
    """
    settings, lake = stores.settings, stores.lake
    labels = read_labels(lake, horizon)
    version = dataset_digest(lake, used_timeframes(settings))
    features = {f.name for f in kept_features(settings, horizon.timeframe)}
    members = training_features(stores, horizon.timeframe)
    wanted = wanted_recipes(settings, horizon, ranks=learns_ranks(settings, horizon, members))
    plan = plan_recipes(wanted, stores.tracker.stored(horizon.name), features)
    steps = _Steps(plan, progress)
    made = [
        (
            recipes,
            _train(stores, horizon, recipes, members, labels, start=start, end=end, as_of=as_of,
                   data_hash=version, progress=steps.of(place)),
        )
        for place, recipes in enumerate(plan)
    ]  # fmt: skip
    regimes = lake.scan("regimes").collect()
    raw = assemble_predictions(made, labels, regimes, horizon)
    outcomes = outcomes_of(labels, horizon=horizon.name, band_bps=settings.band_bps)
    predictions = _calibrated(raw, outcomes, horizon)
    reports = {
        challenge: _report(stores, horizon, made, predictions, outcomes, challenge, as_of, version)
        for challenge in {r.challenge for r, _ in made}
    }
    with lake.locked():
        lake.replace("predictions", predictions, [horizon.name])
        keep_settled(lake, horizon, raw, labels, regimes)
    trained = _Trained(
        predictions,
        tuple(m for r, t in made if not r.challenge for m in t.models),
        tuple(m for r, t in made if r.challenge for m in t.models),
        max(t.windows for _, t in made),
        skill_by_engine(predictions, labels, horizon, settings.models.seed),
        reports,
    )
    return TrainingSummary(
        predictions.height,
        tuple(m.version for m in trained.champions),
        tuple(m.version for m in trained.challengers),
        trained.windows,
        trained.estimates,
        _log(stores, horizon, trained, version, features, now),
        training_metadata(reports[False]),
    )


class _Steps:
    """Counts models over several trainings."""

    def __init__(self, plan: Sequence[Recipes], progress: TrainingProgress) -> None:
        self._sizes = [len(r.families) for r in plan]
        self._progress = progress

    def of(self, place: int) -> Callable[[int, int], None]:
        """Return the progress of one of them: each has as many windows as the others."""
        before, here = sum(self._sizes[:place]), self._sizes[place]

        def step(done: int, total: int) -> None:
            windows = total // here
            self._progress(before * windows + done, sum(self._sizes) * windows, windows)

        return step


def _train(
    stores: Stores,
    horizon: Horizon,
    recipes: Recipes,
    features: pl.LazyFrame,
    labels: pl.DataFrame,
    *,
    start: dt.date | None,
    end: dt.date | None,
    as_of: dt.datetime,
    data_hash: str,
    progress: Callable[[int, int], None],
) -> Training:
    settings = stores.settings
    neutral = NEUTRAL in recipes.rule
    return train_horizon(
        features,
        neutral_labels(stores, horizon, features, labels) if neutral else labels,
        horizon=horizon,
        families=recipes.families,
        feature_names=recipes.feature_names,
        rhythm=_rhythm(settings.models, horizon, recipes.rule),
        start=start,
        end=end,
        as_of=as_of,
        seed=settings.models.seed,
        band_bps=recipes.rule["band_bps"],
        data_hash=data_hash,
        target=NEUTRAL_RETURN if neutral else EXCESS_RETURN,
        matrix_bytes=int(settings.models.matrix_gb * 1e9),
        live_sessions=settings.drift.live_sessions,
        progress=progress,
    )


def _rhythm(models: ModelSettings, horizon: Horizon, rule: Mapping[str, float]) -> Rhythm:
    longest = rule.get("max_train_sessions")
    return Rhythm(
        min_train_sessions=window_setting(models, horizon, "min_train_sessions"),
        test_sessions=window_setting(models, horizon, "test_sessions"),
        embargo_sessions=models.embargo_sessions,
        max_train_sessions=None if longest is None else int(longest),
        last_weight=rule["last_weight"],
    )


def assemble_predictions(
    made: Iterable[tuple[Recipes, Training]],
    labels: pl.DataFrame,
    regimes: pl.DataFrame,
    horizon: Horizon,
) -> pl.DataFrame:
    """Return all engines' predictions, the ensemble of the champions' last.

    A challenger stands under a name of its own and has no part in the ensemble.
    """
    parts = {challenge: [] for challenge in (False, True)}
    for recipes, training in made:
        parts[recipes.challenge].append(training.predictions)
    core = pl.concat(parts[False])
    if horizon.stacked:
        core = pl.concat([core, stack_walk_forward(core, labels)])
    names = {name: challenger_engine(name) for name in core[Prediction.ENGINE].unique()}
    beside = [p.with_columns(pl.col(Prediction.ENGINE).replace(names)) for p in parts[True]]
    return pl.concat([core, *beside, blend_walk_forward(core, labels, regimes)])


def _calibrated(raw: pl.DataFrame, outcomes: pl.DataFrame, horizon: Horizon) -> pl.DataFrame:
    least, most = windows_of(horizon)
    made, _ = calibrate_walk_forward(keep_raw(raw), outcomes, min_sessions=least, max_sessions=most)
    return made


def skill_by_engine(
    predictions: pl.DataFrame, labels: pl.DataFrame, horizon: Horizon, seed: int
) -> dict[str, Estimate]:
    """Return each engine's out-of-sample rank IC with its interval."""
    scored = predictions.join(
        labels.select("symbol", "bar_end", "excess_return"), on=["symbol", "bar_end"], how="left"
    )
    block = float(max(5, 2 * horizon.sessions))
    return {
        str(name[0]): skill(part, seed=seed, periods_per_block=block)
        for name, part in sorted(scored.partition_by(Prediction.ENGINE, as_dict=True).items())
    }


def _log(
    stores: Stores,
    horizon: Horizon,
    trained: _Trained,
    version: str,
    features: set[str],
    now: dt.datetime,
) -> str:
    """Log challengers first: a training counts as done once its champions are stored."""
    if trained.challengers:
        _log_run(stores, horizon, trained, trained.challengers, version, features, now)
    return _log_run(stores, horizon, trained, trained.champions, version, features, now)


def _log_run(
    stores: Stores,
    horizon: Horizon,
    trained: _Trained,
    models: Sequence[FittedModel],
    version: str,
    features: set[str],
    now: dt.datetime,
) -> str:
    settings = stores.settings
    challenge = models is trained.challengers
    mine = {e: v for e, v in trained.estimates.items() if is_challenger(e) is challenge}
    metrics = {f"rank_ic_{engine.partition('@')[0]}": e.mean for engine, e in mine.items()}
    if not challenge:
        ensemble = mine[ENSEMBLE_ENGINE]
        metrics |= {"rank_ic_low": ensemble.low, "rank_ic_high": ensemble.high}
    return stores.tracker.log_training(
        horizon.name,
        models,
        params={
            "horizon": horizon.name,
            "families": ",".join(m.family.name for m in models),
            "windows": trained.windows,
            "features": len({n for m in models for n in m.feature_names}),
            "seed": settings.models.seed,
        },
        metrics=metrics,
        tags={
            "dataset_version": version,
            "config_hash": settings.config_hash,
            "role": "challengers" if challenge else "champions",
        },
        now=now,
        features=features,
        report=trained.reports[challenge],
    )


def _report(
    stores: Stores,
    horizon: Horizon,
    made: Sequence[tuple[Recipes, Training]],
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    challenge: bool,
    as_of: dt.datetime,
    version: str,
) -> TrainingReport:
    """Report the champions with their ensemble, or the challengers under their families' names."""
    settings = stores.settings
    mine = [t for r, t in made if r.challenge is challenge]
    models = [m for t in mine for m in t.models]
    kept = kept_features(settings, horizon.timeframe)
    computed_by = definitions_of(kept, settings.features.sectors_file)
    names = dict.fromkeys(n for m in models for n in m.feature_names)
    suffix = challenger_engine("")
    engine = pl.col(Prediction.ENGINE)
    return report_training(
        predictions.filter(engine.str.ends_with(suffix) == challenge).with_columns(
            engine.str.strip_suffix(suffix)
        ),
        outcomes,
        regimes=stores.lake.scan("regimes").collect(),
        models=models,
        horizon=horizon,
        provenance=Provenance(
            data_hash=version,
            feature_hash=feature_hash(
                {**computed_by.window, **computed_by.history, **computed_by.beside}, list(names)
            ),
            config_hash=settings.config_hash,
            code_version=code_version(),
            seed=settings.models.seed,
            band_bps=settings.band_bps,
        ),
        as_of=as_of,
        importances=pl.concat([t.importances for t in mine]),
        windows=mine[0].spans,
        features=merge_trained([t.features for t in mine]),
        ensemble=ENSEMBLE_ENGINE,
    )
