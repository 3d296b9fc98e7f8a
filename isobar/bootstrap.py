"""The first day as one command; each step is skipped when its result is there already."""

from __future__ import annotations

from typing import Any

from market import calendar
from market.timeframes import Timeframe
from pipelines.assets.backtest import is_backtested
from pipelines.jobs import COMPACTION_JOB
from pipelines.launch import Launcher


def bootstrap(launcher: Launcher) -> dict[str, dict[str, Any]]:
    """Fetch history, compute features, train and backtest every horizon that is on.

    Running it again resumes: settled sessions cost no request, existing features are kept, and a
    horizon whose champions were trained on this very dataset is not trained again.

    Returns
    -------
    dict
        Metadata of each step.
    """
    settings = launcher.settings
    closed = calendar.latest_session(launcher.present())
    last = min(settings.history.end or closed, closed)
    sessions = calendar.sessions_between(settings.history.start, last)
    sessions = sessions[-settings.history.daily_sessions :]
    minutes = sessions[-settings.history.minute_sessions :]
    done = launcher.ingest(sessions[0], sessions[-1], [Timeframe.D1])
    if any(h.timeframe.is_intraday for h in settings.enabled_horizons):
        done |= launcher.ingest(minutes[0], minutes[-1], [Timeframe.M1])
        done |= launcher.launch(COMPACTION_JOB)
    done |= launcher.fetch_reference()
    done |= launcher.prepare()
    version = str(done["dataset_version"]["dataset version"])
    for horizon in settings.enabled_horizons:
        if launcher.stores.tracker.is_trained_on(horizon.name, version, settings.config_hash):
            done[f"models {horizon.name}"] = {"already trained on dataset": version}
        else:
            done[f"models {horizon.name}"] = launcher.train([horizon])[horizon.name]
        if not is_backtested(launcher.stores, horizon):
            done[f"backtest {horizon.name}"] = launcher.backtest([horizon])[horizon.name]
    return done
