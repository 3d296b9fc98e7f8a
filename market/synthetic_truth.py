"""The planted part of the synthetic market, and its conditional expectation in closed form."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from market import calendar
from market.horizons import HORIZONS, Horizon, find_horizon
from market.schema import UTC_MICROSECONDS

Floats = npt.NDArray[np.float64]

# Rank IC that a strength of one attains, measured over many seeds of the default market, see
# tests/market/test_synthetic.py: the declared strength is divided by it.
_DAILY_GAIN = 0.89
_INTRADAY_GAIN = 0.84

_TRUTH_SCHEMA = pl.Schema(
    {
        "symbol": pl.String(),
        "session": pl.Date(),
        "as_of": UTC_MICROSECONDS,
        "horizon": pl.String(),
        "expected_return_bps": pl.Float64(),
    }
)


@dataclass(frozen=True, slots=True)
class Component:
    """One planted reversal: its horizon, decay (per session or minute) and strength."""

    horizon: str
    decay: float
    kappa: float


@dataclass(slots=True)
class Planted:
    """The planted components and the daily states, advanced session by session."""

    scale: Floats
    daily: list[Component]
    intraday: list[Component]
    wanted: list[Horizon]
    daily_state: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    @classmethod
    def of(cls, alpha: Mapping[str, float], scale: Floats) -> Planted:
        """Build the components for these strengths."""
        daily: list[Component] = []
        intraday: list[Component] = []
        for name, strength in sorted(alpha.items()):
            horizon = find_horizon(name)
            if strength <= 0.0:
                continue
            if horizon.timeframe.is_intraday:
                decay = 0.5 ** (1.0 / horizon.minutes)
                # The state counts in units of a session's volatility, the push in a minute's.
                kappa = _kappa(strength / _INTRADAY_GAIN, decay, horizon.minutes)
                intraday.append(Component(name, decay, kappa * calendar.REGULAR_MINUTES**0.5))
            else:
                decay = 0.5 ** (1.0 / (3 * horizon.steps))
                daily.append(
                    Component(name, decay, _kappa(strength / _DAILY_GAIN, decay, horizon.steps))
                )
        wanted = [h for h in HORIZONS if h.name in alpha]
        return cls(scale, daily, intraday, wanted, np.zeros((len(daily), len(scale))))

    @property
    def intraday_decay(self) -> Floats:
        """Decay per minute of each intraday component."""
        return np.array([c.decay for c in self.intraday])

    @property
    def intraday_kappa(self) -> Floats:
        """Strength of each intraday component, per unit of a session's volatility."""
        return np.array([c.kappa for c in self.intraday])

    def daily_drift(self) -> Floats:
        """Return the planted log drift of the coming session for every symbol."""
        return self._push(self.daily_state)

    def _push(self, state: Floats) -> Floats:
        total = np.zeros(len(self.scale))
        for component, x in zip(self.daily, state, strict=True):
            total += self.one_push(component, x)
        return total

    def one_push(self, component: Component, x: Floats) -> Floats:
        """Return the drift that one component exerts, zero on average over symbols."""
        raw = -component.kappa * self.scale * x
        return raw - raw.mean()

    def end_of_session(self, excess: Floats) -> None:
        """Let the states hear a session's log excess return (planted drift included)."""
        self.daily_state = self.after_session(
            self.daily_state, excess - self._push(self.daily_state)
        )

    def after_session(self, state: Floats, surprise: Floats) -> Floats:
        """Return the states after a session with this surprise (zero: the expectation)."""
        out = np.empty_like(state)
        for c, component in enumerate(self.daily):
            own = surprise + self.one_push(component, state[c])
            out[c] = component.decay * state[c] + own / self.scale
        return out

    def expected_sessions(self, state: Floats, count: int) -> Floats:
        """Return the expected log excess return of the next ``count`` sessions."""
        total = np.zeros(len(self.scale))
        nothing = np.zeros(len(self.scale))
        for _ in range(count):
            total += self._push(state)
            state = self.after_session(state, nothing)
        return total


def _kappa(strength: float, decay: float, steps: int) -> float:
    """Return the push per unit of state at which the forecast's correlation is ``strength``.

    Over ``steps`` steps the state's expected path is a geometric series; the state's standard
    deviation is ``1 / sqrt(1 - decay**2)`` and the noise grows with the square root of the steps.
    """
    reach = (1.0 - decay**steps) / (1.0 - decay)
    return strength * float(np.sqrt(steps * (1.0 - decay**2))) / reach


def empty_truth() -> pl.DataFrame:
    """Return a truth table with no rows."""
    return pl.DataFrame(schema=_TRUTH_SCHEMA)


def daily(planted: Planted, names: list[str], day: dt.date) -> list[pl.DataFrame]:
    """Return the truth at the close of a session for the daily horizons that are wanted."""
    close = calendar.session_close(day)
    return [
        _frame(
            names, day, [close], h, planted.expected_sessions(planted.daily_state, h.steps)[None]
        )
        for h in planted.wanted
        if not h.timeframe.is_intraday
    ]


def intraday(
    planted: Planted,
    names: list[str],
    day: dt.date,
    shape: Floats,
    states: Floats,
    net: Floats,
    planted_day: Floats,
) -> list[pl.DataFrame]:
    """Return the truth at the end of each input bar of a session, for intraday horizons.

    Parameters
    ----------
    planted : Planted
        With the daily states as they were at the open.
    names : list of str
        Symbols.
    day : date
        The session.
    shape : (T,) float64
        Share of volatility of each minute.
    states : (T, C, N) float64
        Intraday states after each minute.
    net : (T, N) float64
        Log excess return since the last close, planted daily drift removed.
    planted_day : (N,) float64
        The daily components' drift over this session.
    """
    minutes = len(shape)
    opened = calendar.session_open(day)
    out: list[pl.DataFrame] = []
    for horizon in (h for h in planted.wanted if h.timeframe.is_intraday):
        ends = list(range(horizon.timeframe.minutes, minutes + 1, horizon.timeframe.minutes))
        if ends[-1] != minutes:
            ends.append(minutes)
        if not horizon.crosses_close:
            ends = [e for e in ends if e + horizon.minutes <= minutes]
        rows = [
            _expected_after(planted, e, horizon.minutes, shape, states, net, planted_day)
            for e in ends
        ]
        times = [opened + dt.timedelta(minutes=e) for e in ends]
        if rows:
            out.append(_frame(names, day, times, horizon, np.array(rows)))
    return out


def _expected_after(
    planted: Planted,
    done: int,
    length: int,
    shape: Floats,
    states: Floats,
    net: Floats,
    planted_day: Floats,
) -> Floats:
    minutes = len(shape)
    inside = min(length, minutes - done)
    total = planted_day * (inside / minutes)
    for c, component in enumerate(planted.intraday):
        x = states[done - 1, c].copy()
        for t in range(done, done + inside):
            push = -component.kappa * shape[t] * planted.scale * x
            push -= push.mean()
            total = total + push
            x = component.decay * x + push / planted.scale
    left = length - inside
    surprise, state = net[done - 1], planted.daily_state
    while left > 0:
        state = planted.after_session(state, surprise)
        surprise = np.zeros_like(surprise)
        part = min(left, calendar.REGULAR_MINUTES)
        total = total + planted.expected_sessions(state, 1) * (part / calendar.REGULAR_MINUTES)
        left -= part
    return total


def _frame(
    names: list[str], day: dt.date, times: list[dt.datetime], horizon: Horizon, values: Floats
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "symbol": names * len(times),
            "session": [day] * (len(names) * len(times)),
            "as_of": np.repeat(np.array(times, dtype=object), len(names)).tolist(),
            "horizon": [horizon.name] * (len(names) * len(times)),
            "expected_return_bps": values.ravel() * 1e4,
        },
        schema=_TRUTH_SCHEMA,
    )
