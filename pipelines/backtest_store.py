"""Backtests as they are kept: a row in the ledger, a folder with page and sessions, the looks."""

import datetime as dt
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from backtest.comparison import SESSION_SCHEMA, Run
from backtest.overfitting import Trials
from backtest.session_metrics import SESSIONS_PER_YEAR
from market.errors import BacktestError
from market.horizons import HORIZONS, Horizon, combined_name
from market.ledger_tables import backtests
from pipelines.resources import Stores
from signals.record import insert_new

FOLDER = "backtests"
_PAGE, _SESSIONS = "tear-sheet.html", "sessions.parquet"
_NEAR = 6
_HORIZONS = frozenset(h.name for h in HORIZONS)


@dataclass(frozen=True)
class StoredBacktest:
    """A backtest in the ledger.

    Attributes
    ----------
    backtest_id : str
        Its key.
    horizon : str
        What was traded; of several horizons the names joined by ``+``.
    created_at : datetime
        Aware, UTC.
    start_session, end_session : str
        Of the predictions.
    metrics : mapping
        From :func:`backtest.metrics.compute_metrics`, with ``overfitting``.
    data_hash, config_hash : str
        Of the predictions and the settings.
    tear_sheet : str
        Path of the page.
    """

    backtest_id: str
    horizon: str
    created_at: dt.datetime
    start_session: str
    end_session: str
    metrics: Mapping[str, Any]
    data_hash: str
    config_hash: str
    tear_sheet: str

    @property
    def horizons(self) -> list[str]:
        """Names of the horizons that were traded."""
        return self.horizon.split("+")

    @property
    def name(self) -> str:
        """Horizon and time, as a person tells runs apart."""
        return f"{self.horizon} {self.created_at:%Y-%m-%d %H:%M:%S}"


def count_looks(
    stores: Stores, horizons: Sequence[Horizon], data_hash: str, config_hash: str
) -> Trials:
    """Count how often these horizons were looked at before a backtest of them.

    Parameters
    ----------
    stores : Stores
        Of the installation: its tracking store, its studies and its ledger.
    horizons : sequence of Horizon
        Rows of the horizons table. A backtest of any of them, alone or with others, was a look.
    data_hash, config_hash : str
        Of the backtest at hand: the same one again is no new look.

    Returns
    -------
    Trials
        Sums over the horizons; a backtest of several of them is one.

    Raises
    ------
    ModelError
        When a store does not answer: what is not counted flatters.
    """
    # Optuna takes a second to import, which nothing else here needs.
    from models.tuning import count_trials
    from pipelines.tuning import study_storages

    names = [h.name for h in horizons]
    runs, engines = _sums(stores.tracker.count_runs(n) for n in names)
    searched, trials = _sums(count_trials(s, n) for s in study_storages(stores) for n in names)
    others: dict[tuple[str, str], float | None] = {}
    for found in list_backtests(stores):
        if not set(names) & set(found.horizons):
            continue
        others.setdefault((found.data_hash, found.config_hash), found.metrics.get("sharpe_ratio"))
    others.pop((data_hash, config_hash), None)
    sharpes = [s / SESSIONS_PER_YEAR**0.5 for s in others.values() if s is not None]
    return Trials(
        training_runs=runs,
        forecasters=engines,
        tuning_trials=trials,
        backtests=len(others) + 1,
        sharpe_ratios=tuple(sharpes),
        counted_in=f"engines of {runs} training runs in MLflow, finished trials of {searched} "
        "studies in Optuna, backtests of other predictions or settings in the ledger",
    )


def _sums(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*pairs, strict=True)
    return sum(first), sum(second)


def keep_backtest(
    stores: Stores,
    horizons: Sequence[Horizon],
    predictions: pl.DataFrame,
    *,
    metrics: Mapping[str, object],
    page: str,
    sessions: pl.DataFrame,
    data_hash: str,
    now: dt.datetime,
) -> StoredBacktest:
    """Write a backtest's page and sessions, then its row in the ledger.

    Parameters
    ----------
    stores : Stores
        Of the installation.
    horizons : sequence of Horizon
        Those that were traded.
    predictions : pl.DataFrame
        What was traded: ``session``, ``as_of``.
    metrics, page : mapping, str
        JSON-ready; HTML.
    sessions : pl.DataFrame
        From :func:`backtest.metrics.session_curve`.
    data_hash : str
        Of the predictions.
    now : datetime
        Aware.

    Returns
    -------
    StoredBacktest
        As it stands in the ledger.
    """
    settings = stores.settings
    backtest_id = f"{combined_name(horizons)}-{settings.config_hash}-{now:%Y%m%dT%H%M%S%f}"
    folder = settings.home / FOLDER / backtest_id
    scratch = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / _PAGE).write_text(page, "utf-8")
    sessions.select(SESSION_SCHEMA.names()).cast(dict(SESSION_SCHEMA)).write_parquet(
        scratch / _SESSIONS
    )
    # A folder without a row is one that nothing refers to; a row without its folder would lie.
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    row = {
        "backtest_id": backtest_id,
        "as_of": predictions["as_of"].max(),
        "created_at": now,
        "start_session": str(predictions["session"].min()),
        "end_session": str(predictions["session"].max()),
        "horizons": combined_name(horizons).split("+"),
        "metrics": metrics,
        "data_hash": data_hash,
        "config_hash": settings.config_hash,
        "tear_sheet": (folder / _PAGE).as_posix(),
    }
    with stores.ledger as ledger:
        insert_new(ledger, backtests, [row])
    return _stored(row)


def list_backtests(stores: Stores) -> list[StoredBacktest]:
    """Return the backtests in the ledger, the newest first."""
    with stores.ledger as ledger:
        rows = ledger.rows(sa.select(backtests).order_by(backtests.c.created_at.desc()))
    return [_stored(r) for r in rows]


def find_backtest(stored: Sequence[StoredBacktest], named: str) -> StoredBacktest:
    """Return the backtest of an id or its beginning, or the newest of a horizon or of several.

    Parameters
    ----------
    stored : sequence of StoredBacktest
        The newest first.
    named : str
        ``1d``, ``1d+14d``, or an id, or as much of one as tells it from the others.

    Raises
    ------
    BacktestError
        When there is none, or several begin like that.
    """
    newest = [s for s in stored if s.horizon == named]
    found = newest[:1] or [s for s in stored if s.backtest_id.startswith(named)]
    if len(found) != 1:
        raise BacktestError(
            "no such backtest" if not found else "several backtests begin like that",
            got=named,
            allowed=", ".join(s.backtest_id for s in (found or stored)[:_NEAR])
            or "nothing: none is stored",
            remedy=f"see `isobar backtest list`, or run `{_advised(named)}`",
        )
    return found[0]


def _advised(named: str) -> str:
    every = all(part in _HORIZONS for part in named.split("+"))
    return backtest_command(named) if every else "isobar backtest"


def backtest_command(horizon: str) -> str:
    """Return the command that makes a backtest of a horizon, or of several joined by ``+``.

    Examples
    --------
    >>> backtest_command("1d+14d")
    'isobar backtest --combined --horizon 1d --horizon 14d'
    """
    names = horizon.split("+")
    combined = ["--combined"] if len(names) > 1 else []
    return " ".join(["isobar backtest", *combined, *(f"--horizon {n}" for n in names)])


def read_run(stores: Stores, stored: StoredBacktest) -> Run:
    """Return a stored backtest with its sessions, to compare it.

    Raises
    ------
    BacktestError
        When its sessions or its table of metrics are not there: it is of an older version, or its
        folder is gone.
    """
    path: Path = stores.settings.home / FOLDER / stored.backtest_id / _SESSIONS
    if not path.is_file() or "table" not in stored.metrics:
        raise BacktestError(
            "the sessions of this backtest are not kept",
            got=stored.backtest_id,
            allowed="a backtest with its folder",
            remedy=f"run `{backtest_command(stored.horizon)}` again",
        )
    return Run(stored.name, stored.metrics, pl.read_parquet(path))


def page_of(stores: Stores, stored: StoredBacktest) -> Path:
    """Return where the page of a backtest lies under this data root, wherever it was made."""
    return stores.settings.home / FOLDER / stored.backtest_id / _PAGE


def _stored(row: Mapping[str, Any]) -> StoredBacktest:
    names = [f for f in StoredBacktest.__dataclass_fields__ if f != "horizon"]
    return StoredBacktest(horizon="+".join(row["horizons"]), **{n: row[n] for n in names})
