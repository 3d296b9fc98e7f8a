"""The first day as one command; each step is skipped when its result is there already."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from market import calendar, request_estimate
from market.ingest_log import missing_sessions
from market.request_limiter import Plan
from market.source import EVERY
from market.timeframes import Timeframe
from pipelines.assets.backtest import is_backtested
from pipelines.jobs import COMPACTION_JOB
from pipelines.launch import Launcher

DAILY, MINUTES, REFERENCE = "daily bars", "minute bars", "reference data"
FEATURES, MODELS = "features", "models and backtests"
_MARKET = 12_000
_ACTIONS_AHEAD = dt.timedelta(days=60)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the first day, told before it is done.

    Attributes
    ----------
    name, what : str
        Which step, and what it does.
    requests : int
        About how many requests go to the vendor.
    files : int
        How many flat files are fetched.
    minutes : float or None
        How long the requests take at the plan's pace, at least; ``None`` where it has no limit.
    resumes : str
        What a second run need not do again.
    """

    name: str
    what: str
    requests: int
    files: int
    minutes: float | None
    resumes: str

    @property
    def cost(self) -> str:
        """Requests and time, as a person reads them."""
        if not self.requests and not self.files:
            return "no request"
        parts = [f"about {self.requests:,} requests"] if self.requests else []
        parts += [f"{self.files:,} files"] if self.files else []
        if self.minutes is not None:
            parts.append(f"{max(1, round(self.minutes)):,} minutes or more at this plan's pace")
        return ", ".join(parts)


def explain_bootstrap(launcher: Launcher) -> list[Step]:
    """Return the steps that :func:`bootstrap` would do now, with their cost; nothing is fetched.

    Of the vendor only the plan is asked, where it is neither set nor remembered.
    """
    settings, stores = launcher.settings, launcher.stores
    daily, minutes = _sessions(launcher)
    count = _MARKET if EVERY in stores.universe else len(stores.universe)
    horizons = ", ".join(h.name for h in settings.enabled_horizons)
    d1, m1 = (_missing(launcher, t, s) for t, s in ((Timeframe.D1, daily), (Timeframe.M1, minutes)))
    # Twice: once to judge the bars by, once for the tables of their own.
    ends = settings.history.start, launcher.present().date() + _ACTIONS_AHEAD
    actions = request_estimate.action_requests(*ends, count)
    judged = request_estimate.action_requests(daily[0], daily[-1], count) if d1 else 0
    names = "every symbol" if EVERY in stores.universe else f"{count} symbols"
    plan = stores.plan

    def step(name: str, what: str, requests: int, resumes: str, files: int = 0) -> Step:
        return Step(name, what, requests, files, _minutes(plan, requests), resumes)

    steps = [
        step(
            DAILY,
            f"{d1:,} of {len(daily):,} sessions, {daily[0]} to {daily[-1]}, of {names}, with their"
            " splits and dividends: every bar is judged, doubtful ones are held",
            request_estimate.bar_requests(Timeframe.D1, d1, count) + judged + actions,
            "settled sessions that are in the lake cost no request",
        )
    ]
    if _uses_minutes(launcher):
        pages = request_estimate.bar_requests(Timeframe.M1, m1, count)
        filed = settings.polygon.has_flat_files and m1 < pages
        steps.append(
            step(
                MINUTES,
                f"{m1:,} of {len(minutes):,} sessions, {minutes[0]} to {minutes[-1]}, of {names};"
                " settled months are sorted by symbol too",
                (0 if filed else pages) + actions,
                "what was committed before a stop stays; the rest is fetched",
                files=m1 if filed else 0,
            )
        )
    return [
        *steps,
        step(
            REFERENCE,
            "Treasury yields, the VIX, a month of news, and who was called what when; what the"
            " plan does not have is left out and said",
            request_estimate.reference_requests(count),
            "yields and the VIX that are there cost no request",
        ),
        step(
            FEATURES,
            "features, regimes and the dataset's version, on this machine",
            0,
            "sessions whose bars and definitions are what they were are not computed again",
        ),
        step(
            MODELS,
            f"walk forward, train and backtest {horizons}, one after the other: minutes to hours,"
            " with the time left shown",
            0,
            "a horizon that was trained on this very dataset is not trained again",
        ),
    ]


def bootstrap(
    launcher: Launcher, announce: Callable[[Step], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Fetch history, compute features, train and backtest every horizon that is on.

    Running it again resumes: settled sessions cost no request, existing features are kept, and a
    horizon whose champions were trained on this very dataset is not trained again.

    Parameters
    ----------
    launcher : Launcher
        Of one installation.
    announce : callable, optional
        Told each step before it is done.

    Returns
    -------
    dict
        Metadata of each step.
    """
    steps = {s.name: s for s in explain_bootstrap(launcher)} if announce else {}

    def begin(name: str) -> None:
        if announce is not None:
            announce(steps[name])

    daily, minutes = _sessions(launcher)
    begin(DAILY)
    done = launcher.ingest(daily[0], daily[-1], [Timeframe.D1])
    if _uses_minutes(launcher):
        begin(MINUTES)
        done |= launcher.ingest(minutes[0], minutes[-1], [Timeframe.M1])
        done |= launcher.launch(COMPACTION_JOB)
    begin(REFERENCE)
    done |= launcher.fetch_reference()
    begin(FEATURES)
    done |= launcher.prepare()
    begin(MODELS)
    return done | _train_and_backtest(launcher, str(done["dataset_version"]["dataset version"]))


def _train_and_backtest(launcher: Launcher, version: str) -> dict[str, dict[str, Any]]:
    settings, tracker = launcher.settings, launcher.stores.tracker
    horizons = settings.enabled_horizons
    left = [h for h in horizons if not tracker.is_trained_on(h.name, version, settings.config_hash)]
    settled = {"already trained on dataset": version}
    done = {f"models {h.name}": settled for h in horizons if h not in left}
    if left:
        done |= {f"models {name}": made for name, made in launcher.train(left).items()}
    tested = launcher.backtest([h for h in horizons if not is_backtested(launcher.stores, h)])
    return done | {f"backtest {name}": made for name, made in tested.items()}


def _sessions(launcher: Launcher) -> tuple[list[dt.date], list[dt.date]]:
    """Return the sessions of daily bars and of minutes that the settings ask for."""
    history = launcher.settings.history
    closed = calendar.latest_session(launcher.present())
    last = min(history.end or closed, closed)
    daily = calendar.sessions_between(history.start, last)[-history.daily_sessions :]
    return daily, daily[-history.minute_sessions :]


def _uses_minutes(launcher: Launcher) -> bool:
    return any(h.timeframe.is_intraday for h in launcher.settings.enabled_horizons)


def _missing(launcher: Launcher, timeframe: Timeframe, sessions: list[dt.date]) -> int:
    """Return how many sessions would be asked for."""
    missing = missing_sessions(
        launcher.stores.lake,
        timeframe,
        sessions,
        launcher.stores.universe,
        now=launcher.present(),
        policy=launcher.settings.refetch,
    )
    return len(missing)


def _minutes(plan: Plan, requests: int) -> float | None:
    limit = plan.requests_per_minute
    return requests / limit if limit and requests else None
