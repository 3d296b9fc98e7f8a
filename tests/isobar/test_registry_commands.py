"""`isobar models`: promotion is refused until the figures allow it, and can be taken back."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from isobar.registry_commands import weigh_challenger
from market.errors import ModelError
from market.horizons import find_horizon
from market.schema import DIVIDEND_SCHEMA, SPLIT_SCHEMA, Bar, empty
from models.fit import FittedModel, fit_model
from models.forecast import LIVE_SCHEMA, LIVE_TABLE, Made, keep_raw, to_predictions
from models.recipe import challenger_engine
from models.registry import FAMILIES
from models.sequential import Decision
from models.spec import Forecast
from pipelines.resources import Stores
from pipelines.settings import load_settings
from tests.commands import Outcome, isobar
from tests.markets import dataset_of, labels_of, market
from tests.pipelines.installation import environment, environment_of

MARKET = market(sessions=160)
DAYS = MARKET.daily[Bar.SESSION].unique().sort().to_list()
BEGUN = dt.datetime.combine(DAYS[50], dt.time(0), dt.UTC)


class Home:
    """A data root with bars, a champion and a challenger; nothing listens to the network."""

    def __init__(self, home: Path) -> None:
        self.environment = environment(home)
        with environment_of(self.environment, home.parent):
            self.stores = Stores(load_settings())

    def ask(self, *words: str) -> Outcome:
        return isobar("models", *words, environment=self.environment)

    def asked(self, *words: str) -> object:
        done = self.ask(*words, "--json")
        assert (done.status, done.err) == (0, "")
        return done.document

    def train(self, l2: float, now: dt.datetime, band_bps: float | None = None) -> FittedModel:
        band = self.stores.settings.band_bps if band_bps is None else band_bps
        linear = FAMILIES["linear"]
        model = fit_model(
            dataset_of(MARKET),
            np.arange(60),
            linear,
            horizon="1d",
            seed=1,
            data_hash="h",
            band_bps=band,
            params={**linear.defaults, "l2": l2},
        )
        self.stores.tracker.log_training(
            "1d", [model], params={}, metrics={"rank_ic_linear": 0.03}, tags={}, now=now
        )
        return model

    def forecast(self, sees: float) -> None:
        """Write predictions of a champion that knows nothing and a challenger that sees so much."""
        labels = labels_of(MARKET).drop_nulls("excess_return")
        unit = np.full(labels.height, float(labels["excess_return"].std()))
        keys = labels.with_columns(pl.col("bar_end").alias("as_of"))
        ahead = labels["excess_return"].to_numpy() / unit
        engines = {"linear": 0.0, challenger_engine("linear"): sees}
        made = to_predictions(
            keys,
            [Made(engine, "v", Forecast(seen * ahead), 1.0) for engine, seen in engines.items()],
            unit,
            volatility=unit,
            band_bps=self.stores.settings.band_bps,
            horizon="1d",
        )
        rows = keep_raw(made).with_columns(pl.col("as_of").alias("run_as_of"))
        self.stores.lake.replace(
            LIVE_TABLE, rows.cast(LIVE_SCHEMA), rows["session"].unique().to_list()
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    home = Home(folder)
    lake = home.stores.lake
    lake.replace("bars_1d", MARKET.daily, DAYS)
    lake.replace("splits", empty(SPLIT_SCHEMA), None)
    lake.replace("dividends", empty(DIVIDEND_SCHEMA), None)
    return home


PROMOTE = ("promote", "--horizon", "1d", "--family", "linear")
BACK = ("rollback", "--horizon", "1d", "--family", "linear", "--reason")


def test_evidence_promotes_and_a_reason_brings_back(home: Home) -> None:
    old = home.train(10.0, now=BEGUN - dt.timedelta(days=1))
    refused = home.ask(*PROMOTE)
    assert refused.status == 1
    assert "nothing to compare" in refused.message
    new = home.train(500.0, now=BEGUN)
    refused = home.ask(*PROMOTE)
    assert "continue: 0 of at least 40 sessions seen" in refused.message

    home.forecast(sees=0.0)
    refused = home.ask(*PROMOTE)
    assert refused.status == 1
    assert "does not allow to promote linear@challenger of 1d" in refused.message
    assert "sessions" in refused.message
    assert "--reason" in refused.message
    later = dt.datetime.now(dt.UTC)
    assert [m.version for m in home.stores.tracker.champions("1d", later)] == [old.version]

    home.forecast(sees=0.5)
    promoted = home.asked(*PROMOTE)
    assert (promoted["number"], promoted["previous"], promoted["step"]) == (2, 1, "promoted")
    assert promoted["evidence"]["decision"] == "promote"
    assert 40 <= promoted["evidence"]["sessions"] < len(DAYS) - 50
    later = dt.datetime.now(dt.UTC)
    assert [m.version for m in home.stores.tracker.champions("1d", later)] == [new.version]

    done = home.ask(*BACK, "it lost money")
    assert done.status == 0
    assert "version 1" in done.out
    assert "it lost money" in done.out
    again = home.ask(*BACK, "once more")
    assert again.status == 1
    assert "no earlier champion to go back to" in again.message

    listed = home.asked("list", "--horizon", "1d")
    assert [(m["number"], m["role"]) for m in listed] == [(2, ""), (1, "champion")]
    assert {m["metrics"]["rank_ic_linear"] for m in listed} == {0.03}
    told = home.asked("history")
    assert [e["step"] for e in told] == ["trained", "challenged", "promoted", "rolled back"]
    assert told[2]["evidence"] == promoted["evidence"]
    for word in ("list", "history"):
        assert home.ask(word).status == 0


def test_only_what_was_forecast_as_a_challenger_counts_and_by_hand_anything_goes(
    home: Home,
) -> None:
    home.train(10.0, now=BEGUN - dt.timedelta(days=1))
    close = labels_of(MARKET).drop_nulls("excess_return")["label_known_at"].max()
    home.train(500.0, now=close)
    home.forecast(sees=0.5)
    horizon = find_horizon("1d")
    verdict = weigh_challenger(home.stores, horizon, "linear", close + dt.timedelta(days=9))
    assert (verdict.decision, verdict.sessions) == (Decision.CONTINUE, 0)
    by_hand = home.asked(*PROMOTE, "--reason", "the old one cannot go on")
    assert (by_hand["number"], by_hand["evidence"]) == (2, {})


def test_a_challenger_can_be_dismissed(home: Home) -> None:
    home.train(10.0, now=BEGUN)
    home.train(500.0, now=BEGUN + dt.timedelta(days=1))
    words = ("dismiss", "--horizon", "1d", "--family", "linear", "--reason")
    done = home.asked(*words, "no better after a year")
    assert (done["step"], done["number"], done["previous"]) == ("dismissed", 2, 1)
    assert [m["role"] for m in home.asked("list", "--horizon", "1d")] == ["", "champion"]
    again = home.ask(*words, "once more")
    assert again.status == 1
    assert "no challenger to dismiss" in again.message


def test_other_bands_cannot_be_compared(home: Home) -> None:
    home.train(10.0, now=BEGUN)
    home.train(10.0, now=BEGUN + dt.timedelta(days=1), band_bps=1.0)
    home.forecast(sees=0.5)
    with pytest.raises(ModelError, match="other neutral bands"):
        weigh_challenger(home.stores, find_horizon("1d"), "linear", dt.datetime.now(dt.UTC))


@pytest.mark.parametrize("words", [("--family", "oracle"), ("--horizon", "3y")])
def test_unknown_names_are_a_wrong_use(home: Home, words: tuple[str, str]) -> None:
    done = home.ask(*PROMOTE, *words)
    assert done.status == 2
    assert words[1] in done.message


def test_without_any_model_there_is_nothing_to_list(home: Home) -> None:
    assert home.asked("list") == []
    assert home.asked("history") == []
    assert home.ask(*BACK, "why").status == 1
