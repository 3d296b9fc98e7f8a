"""A generated US-equity market whose predictable part is known.

Total-return prices follow a market factor with three regimes, sector factors and
idiosyncratic shocks with stochastic, U-shaped volatility. Every shock is compensated, so without
planted alpha the expected *simple* return of every symbol equals the market's, in every regime.

Alpha is planted as reversal: for each horizon with a strength, a state (an exponentially decaying
sum of past excess returns) pushes the price back. Each state is driven by the surprise and by its
own push only, therefore its conditional expectation has a closed form, which is returned beside
the bars as ``truth``. What a model finds can be held against it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from market import calendar, synthetic_truth
from market.errors import MarketError
from market.horizons import find_horizon
from market.regimes import RegimeLabel
from market.schema import (
    BAR_SCHEMA,
    DIVIDEND_SCHEMA,
    SPLIT_SCHEMA,
    TICKER_SCHEMA,
    UTC_MICROSECONDS,
    Bar,
    conform,
)
from market.synthetic_kernel import simulate_session
from market.synthetic_truth import Planted

Floats = npt.NDArray[np.float64]

_SECTORS = 4
_OVERNIGHT_SHARE = 0.25
_MARKET_VOL = 0.008
_SECTOR_VOL = 0.004
# Rows and columns: bull, bear, neutral. Expected stays of about 100, 40 and 60 sessions.
_TRANSITION = np.array([[0.990, 0.003, 0.007], [0.010, 0.975, 0.015], [0.010, 0.007, 0.983]])
_REGIME_DRIFT = np.array([0.0008, -0.0012, 0.0002])
_REGIME_VOL = np.array([0.8, 1.6, 1.0])
_REGIME_NAMES = (RegimeLabel.BULL, RegimeLabel.BEAR, RegimeLabel.NEUTRAL)


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """What to generate.

    Attributes
    ----------
    symbols : int
        Number of symbols, 2 to 5,000.
    end : date
        Last session.
    sessions : int
        Length of the daily history in sessions.
    minute_sessions : int
        How many of the last sessions come with 1-minute bars too.
    seed : int
        The only source of randomness.
    alpha : mapping of str to float
        Horizon name to the rank IC that a forecaster with perfect knowledge attains
        (0 or absent: nothing planted). The strengths of several horizons add up.
    """

    symbols: int = 30
    end: dt.date = dt.date(2025, 6, 30)
    sessions: int = 1008
    minute_sessions: int = 120
    seed: int = 7
    alpha: Mapping[str, float] = field(default_factory=lambda: {"1h": 0.05, "1d": 0.05})


@dataclass(frozen=True, slots=True)
class SyntheticMarket:
    """The generated market: raw bars, actions, reference data, and the truth.

    ``truth`` has ``symbol``, ``session``, ``as_of``, ``horizon`` and
    ``expected_return_bps``: the conditional expectation, at the end of each input bar of the
    horizon, of the return in excess of the market over the horizon. ``regimes`` has the true
    regime of each session.
    """

    spec: SyntheticSpec
    daily: pl.DataFrame
    minute: pl.DataFrame
    splits: pl.DataFrame
    dividends: pl.DataFrame
    tickers: pl.DataFrame
    truth: pl.DataFrame
    regimes: pl.DataFrame


def generate(spec: SyntheticSpec) -> SyntheticMarket:
    """Generate a market; the same spec gives the same market, to the bit.

    Raises
    ------
    MarketError
        On an impossible spec.

    Examples
    --------
    >>> market = generate(SyntheticSpec(symbols=3, sessions=5, minute_sessions=1))
    >>> market.daily["symbol"].n_unique()
    3
    """
    _validate(spec)
    return _Generator(spec).run()


def _validate(spec: SyntheticSpec) -> None:
    if not 2 <= spec.symbols <= 5000 or spec.sessions < 2:
        raise MarketError(
            "impossible synthetic market",
            got=f"{spec.symbols} symbols, {spec.sessions} sessions",
            allowed="2 to 5000 symbols, 2 sessions or more",
            remedy="change the spec",
        )
    if not 0 <= spec.minute_sessions <= spec.sessions:
        raise MarketError(
            "minute history longer than daily history",
            got=spec.minute_sessions,
            allowed=f"0 to {spec.sessions}",
            remedy="lower minute_sessions",
        )
    for name, strength in spec.alpha.items():
        find_horizon(name)
        if not 0.0 <= strength < 0.5:
            raise MarketError(
                f"alpha of horizon {name}",
                got=strength,
                allowed="a rank IC from 0 to below 0.5",
                remedy="0.05 is what a good daily forecaster attains",
            )


def symbol_names(count: int) -> list[str]:
    """Return made-up tickers that no exchange lists (they start with ``ZZ``)."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = [f"ZZ{a}{b}" for a in letters for b in letters]
    return names[:count] if count <= len(names) else [f"ZZ{n:04d}" for n in range(count)]


class _Generator:
    def __init__(self, spec: SyntheticSpec) -> None:
        self.spec = spec
        self.rng = np.random.default_rng(spec.seed)
        self.names = symbol_names(spec.symbols)
        last = calendar.sessions_between(spec.end - dt.timedelta(days=14), spec.end)[-1]
        self.days = calendar.sessions_between(
            calendar.offset_session(last, 1 - spec.sessions), last
        )
        n = spec.symbols
        self.idio = self.rng.uniform(0.008, 0.022, n)
        self.beta = np.clip(self.rng.normal(1.0, 0.25, n), 0.3, 1.8)
        self.sector = self.rng.integers(0, _SECTORS, n)
        self.sector_load = self.rng.uniform(0.5, 1.5, n)
        self.planted = Planted.of(spec.alpha, self.idio)
        self.log_price = np.log(self.rng.uniform(20.0, 250.0, n))
        self.multiple = np.ones(n)
        self.base_volume = np.exp(self.rng.normal(8.5, 0.8, n))
        self.pays = self.rng.random(n) < 0.6
        self.pay_offset = self.rng.integers(0, 63, n)
        self.halted_until = np.zeros(n, dtype=np.int64)
        self.vol_log = 0.0
        self.regime = 0
        self.previous_close = np.exp(self.log_price)
        self.splits: list[tuple[str, dt.date, dt.datetime, float]] = []
        self.dividends: list[tuple[str, dt.date, dt.datetime, float]] = []
        self.due_splits: dict[int, list[tuple[int, float]]] = {}
        self.due_dividends: dict[int, list[tuple[int, float]]] = {}
        self.split_pending = np.zeros(n, dtype=np.bool_)
        self.daily_days: list[dt.date] = []
        self.daily_rows: list[Floats] = []
        self.minute: list[pl.DataFrame] = []
        self.truth: list[pl.DataFrame] = []
        self.regimes: list[str] = []

    def run(self) -> SyntheticMarket:
        for number, day in enumerate(self.days):
            self._session(number, day)
        minute = pl.concat(self.minute) if self.minute else pl.DataFrame(schema=BAR_SCHEMA)
        truth = pl.concat(self.truth) if self.truth else synthetic_truth.empty_truth()
        return SyntheticMarket(
            spec=self.spec,
            daily=self._daily_frame(),
            minute=minute.sort(Bar.SYMBOL, Bar.BAR_START),
            splits=pl.DataFrame(self.splits, schema=SPLIT_SCHEMA, orient="row"),
            dividends=pl.DataFrame(self.dividends, schema=DIVIDEND_SCHEMA, orient="row"),
            tickers=self._tickers(),
            truth=truth.sort("horizon", "symbol", "as_of"),
            regimes=pl.DataFrame({"session": self.days, "regime": self.regimes}),
        )

    def _tickers(self) -> pl.DataFrame:
        frame = pl.DataFrame(
            {
                "symbol": self.names,
                "name": [f"Synthetic company {n}" for n in self.names],
                "active": True,
                "composite_figi": [f"BBG000{i:06d}" for i in range(len(self.names))],
            }
        )
        return conform(frame, TICKER_SCHEMA, "tickers")

    def _session(self, number: int, day: dt.date) -> None:
        n = self.spec.symbols
        minutes = int(
            (calendar.session_close(day) - calendar.session_open(day)).total_seconds() // 60
        )
        self.regime = int(self.rng.choice(3, p=_TRANSITION[self.regime]))
        self.regimes.append(str(_REGIME_NAMES[self.regime]))
        self.vol_log = 0.97 * self.vol_log + 0.06 * self.rng.standard_normal()
        level = float(_REGIME_VOL[self.regime] * np.exp(self.vol_log))
        self._corporate_actions(number, day)
        gap = self._overnight(level)
        shape = volatility_shape(minutes)
        common, variance = self._common_shocks(minutes, level, shape)
        personal = np.exp(0.25 * self.rng.standard_normal(n) - 0.03125)
        sigma = self.idio * np.sqrt(1 - _OVERNIGHT_SHARE) * level * personal
        planted_day = self.planted.daily_drift()
        drift = _REGIME_DRIFT[self.regime] + planted_day
        bars = np.empty((minutes, 4, n))
        count = len(self.planted.intraday)
        states = np.empty((minutes, count, n))
        net = np.empty((minutes, n))
        simulate_session(
            self.log_price,
            np.zeros((count, n)),
            self.planted.intraday_decay,
            self.planted.intraday_kappa,
            self.idio,
            shape,
            drift,
            sigma,
            common,
            self._loadings(),
            variance,
            self.rng.standard_normal((minutes, n)),
            self.rng.standard_normal((minutes, n)),
            1.0 - self.rng.random((minutes, n)),
            1.0 - self.rng.random((minutes, n)),
            bars,
            states,
            net,
        )
        volume = self._volumes(minutes, shape, level, bars)
        traded = self._traded(number, minutes)
        with_minutes = number >= self.spec.sessions - self.spec.minute_sessions
        self._emit_bars(day, np.exp(bars) * self.multiple, volume, traded, with_minutes)
        if with_minutes:
            self.truth += synthetic_truth.intraday(
                self.planted, self.names, day, shape, states, net + gap, planted_day
            )
        self.planted.end_of_session(net[-1] + gap + planted_day)
        self.truth += synthetic_truth.daily(self.planted, self.names, day)
        self.previous_close = np.exp(self.log_price) * self.multiple

    def _loadings(self) -> Floats:
        out = np.zeros((self.spec.symbols, 1 + _SECTORS))
        out[:, 0] = self.beta
        out[np.arange(self.spec.symbols), 1 + self.sector] = self.sector_load
        return out

    def _common_shocks(self, minutes: int, level: float, shape: Floats) -> tuple[Floats, Floats]:
        vols = np.array([_MARKET_VOL] + [_SECTOR_VOL] * _SECTORS) * level
        vols = vols * np.sqrt(1 - _OVERNIGHT_SHARE)
        shocks = self.rng.standard_normal((minutes, 1 + _SECTORS)) * vols * shape[:, None]
        per_session = (self._loadings() ** 2) @ (vols**2)
        return shocks, (shape**2)[:, None] * per_session[None, :]

    def _overnight(self, level: float) -> Floats:
        n = self.spec.symbols
        vols = np.array([_MARKET_VOL] + [_SECTOR_VOL] * _SECTORS) * level
        vols = vols * np.sqrt(_OVERNIGHT_SHARE)
        sigma = self.idio * level * np.sqrt(_OVERNIGHT_SHARE)
        loadings = self._loadings()
        shock = loadings @ (self.rng.standard_normal(1 + _SECTORS) * vols)
        shock += sigma * self.rng.standard_normal(n)
        shock -= 0.5 * ((loadings**2) @ (vols**2) + sigma**2)
        self.log_price += shock
        return shock - shock.mean()

    def _volumes(self, minutes: int, shape: Floats, level: float, bars: Floats) -> Floats:
        moves = np.abs(bars[:, 3] - bars[:, 0]) / (self.idio * shape[:, None])
        noise = np.exp(0.5 * self.rng.standard_normal((minutes, self.spec.symbols)))
        curve = (shape / shape.mean())[:, None] ** 1.5
        shares = self.base_volume * level**0.5 * curve * noise * (0.6 + 0.4 * moves)
        return np.maximum(np.round(shares / self.multiple), 1.0)

    def _traded(self, number: int, minutes: int) -> npt.NDArray[np.bool_]:
        n = self.spec.symbols
        traded = self.rng.random((minutes, n)) > 0.001
        if number > 0:
            long_halt = self.rng.random(n) < 1 / 3000
            length = self.rng.integers(1, 4, n)
            self.halted_until = np.where(long_halt, number + length, self.halted_until)
        for i in np.flatnonzero(self.rng.random(n) < 0.004):
            begin = int(self.rng.integers(1, minutes - 1))
            traded[begin : begin + int(self.rng.integers(5, 61)), i] = False
        traded[:, self.halted_until > number] = False
        return traded

    def _corporate_actions(self, number: int, day: dt.date) -> None:
        """Let due actions take effect, then announce new ones from what is known by now."""
        for i, ratio in self.due_splits.pop(number, []):
            self.multiple[i] /= ratio
            self.previous_close[i] /= ratio
            self.splits.append((self.names[i], day, self._close_before(number, 10), ratio))
            self.split_pending[i] = False
        for i, value in self.due_dividends.pop(number, []):
            amount = round(value * float(self.multiple[i]), 2)
            if 0.0 < amount < float(self.previous_close[i]):
                self.multiple[i] *= 1.0 - amount / float(self.previous_close[i])
                self.dividends.append((self.names[i], day, self._close_before(number, 20), amount))
        for i in range(self.spec.symbols):
            close = float(self.previous_close[i])
            if (close > 300.0 or close < 5.0) and not self.split_pending[i]:
                ratio = float(self.rng.choice([2.0, 3.0, 4.0])) if close > 300.0 else 0.1
                self.due_splits.setdefault(number + 9, []).append((i, ratio))
                self.split_pending[i] = True
            if self.pays[i] and number % 63 == self.pay_offset[i]:
                value = 0.005 * close / float(self.multiple[i])
                self.due_dividends.setdefault(number + 19, []).append((i, value))

    def _close_before(self, number: int, sessions: int) -> dt.datetime:
        return calendar.session_close(self.days[max(0, number - sessions)])

    def _emit_bars(
        self,
        day: dt.date,
        prices: Floats,
        volume: Floats,
        traded: npt.NDArray[np.bool_],
        with_minutes: bool,
    ) -> None:
        prices = np.round(prices, 4)
        typical = np.round(prices[:, 1:].mean(axis=1), 4)
        if with_minutes:
            self.minute.append(minute_frame(self.names, day, prices, typical, volume, traded))
        some = traded.any(axis=0)
        first, last = traded.argmax(axis=0), len(traded) - 1 - traded[::-1].argmax(axis=0)
        column = np.arange(len(self.names))
        shares = np.where(traded, volume, 0.0)
        total = np.maximum(shares.sum(axis=0), 1.0)
        self.daily_days.append(day)
        self.daily_rows.append(
            np.stack(
                [
                    prices[first, 0, column],
                    np.where(traded, prices[:, 1], -np.inf).max(axis=0),
                    np.where(traded, prices[:, 2], np.inf).min(axis=0),
                    prices[last, 3, column],
                    shares.sum(axis=0),
                    np.round((typical * shares).sum(axis=0) / total, 4),
                    np.ceil(shares / 80).sum(axis=0),
                    some.astype(np.float64),
                ]
            )
        )

    def _daily_frame(self) -> pl.DataFrame:
        table = np.stack(self.daily_rows)
        days = pl.DataFrame({Bar.SESSION: self.daily_days}).join(
            calendar.schedule(), left_on=Bar.SESSION, right_on="session", how="left"
        )
        n = len(self.names)
        columns = (Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE, Bar.VOLUME, Bar.VWAP, Bar.TRADES)
        frame = pl.DataFrame(
            {
                Bar.SYMBOL: np.tile(np.array(self.names), len(days)),
                Bar.SESSION: days[Bar.SESSION].gather(np.repeat(np.arange(len(days)), n)),
                Bar.BAR_START: days["session_open"].gather(np.repeat(np.arange(len(days)), n)),
                Bar.BAR_END: days["session_close"].gather(np.repeat(np.arange(len(days)), n)),
                **{name: table[:, k].ravel() for k, name in enumerate(columns)},
                "traded": table[:, 7].ravel() > 0,
            }
        )
        frame = frame.filter("traded").with_columns(pl.col(Bar.BAR_END).alias(Bar.KNOWN_AT))
        return conform(frame, BAR_SCHEMA, "bars_1d").sort(Bar.SYMBOL, Bar.BAR_START)


def volatility_shape(minutes: int) -> Floats:
    """Return each minute's share of a full session's volatility (U-shaped over the day)."""
    x = np.linspace(-1.0, 1.0, minutes)
    curve = 0.7 + 0.9 * x**2 + 0.5 * np.exp(-(x + 1.0) * 12.0)
    return np.asarray(curve / np.sqrt((curve**2).mean()) / np.sqrt(calendar.REGULAR_MINUTES))


def minute_frame(
    names: list[str],
    day: dt.date,
    prices: Floats,
    typical: Floats,
    volume: Floats,
    traded: npt.NDArray[np.bool_],
) -> pl.DataFrame:
    """Return one session of minutes as ``BAR_SCHEMA``; minutes without a trade have no row."""
    minutes = len(prices)
    opened = pl.lit(calendar.session_open(day)).cast(UTC_MICROSECONDS)
    keep = traded.T.ravel()
    columns = {
        name: prices[:, k, :].T.ravel()[keep]
        for k, name in enumerate((Bar.OPEN, Bar.HIGH, Bar.LOW, Bar.CLOSE))
    }
    frame = pl.DataFrame(
        {
            Bar.SYMBOL: np.repeat(np.array(names), minutes)[keep],
            "minute": np.tile(np.arange(minutes), len(names))[keep],
            Bar.VOLUME: volume.T.ravel()[keep],
            Bar.VWAP: typical.T.ravel()[keep],
            **columns,
        }
    )
    begin = (opened + pl.duration(minutes=pl.col("minute"))).cast(UTC_MICROSECONDS)
    frame = frame.with_columns(
        pl.lit(day).alias(Bar.SESSION),
        begin.alias(Bar.BAR_START),
        (begin + dt.timedelta(minutes=1)).alias(Bar.BAR_END),
        (begin + dt.timedelta(minutes=1)).alias(Bar.KNOWN_AT),
        (pl.col(Bar.VOLUME) / 80).ceil().cast(pl.Int64).alias(Bar.TRADES),
    )
    return conform(frame, BAR_SCHEMA, "bars_1m")


__all__ = ["SyntheticMarket", "SyntheticSpec", "generate", "symbol_names"]
