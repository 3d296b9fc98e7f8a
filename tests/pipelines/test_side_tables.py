"""What features look at besides their bars, read from a lake."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from features.compute import compute_features
from features.registry import select_features
from features.spec import Stage
from market import calendar
from market.bars import by_company, read_adjusted
from market.errors import MarketError
from market.lake import Lake
from market.schema import Bar
from market.synthetic_reference import generate_reference
from market.timeframes import Timeframe
from pipelines.side_tables import read_side_tables
from tests.extended import with_premarket
from tests.features.test_incremental import assert_equal_within_one_ulp
from tests.markets import market
from tests.reference_tables import identities

MADE = market(seed=4, symbols=4, sessions=130, minute_sessions=90)
DAYS = MADE.minute[Bar.SESSION].unique().sort().to_list()
RENAMED = DAYS[70]


def stored(folder: Path, *, renamed: bool = False) -> Lake:
    """A lake of a synthetic market; ``renamed``: the first symbol was NEW from a day on."""
    lake = Lake(folder)
    reference = generate_reference(MADE)
    minute, news = with_premarket(MADE.minute, MADE.daily), reference.news
    first = MADE.tickers["symbol"][0]

    def name(frame: pl.DataFrame, day: str) -> pl.DataFrame:
        if not renamed:
            return frame
        when = pl.col(day) if frame[day].dtype == pl.Date else pl.col(day).dt.date()
        gone = (pl.col("symbol") == first) & (when >= RENAMED)
        return frame.with_columns(
            pl.when(gone).then(pl.lit("NEW")).otherwise("symbol").alias("symbol")
        )

    for table, bars in (("bars_1d", MADE.daily), ("bars_1m", minute)):
        rows = name(bars, "session").sort(Bar.SYMBOL, Bar.BAR_START)
        lake.replace(table, rows, rows[Bar.SESSION].unique().to_list())
    lake.replace("splits", name(MADE.splits, "ex_date"), None)
    lake.replace("dividends", name(MADE.dividends, "ex_date"), None)
    lake.replace("treasury_yields", reference.treasury_yields, None)
    lake.replace("indices", reference.indices, None)
    news = name(news, "published_at").sort("article_id", "symbol")
    lake.replace("news", news, news["month"].unique().to_list())
    if renamed:
        spells = identities(
            ("ONE", "ONE", first, None, RENAMED, False, None),
            ("ONE", "ONE", "NEW", RENAMED, None, True, None),
        )
        lake.replace("identities", spells, None)
    return lake


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lake:
    return stored(tmp_path_factory.mktemp("plain"))


def from_side(timeframe: Timeframe):
    found = select_features(timeframe=timeframe)
    return [f for f in found if f.stage is Stage.AS_OF and f.inputs != ("events",)]


def computed(lake: Lake, timeframe: Timeframe, start: dt.date, end: dt.date) -> pl.DataFrame:
    side = read_side_tables(lake, timeframe, start, end)
    bars = read_adjusted(lake, timeframe, start, end)
    return by_company(lake, bars, lambda rows: compute_features(rows, from_side(timeframe), side))


@pytest.mark.parametrize("timeframe", [Timeframe.D1, Timeframe.M30, Timeframe.H1])
def test_the_newest_sessions_alone_have_the_values_of_all(lake: Lake, timeframe: Timeframe) -> None:
    """What is read from before them is enough."""
    whole = computed(lake, timeframe, DAYS[0], DAYS[-1])
    newest = computed(lake, timeframe, DAYS[-4], DAYS[-1])
    wanted = whole.filter(pl.col(Bar.SESSION) >= DAYS[-4])
    assert_equal_within_one_ulp(newest, wanted)
    # The VIX of a year ago is not there, nor of three months hence.
    filled = [n for n in wanted.columns[4:] if wanted[n].null_count() < wanted.height]
    missing = {n for n in wanted.columns[4:] if n not in filled}
    assert missing <= {"vix_percentile_252", "vix_term", "news_sentiment_1d"} | (
        {n for n in wanted.columns if n.endswith("_of_1h")} if timeframe is Timeframe.H1 else set()
    )


def test_only_longer_bars_are_read(lake: Lake) -> None:
    read = {
        t: sorted(read_side_tables(lake, t, DAYS[-2], DAYS[-1]).longer)
        for t in (Timeframe.M1, Timeframe.H1, Timeframe.D1)
    }
    assert read == {
        Timeframe.M1: [Timeframe.D1, Timeframe.H1],
        Timeframe.H1: [Timeframe.D1],
        Timeframe.D1: [],
    }
    daily = read_side_tables(lake, Timeframe.D1, DAYS[-2], DAYS[-1])
    assert daily.premarket is None
    assert daily.news is not None
    assert daily.events is None


def test_minutes_before_the_open_are_adjusted_like_the_bars(lake: Lake) -> None:
    side = read_side_tables(lake, Timeframe.M30, DAYS[0], DAYS[-1])
    early, daily = side.premarket, side.longer[Timeframe.D1]
    assert early is not None
    opens = calendar.schedule().select("session", "session_open")
    late = early.join(opens, on="session").filter(pl.col(Bar.BAR_END) > pl.col("session_open"))
    assert early.height > 0 == late.height
    # Made of the first minute's price of the session: no split lies between.
    both = early.join(daily, on=[Bar.SYMBOL, Bar.SESSION], suffix="_day")
    share = both.select((pl.col("close") / pl.col("open_day")).alias("share"))["share"]
    assert share.is_between(0.9, 1.1).all()
    assert MADE.splits.height + MADE.dividends.height > 0


def test_a_renamed_company_keeps_its_longer_bars_its_news_and_its_sector(
    lake: Lake, tmp_path: Path
) -> None:
    told = stored(tmp_path / "told", renamed=True)
    first = MADE.tickers["symbol"][0]
    for timeframe in (Timeframe.M30, Timeframe.D1):
        a = computed(lake, timeframe, DAYS[60], DAYS[-1])
        b = computed(told, timeframe, DAYS[60], DAYS[-1]).with_columns(
            pl.col(Bar.SYMBOL).replace("NEW", first)
        )
        assert_equal_within_one_ulp(b.sort(Bar.SYMBOL, Bar.BAR_END), a)
    path = tmp_path / "sectors.csv"
    path.write_text(f"symbol,sector\nNEW,banks\n{MADE.tickers['symbol'][1]},mines\n")
    sectors = read_side_tables(told, Timeframe.D1, DAYS[-2], DAYS[-1], path).sectors
    assert sectors is not None
    assert dict(sectors.iter_rows()) == {"ONE": "banks", MADE.tickers["symbol"][1]: "mines"}


def test_a_lake_of_bars_alone_has_no_other_tables(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace(
        "bars_1d",
        MADE.daily.sort(Bar.SYMBOL, Bar.BAR_START),
        MADE.daily["session"].unique().to_list(),
    )
    side = read_side_tables(lake, Timeframe.D1, DAYS[-2], DAYS[-1])
    assert (side.indices, side.yields, side.news, side.sectors) == (None,) * 4


def test_a_senseless_table_of_sectors_is_refused(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "sectors.csv"
    path.write_text("ticker,sector\nA,banks\n")
    with pytest.raises(MarketError, match=r"lacks columns.*ticker.*symbol, sector"):
        read_side_tables(lake, Timeframe.D1, DAYS[-2], DAYS[-1], path)
    path.write_text("symbol,sector\nA,banks\nA,mines\n")
    with pytest.raises(MarketError, match=r"names a symbol twice.*A"):
        read_side_tables(lake, Timeframe.D1, DAYS[-2], DAYS[-1], path)
