"""What an installation's audit goes through, on which rows, and what it tells of it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.leakage import Finding, Settling, Subject, Tables, choose_cuts
from features.registry import select_features
from features.spec import Feature, Memory, Stage, from_expression
from isobar import leak_audit
from isobar.leak_audit import Audited, AuditReport, load_features, run_audit
from market.errors import UsageError
from market.lake import Lake
from market.schema import Bar
from market.timeframes import Timeframe
from pipelines.settings import FeatureSettings, ModelSettings, Settings, UniverseSettings
from tests.markets import market

CLOSE = pl.col("close")


def made(name: str, expression: pl.Expr, memory: Memory = Memory.WINDOW) -> Feature:
    value = from_expression(expression)
    return Feature(name, value, ("close",), 3, Stage.TIME_SERIES, "x", "none", memory=memory)


SCALERS = "scalers and linear forecasts of 1d"
SOUND = made("sound", CLOSE / CLOSE.shift(2))
AHEAD = made("ahead", CLOSE.shift(-1) / CLOSE)


def settings_of(home: Path, *horizons: str, **more) -> Settings:
    models = ModelSettings(horizons=horizons or ("1h", "1d", "7d"))
    return Settings(home=home, models=models, features=FeatureSettings(families=("core",)), **more)


def audited(settings: Settings, **changes) -> AuditReport:
    arguments = {
        "timeframes": [Timeframe.D1],
        "features": None,
        "cuts": 2,
        "sessions": 60,
        "minute_sessions": 3,
        "seed": 1,
        "synthetic": True,
        "progress": lambda _what, _done, _total: None,
        **changes,
    }
    return run_audit(settings, **arguments)


def names(report: AuditReport) -> list[str]:
    return [a.name for a in report.audited]


OF_DAYS = [
    "features on 1d bars",
    "labels of 1d",
    "barriers of 1d",
    "labels of 7d",
    "barriers of 7d",
    "regimes",
]


def test_everything_that_daily_bars_lead_to_is_audited_and_nothing_accused(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = audited(settings_of(tmp_path), progress=lambda *step: told.append(step))
    assert names(report) == OF_DAYS
    core = [f for f in select_features(family="core") if f.scope.covers(Timeframe.D1)]
    assert [a.columns for a in report.audited] == [len(core), 7, 5, 7, 5, 4]
    assert all(a.findings == 0 and a.cuts > 2 for a in report.audited)
    assert report.is_clean
    assert told == [("auditing", k, 6) for k in range(7)]


def test_scalers_are_audited_where_history_is_long_enough_late_in_it(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "1d")
    short, long = (audited(settings, sessions=n, cuts=1) for n in (89, 90))
    assert SCALERS not in names(short)
    assert names(long) == [*names(short), SCALERS]
    assert long.audited[-1].columns == 5
    assert long.is_clean


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Tables, list[dt.datetime]]]:
    """The tables and cut-offs of each audit by its name; none is made."""
    told: dict[str, tuple[Tables, list[dt.datetime]]] = {}

    def note(subject: Subject, tables: Tables, cuts: list[dt.datetime]) -> list[Finding]:
        told[subject.name] = tables, cuts
        return []

    monkeypatch.setattr(leak_audit, "audit", note)
    return told


@pytest.mark.parametrize(("cuts", "late"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_scalers_alone_are_cut_late_and_half_as_often(
    tmp_path: Path, asked, cuts: int, late: int
) -> None:
    rule = UniverseSettings(kind="liquidity", count=2, lookback_sessions=5)
    settings = settings_of(tmp_path, "1d", universe=rule)
    report = audited(settings, sessions=90, cuts=cuts, seed=6)
    assert {a.name: a.cuts for a in report.audited} == {n: len(c) for n, (_, c) in asked.items()}
    assert [*asked][-3:] == ["regimes", "universe by liquidity", SCALERS]
    for name, (tables, made) in asked.items():
        given = {"burn_in": 0.8} if name == SCALERS else {}
        count = late if name == SCALERS else cuts
        assert made == choose_cuts(tables, count, seed=6, **given), name


@pytest.mark.parametrize(
    ("horizons", "timeframes"),
    [(["7d"], [Timeframe.D1]), (["1m", "7d"], [Timeframe.M1, Timeframe.D1])],
)
def test_scalers_are_audited_by_forecasts_of_the_next_day_alone(
    tmp_path: Path, asked, horizons: list[str], timeframes: list[Timeframe]
) -> None:
    audited(settings_of(tmp_path, *horizons), timeframes=timeframes, sessions=90, cuts=1)
    assert not [name for name in asked if name.startswith("scalers")]


def test_an_audit_of_days_leaves_minutes_where_they_are(tmp_path: Path, asked) -> None:
    fill_lake(tmp_path)
    for timeframe in (Timeframe.D1, Timeframe.M30):
        audited(settings_of(tmp_path), timeframes=[timeframe], synthetic=False)
    tables, _ = asked["features on 1d bars"]
    assert "bars_1m" not in tables
    assert asked["features on 30m bars"][0]["bars_1m"][Bar.SESSION].n_unique() == 3
    audited(settings_of(tmp_path), timeframes=[Timeframe.D1, Timeframe.M30], synthetic=False)
    assert "bars_1m" in asked["features on 1d bars"][0]


@pytest.mark.parametrize("table", ["splits", "dividends"])
def test_actions_of_the_lake_are_audited_too(tmp_path: Path, asked, table: str) -> None:
    fill_lake(tmp_path)
    audited(settings_of(tmp_path), synthetic=False)
    assert asked["regimes"][0][table].is_empty()
    actions: pl.DataFrame = getattr(market(seed=4), table)
    assert actions.height > 0
    Lake(tmp_path / "lake").replace(table, actions, None)
    audited(settings_of(tmp_path), synthetic=False)
    keys = ["symbol", "ex_date"]
    assert asked["regimes"][0][table].sort(keys).equals(actions.sort(keys))


@pytest.mark.parametrize(("sessions", "places"), [(60, (7, 15)), (90, (11, 22))])
def test_history_is_begun_again_after_an_eighth_and_after_a_quarter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked, sessions: int, places: tuple[int, int]
) -> None:
    begun: list[dt.date] = []
    monkeypatch.setattr(
        leak_audit, "settling", lambda _bars, _own, starts, _side: begun.extend(starts) or []
    )
    audited(settings_of(tmp_path), features=[SOUND], sessions=sessions)
    days = asked["features on 1d bars"][0]["bars_1d"][Bar.SESSION].unique().sort()
    assert begun == [days[p] for p in places]


def test_horizons_of_other_bars_are_left_out(tmp_path: Path) -> None:
    report = audited(settings_of(tmp_path, "1h", "1d"), timeframes=[Timeframe.M15])
    assert names(report) == ["features on 15m bars", "labels of 1h", "barriers of 1h", "regimes"]


def test_bars_in_use_are_audited_where_none_are_named(tmp_path: Path) -> None:
    report = audited(settings_of(tmp_path, "1h", "1d"), timeframes=None, features=[SOUND])
    assert names(report) == ["features on 15m bars", "features on 1d bars"]
    assert [a.columns for a in report.audited] == [1, 1]


def test_one_that_looks_ahead_is_told_and_the_sound_one_is_not(tmp_path: Path) -> None:
    report = audited(settings_of(tmp_path), features=[SOUND, AHEAD])
    assert [f.column for f in report.findings] == ["ahead"]
    assert [a.findings for a in report.audited] == [1]
    assert not report.is_clean


def test_what_depends_on_where_history_starts_is_told(tmp_path: Path) -> None:
    endless = made("endless", CLOSE / CLOSE.first(), Memory.CUMULATIVE)
    report = audited(settings_of(tmp_path), features=[SOUND, endless])
    assert [s.feature for s in report.depend_on_start] == ["endless"]
    assert report.is_clean


@pytest.mark.parametrize("kind", ["membership", "liquidity"])
def test_the_universe_is_audited_where_it_is_not_fixed(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "members.csv"
    file.write_text("ticker,start_date,end_date\nZZAA,2000-01-03,\n")
    rule = UniverseSettings(kind=kind, membership_file=file, count=2, lookback_sessions=5)
    report = audited(settings_of(tmp_path, "1d", universe=rule), cuts=1)
    assert names(report)[-2:] == ["regimes", f"universe by {kind}"]
    assert report.audited[-1].columns == 1
    assert report.is_clean


@pytest.mark.parametrize(("kind", "members"), [("membership", 1), ("liquidity", 2)])
def test_the_audited_universe_is_the_one_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, members: int
) -> None:
    file = tmp_path / "members.csv"
    file.write_text("ticker,start_date,end_date\nZZAA,2000-01-03,\n")
    rule = UniverseSettings(kind=kind, membership_file=file, count=2, lookback_sessions=5)
    last: list[pl.DataFrame] = []
    late = dt.timedelta(minutes=3)

    def compute(subject: Subject, tables: Tables, _cuts: list[dt.datetime]) -> list[Finding]:
        days = tables["bars_1d"]
        one_is_late = pl.col(Bar.SYMBOL) == days[Bar.SYMBOL][0]
        known = pl.when(one_is_late).then(pl.col(Bar.KNOWN_AT) + late).otherwise(Bar.KNOWN_AT)
        bars = days.with_columns(known.alias(Bar.KNOWN_AT))
        last[:] = [subject.compute({**tables, "bars_1d": bars}), days]
        return []

    monkeypatch.setattr(leak_audit, "audit", compute)
    audited(settings_of(tmp_path, "7d", universe=rule))
    newest = last[0].filter(pl.col(Bar.SESSION) == pl.col(Bar.SESSION).max())
    assert newest.height == members
    assert (newest["as_of"] == last[1][Bar.KNOWN_AT].max() + late).all()


@pytest.mark.parametrize(("sessions", "windows"), [(90, (30, 15)), (100, (33, 16))])
def test_scalers_learn_from_a_third_and_are_tried_on_half_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked, sessions: int, windows: tuple[int, int]
) -> None:
    made: list[tuple[int, int]] = []

    def note(*_given, min_train_sessions: int, test_sessions: int) -> Subject:
        made.append((min_train_sessions, test_sessions))
        return Subject("scalers", lambda tables: tables["bars_1d"])

    monkeypatch.setattr(leak_audit, "scalers_subject", note)
    audited(settings_of(tmp_path, "1d"), sessions=sessions, cuts=1)
    assert made == [windows]
    assert "scalers" in asked


class Watched:
    """A feature that remembers of how many bars it was given the longest history."""

    def __init__(self) -> None:
        self.bars: list[int] = []
        stage = Stage.TIME_SERIES
        self.feature = Feature("w", self._compute, ("close",), 1, stage, "x", "none")

    def _compute(self, panel) -> np.ndarray:
        self.bars.append(int(np.diff(panel.offsets).max()))
        return np.asarray(panel["close"])


def fill_lake(home: Path) -> None:
    of = market(seed=8, symbols=2, sessions=30, minute_sessions=4)
    lake = Lake(home / "lake")
    for table, bars in (("bars_1d", of.daily), ("bars_1m", of.minute)):
        lake.replace(table, bars, bars[Bar.SESSION].unique().to_list())


@pytest.mark.parametrize(
    ("timeframe", "sessions", "minute_sessions", "bars"),
    [
        (Timeframe.D1, 60, 3, 30),
        (Timeframe.D1, 20, 3, 20),
        (Timeframe.M30, 20, 3, 3 * 13),
        (Timeframe.M30, 20, 9, 4 * 13),
    ],
)
def test_the_newest_sessions_of_the_lake_are_audited(
    tmp_path: Path, timeframe, sessions, minute_sessions, bars
) -> None:
    fill_lake(tmp_path)
    watched = Watched()
    audited(
        settings_of(tmp_path),
        timeframes=[timeframe],
        features=[watched.feature],
        sessions=sessions,
        minute_sessions=minute_sessions,
        synthetic=False,
    )
    assert max(watched.bars) == bars


@pytest.mark.parametrize(("asked", "bars"), [(50, 50), (500, 400)])
def test_a_generated_market_is_no_longer_than_four_hundred_sessions(
    tmp_path: Path, asked: int, bars: int
) -> None:
    watched = Watched()
    audited(settings_of(tmp_path), features=[watched.feature], sessions=asked, cuts=1)
    assert max(watched.bars) == bars


def test_a_generated_market_has_no_more_than_twelve_sessions_of_minutes(tmp_path: Path) -> None:
    for asked, there in ((2, 2), (20, 12)):
        watched = Watched()
        audited(
            settings_of(tmp_path),
            timeframes=[Timeframe.H1],
            features=[watched.feature],
            minute_sessions=asked,
        )
        assert 7 * (there - 1) < max(watched.bars) <= 7 * there


FINDING = Finding("s", "c", dt.datetime(2024, 1, 2, tzinfo=dt.UTC), 1, "A: 1 with the future")


def test_a_report_says_what_was_found_before_what_depends_on_the_start() -> None:
    clean = AuditReport((Audited("regimes", 4, 9, 0),), (), (Settling("obv", 2, None),))
    assert repr(clean).splitlines() == [
        "nothing had seen the future",
        "regimes: 4 columns at 9 cut-offs, 0 findings",
        "obv depends on where history starts",
    ]
    leaking = AuditReport((Audited("s", 1, 9, 1),), (FINDING,), ())
    assert repr(leaking).splitlines()[0] == "something looks ahead"
    assert repr(leaking).splitlines()[-1] == str(FINDING)
    assert (clean.is_clean, leaking.is_clean) == (True, False)
    assert leaking.as_dict() == {
        "clean": False,
        "audited": [{"name": "s", "columns": 1, "cuts": 9, "findings": 1}],
        "findings": [
            {
                "subject": "s",
                "column": "c",
                "cut": FINDING.cut,
                "values": 1,
                "example": FINDING.example,
            }
        ],
        "depend_on_start": [],
    }
    assert clean.as_dict()["depend_on_start"] == [
        {"feature": "obv", "lookback": 2, "settles_bars": None}
    ]


MINE = """
from tests.isobar.test_leak_audit import SOUND

BOTH = [SOUND, SOUND]
PAIR = (SOUND, SOUND)
NONE = []
MIXED = [SOUND, 3]
TEXT = "SOUND"
NUMBER = 3
BY_NAME = {SOUND: 1}
"""


def test_features_of_ones_own_are_loaded_one_or_several(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    assert [f.name for f in load_features(f"{file}:SOUND")] == ["sound"]
    assert [f.name for f in load_features(f"{file}:BOTH")] == ["sound"] * 2
    assert [f.name for f in load_features(f"{file}:PAIR")] == ["sound"] * 2
    for name in ("NONE", "MIXED", "TEXT", "NUMBER", "BY_NAME", "ABSENT"):
        with pytest.raises(UsageError, match="this is no feature"):
            load_features(f"{file}:{name}")


@pytest.mark.parametrize("place", ["mine.py", "mine.py:", "mine.txt:SOUND", "absent.py:SOUND", ""])
def test_a_place_that_names_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "mine.txt"):
        Path(name).write_text(MINE)
    with pytest.raises(UsageError, match="no feature there"):
        load_features(place)
