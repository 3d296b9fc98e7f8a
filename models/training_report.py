"""The report of one training: what its MLflow run and its asset carry beside the models."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import orjson
import polars as pl

from market.horizons import Horizon
from models.card_tables import coverage_table, skill_table, tell_reached
from models.ensemble_report import ENSEMBLE
from models.fit import FittedModel
from models.model_card import tell_opening, write_card
from models.pictures import as_markdown, draw_training
from models.provenance import Provenance
from models.session_scores import MEASURES, Grouping, Score
from models.trained_features import TrainedFeatures
from models.training_tables import SetScore, TrainingTables, tabulate_training

CARD = "model_card.md"
TRAINED_FEATURES = "trained_features.json"
_STEPPED = (
    Score.RANK_IC,
    Score.RANK_IC_LOW,
    Score.RANK_IC_HIGH,
    Score.IC,
    Score.BRIER,
    Score.LOG_LOSS,
    Score.ECE,
    Score.HIT_RATE,
    Score.TOP_ACCURACY,
)
_SHOWN = {
    "reliability": "stated and observed probability",
    "accuracy": "accuracy against coverage",
    "rank_ic": "rank IC, summed up",
    "importances": "features that move forecasts most",
}


@dataclass(frozen=True)
class TrainingReport:
    """What is told of a training.

    Attributes
    ----------
    horizon, ensemble : str
        Of the training.
    provenance : Provenance
        What it read.
    tables : TrainingTables
        Every figure.
    card : str
        Markdown.
    pictures : mapping
        Name to PNG.
    features : TrainedFeatures, optional
        How the features were distributed, to hold later rows against.
    """

    horizon: str
    ensemble: str
    provenance: Provenance
    tables: TrainingTables
    card: str
    pictures: Mapping[str, bytes]
    features: TrainedFeatures | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of a run: ``<measure>_<engine>``, and with ``regime/<regime>/`` before it.

        Those that are no number are left out.
        """
        found: dict[str, float] = {}
        for grouping in (Grouping.ALL, Grouping.REGIME):
            for row in self.tables.grouped(grouping).iter_rows(named=True):
                of = "" if grouping is Grouping.ALL else f"{grouping.value}/{row[Score.GROUP]}/"
                found |= {f"{of}{m}_{_plain(row[Score.ENGINE])}": row[m] for m in MEASURES}
        mine = self.tables.overall(self.ensemble)
        if mine is not None:
            # By the names that the runs before reports had.
            found |= {c.value: mine[c] for c in (Score.RANK_IC_LOW, Score.RANK_IC_HIGH)}
        for row in self.tables.sets.iter_rows(named=True):
            for measure in (SetScore.COVERED, SetScore.SINGLE, SetScore.DIRECTED):
                found[f"set_{measure}_{_plain(row[SetScore.ENGINE])}"] = row[measure]
        return _finite(found)

    @property
    def window_metrics(self) -> dict[int, dict[str, float]]:
        """Metrics ``window/<measure>_<engine>`` of each window, by its number."""
        found: dict[int, dict[str, float]] = {}
        for row in self.tables.grouped(Grouping.WINDOW).iter_rows(named=True):
            of = found.setdefault(int(row[Score.GROUP]), {})
            of |= _finite({f"window/{m}_{_plain(row[Score.ENGINE])}": row[m] for m in _STEPPED})
        return found

    @property
    def tags(self) -> dict[str, str]:
        """Tags of a run."""
        return self.provenance.tags()

    def files(self) -> dict[str, bytes]:
        """Return the artifacts of a run: path to content.

        The card, ``windows.json`` (each window with the version of its models), a JSON table of
        records for everything else, the features where they were summarised, and the pictures.
        """
        tables = self.tables
        files = {CARD: self.card.encode(), "windows.json": _windows(tables)}
        for field in fields(tables):
            if field.name not in ("windows", "versions"):
                frame: pl.DataFrame = getattr(tables, field.name)
                files[f"tables/{field.name}.json"] = _records(frame)
        if self.features is not None:
            files[TRAINED_FEATURES] = self.features.to_json().encode()
        return files | {f"pictures/{name}.png": png for name, png in self.pictures.items()}


def report_training(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    regimes: pl.DataFrame,
    models: Sequence[FittedModel],
    horizon: Horizon,
    provenance: Provenance,
    as_of: dt.datetime,
    importances: pl.DataFrame | None = None,
    windows: pl.DataFrame | None = None,
    features: TrainedFeatures | None = None,
    ensemble: str = ENSEMBLE,
    draws: int = 1000,
) -> TrainingReport:
    """Report a training of one horizon.

    Parameters
    ----------
    predictions : pl.DataFrame
        Out of sample, every engine and the ensemble: ``STORED_SCHEMA``, calibrated with the raw
        probabilities beside, or ``PREDICTION_SCHEMA``.
    outcomes : pl.DataFrame
        ``OUTCOME_SCHEMA``, with excess returns.
    regimes : pl.DataFrame
        ``as_of``, ``regime``; the newest known at a prediction's ``as_of`` counts.
    models : sequence of FittedModel
        The newest models, one per family.
    horizon : Horizon
        Of all predictions; sets the mean length of the bootstrap's blocks, twice the sessions
        that labels overlap and at least 5.
    provenance : Provenance
        What was read.
    as_of : datetime
        Aware; when the training happened. Outcomes known later are not looked at.
    importances : pl.DataFrame, optional
        From :func:`models.importances.importance_table`, of models with other features one
        below the other.
    windows : pl.DataFrame, optional
        From :func:`models.windows.describe_windows`; when absent, as predictions show them.
    features : TrainedFeatures, optional
        From :func:`models.trained_features.summarize_training`; kept with the run.
    ensemble : str
        The engine that signals are made of. Without predictions of it, as of challengers, the
        engines are told of one by one.
    draws : int
        Resamples of every interval.

    Returns
    -------
    TrainingReport
        Where no outcome is known yet the card says so, and there are no figures.

    Raises
    ------
    ModelError
        When windows do not fit the predictions, or predictions and outcomes are not sound.
    """
    tables = tabulate_training(
        predictions,
        outcomes,
        regimes,
        models,
        importances=importances,
        windows=windows,
        ensemble=ensemble,
        as_of=as_of,
        seed=provenance.seed,
        block=float(max(5, 2 * horizon.sessions)),
        draws=draws,
    )
    card = write_card(
        tables,
        predictions,
        models,
        horizon=horizon,
        provenance=provenance,
        ensemble=ensemble,
        as_of=as_of,
    )
    pictures = draw_training(tables, horizon=horizon.name, ensemble=ensemble)
    return TrainingReport(horizon.name, ensemble, provenance, tables, card, pictures, features)


def training_metadata(report: TrainingReport) -> dict[str, str]:
    """Return what a training's asset shows, by label; every value is Markdown.

    A sentence on skill, a table of skill by engine and one by regime, accuracy against coverage
    with where 60, 65 and 70 percent are reached, and the pictures.
    """
    tables = report.tables
    shown = {"skill": tell_opening(tables, report.ensemble)}
    if tables.scores.height:
        shown["skill by engine"] = skill_table(tables.grouped(Grouping.ALL), "engine", Score.ENGINE)
        mine = tables.grouped(Grouping.REGIME).filter(pl.col(Score.ENGINE) == report.ensemble)
        if mine.height:
            shown["skill by regime"] = skill_table(mine, "regime", Score.GROUP)
    if tables.accuracy.height:
        told = "\n".join(f"- {line}" for line in tell_reached(tables.reached))
        shown["accuracy against coverage"] = f"{coverage_table(tables.accuracy)}\n\n{told}"
    pictures = {
        f"picture: {_SHOWN[name]}": as_markdown(_SHOWN[name], png)
        for name, png in report.pictures.items()
    }
    return shown | pictures


def _windows(tables: TrainingTables) -> bytes:
    rows = [
        row
        | {
            "models": dict(
                tables.versions.filter(pl.col("window") == row["window"])
                .select("engine", "model_version")
                .rows()
            )
        }
        for row in tables.windows.iter_rows(named=True)
    ]
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2)


def _records(frame: pl.DataFrame) -> bytes:
    return orjson.dumps(frame.to_dicts())


def _plain(engine: str) -> str:
    # MLflow refuses some characters in names of metrics.
    return engine.replace("@", "-")


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {k: float(v) for k, v in metrics.items() if v is not None and math.isfinite(v)}
