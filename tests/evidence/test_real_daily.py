import datetime as dt
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from evidence import daily_groups, daily_judge, daily_models, real_daily
from evidence.daily_data import CORRECTIONS, correct, read_daily, read_raw
from evidence.daily_peers import member_spans
from features.regime import classify_regimes
from market.actions import forward_adjust, session_factors
from market.errors import MarketError
from market.horizons import find_horizon
from market.synthetic import SyntheticSpec, generate
from models.forecast import PREDICTION_SCHEMA

SAMPLES = os.environ.get("ISOBAR_SAMPLE_BARS")
PRICES = ["open", "high", "low", "close", "vwap"]


@pytest.fixture(scope="module")
def daily():
    made = generate(SyntheticSpec(symbols=25, sessions=40, minute_sessions=0)).daily
    # Without those that were halted: the loops below count bars.
    return made.filter(pl.len().over("symbol") == 40)


def forecasts(daily, seed=0):
    rng = np.random.default_rng(seed)
    rows = daily.select("symbol", "session")
    return rows.with_columns(pl.Series("forecast", rng.normal(size=rows.height)))


def judged_frame(daily, steps, models=("a",)):
    parts = {name: forecasts(daily, seed) for seed, name in enumerate(models)}
    members = daily.select("session", "symbol")
    return daily_judge.common_rows(parts, daily_judge.outcomes(daily, steps), members)


# ---------------------------------------------------------------------- data


def listed(symbol, day, action, fixed=None):
    return pl.DataFrame(
        [(symbol, day, action, fixed)],
        schema={
            "symbol": pl.String,
            "date": pl.Date,
            "action": pl.String,
            "fixed_return": pl.Float64,
        },
        orient="row",
    )


def test_a_fixed_return_scales_what_comes_after_and_nothing_else(daily):
    days = daily["session"].unique().sort()
    name = daily["symbol"][0]
    made = correct(daily, listed(name, days[10], "return_fixed", 0.25))
    own, before = (f.filter(pl.col("symbol") == name).sort("session") for f in (made, daily))
    change = own["close"].to_numpy()[1:] / own["close"].to_numpy()[:-1] - 1
    wanted = before["close"].to_numpy()[1:] / before["close"].to_numpy()[:-1] - 1
    wanted[9] = 0.25
    np.testing.assert_allclose(change, wanted, atol=1e-12)
    for one in PRICES:
        np.testing.assert_array_equal(own[one][:10], before[one][:10])
        np.testing.assert_allclose(own[one] / own["close"], before[one] / before["close"])
    others = pl.col("symbol") != name
    assert made.filter(others).equals(daily.filter(others))


@pytest.mark.parametrize(("action", "gone"), [("row_dropped", 1), ("history_before_dropped", 10)])
def test_rows_of_another_company_go(daily, action, gone):
    days = daily["session"].unique().sort()
    name = daily["symbol"][0]
    made = correct(daily, listed(name, days[10], action))
    lost = daily.join(made, on=["symbol", "session"], how="anti")
    assert lost.height == gone
    assert set(lost["symbol"]) == {name}
    assert max(lost["session"]) <= days[10]


def test_an_unknown_correction_is_refused(daily):
    with pytest.raises(MarketError, match="something unknown"):
        correct(daily, listed("A", dt.date(2024, 1, 2), "price_guessed"))


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS is not set")
def test_listed_faults_are_gone_from_real_bars():
    folder = Path(SAMPLES)
    made = read_daily(folder).sort("symbol", "session")
    change = made.with_columns(
        (pl.col("close") / pl.col("close").shift(1).over("symbol") - 1).alias("change")
    )
    faults = pl.read_csv(folder / CORRECTIONS, schema_overrides={"date": pl.Date})
    for row in faults.iter_rows(named=True):
        own = change.filter(pl.col("symbol") == row["symbol"])
        at = own.filter(pl.col("session") == row["date"])
        if row["action"] == "return_fixed":
            assert at["change"][0] == pytest.approx(row["fixed_return"], abs=1e-4)
        elif row["action"] == "row_dropped":
            assert at.is_empty()
        else:
            assert own.filter(pl.col("session") < row["date"]).is_empty()


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS is not set")
def test_raw_bars_with_their_splits_and_dividends_are_the_adjusted_ones():
    first, last = dt.date(2009, 7, 1), dt.date(2014, 12, 31)
    raw, splits, dividends = read_raw(Path(SAMPLES), first, last)
    again = forward_adjust(raw, session_factors(raw, splits, dividends))
    inside = pl.col("session").is_between(first, last)
    change = (pl.col("close") / pl.col("close").shift(1)).over("symbol").alias("change")

    def changes(bars):
        return bars.filter(inside).sort("symbol", "session").select("symbol", "session", change)

    ours, theirs = changes(again), changes(read_daily(Path(SAMPLES)))
    assert ours.select("symbol", "session").equals(theirs.select("symbol", "session"))
    np.testing.assert_allclose(ours["change"].to_numpy(), theirs["change"].to_numpy(), rtol=1e-9)
    assert raw["session"].min() == first


@pytest.mark.real_bars
@pytest.mark.skipif(not SAMPLES, reason="ISOBAR_SAMPLE_BARS is not set")
def test_raw_bars_that_only_a_return_would_correct_are_refused():
    with pytest.raises(MarketError, match="cannot be corrected by a return"):
        read_raw(Path(SAMPLES), dt.date(2003, 8, 1), dt.date(2003, 8, 31))


def test_spells_of_members_are_unbroken(daily):
    days = daily["session"].unique().sort().to_list()
    away = {("pause", days[k]) for k in range(10, 15)}
    rows = [(n, d) for n in ("always", "pause") for d in days]
    bars = pl.DataFrame(rows, schema=["symbol", "session"], orient="row")
    members = pl.DataFrame(
        [(d, n) for n, d in rows if (n, d) not in away], schema=["session", "symbol"], orient="row"
    )
    assert member_spans(bars, members).rows() == [
        ("always", days[0], days[-1]),
        ("pause", days[0], days[9]),
        ("pause", days[15], days[-1]),
    ]


# ---------------------------------------------------------------------- judging


@pytest.mark.parametrize("steps", [1, 5])
def test_outcomes_are_those_of_a_loop(daily, steps):
    made = daily_judge.outcomes(daily, steps).sort("symbol", "session")
    for _, own in made.group_by("symbol"):
        closes = daily.filter(pl.col("symbol") == own["symbol"][0]).sort("session")["close"]
        for k, (now, later) in enumerate(own.select("outcome", "outcome_next").iter_rows()):
            if k + steps < len(closes):
                assert now == pytest.approx(closes[k + steps] / closes[k] - 1)
            else:
                assert now is None
            if k + 1 + steps < len(closes):
                assert later == pytest.approx(closes[k + 1 + steps] / closes[k + 1] - 1)
            else:
                assert later is None


def test_a_missing_bar_does_not_move_the_horizon(daily):
    days = daily["session"].unique().sort()
    name = daily["symbol"][0]
    gap = daily.filter(~((pl.col("symbol") == name) & (pl.col("session") == days[10])))
    made = daily_judge.outcomes(gap, 5).filter(pl.col("symbol") == name)
    by_day = dict(made.select("session", "outcome").iter_rows())
    assert by_day[days[5]] is None
    assert by_day[days[4]] is not None


def test_every_model_is_judged_on_the_same_rows(daily):
    half = forecasts(daily).filter(pl.col("session") > daily["session"].unique().sort()[20])
    members = daily.select("session", "symbol")
    frame = daily_judge.common_rows(
        {"all": forecasts(daily), "half": half}, daily_judge.outcomes(daily, 1), members
    )
    assert frame.null_count().sum_horizontal()[0] == 0
    assert frame.join(half, on=["symbol", "session"], how="anti").is_empty()


def test_coefficients_are_scipys(daily):
    frame = judged_frame(daily, 1)
    made = daily_judge.coefficients(frame, "a", "outcome")
    for session, ic, rank in made.iter_rows():
        part = frame.filter(pl.col("session") == session)
        assert rank == pytest.approx(spearmanr(part["a"], part["outcome"]).statistic)
        assert ic == pytest.approx(np.corrcoef(part["a"], part["outcome"])[0, 1])


def test_perfect_foresight_has_a_coefficient_of_one_and_beats_noise(daily):
    frame = judged_frame(daily, 1, ("noise",)).with_columns(pl.col("outcome").alias("sight"))
    regimes = frame.select(pl.col("session").unique()).with_columns(pl.lit("bull").alias("regime"))
    made = daily_judge.judge(frame, ["sight", "noise"], regimes, steps=1, seed=0)
    assert made["sight"]["rank_ic"]["mean"] == pytest.approx(1.0)
    assert made["sight"]["by_regime"]["bull"]["mean"] == pytest.approx(1.0)
    gap = daily_judge.differences(frame, "sight", ["noise"], steps=1, seed=0, outcome="outcome")[
        "noise"
    ]
    assert gap["t"] > 5


def test_a_forecast_twice_too_large_has_half_the_slope(daily):
    frame = judged_frame(daily, 1, ("noise",)).with_columns(
        # What all symbols of a session share is no part of it.
        (2e4 * pl.col("outcome") + 300 * pl.col("session").dt.day()).alias("twice")
    )
    made = daily_judge.slope(frame, "twice", "outcome", steps=1, seed=0)
    assert made["mean"] == pytest.approx(0.5)
    assert made["low"] == pytest.approx(made["high"])
    noise = daily_judge.slope(frame, "noise", "outcome", steps=1, seed=0)
    assert noise["low"] < 0 < noise["high"]


@pytest.mark.parametrize(("steps", "wait"), [(1, 0), (1, 1), (5, 1)])
def test_the_portfolio_is_that_of_a_slow_loop(daily, steps, wait):
    frame = judged_frame(daily, steps)
    made = daily_judge.portfolio(frame, "a", daily, steps=steps, cost_bps=7.0, wait=wait)
    closes = {
        k: dict(v.select("session", "close").iter_rows()) for (k,), v in daily.group_by("symbol")
    }
    days = frame["session"].unique().sort().to_list()
    books = []
    for day in days:
        part = frame.filter(pl.col("session") == day).sort("a")
        n = max(1, round(0.1 * part.height))
        names = part["symbol"].to_list()
        books.append({**dict.fromkeys(names[:n], -1 / n), **dict.fromkeys(names[-n:], 1 / n)})
    earned, before = [], {}
    for k in range(len(days) - 1):
        held = {}
        for book in books[max(0, k - wait - steps + 1) : max(0, k - wait + 1)]:
            for name, weight in book.items():
                held[name] = held.get(name, 0.0) + weight / steps
        gain = sum(w * (closes[s][days[k + 1]] / closes[s][days[k]] - 1) for s, w in held.items())
        traded = sum(abs(held.get(s, 0.0) - before.get(s, 0.0)) for s in {*held, *before})
        earned.append(gain - traded * 7e-4)
        before = held
    assert made["net_return"] == pytest.approx(np.mean(earned) * 252)
    wanted = np.mean(earned) / np.std(earned, ddof=1) * 252**0.5
    assert made["net_information_ratio"] == pytest.approx(wanted)


# ---------------------------------------------------------------------- our models, and looks


def test_the_mean_of_forecasts_does_not_know_their_scales(daily):
    one, two = forecasts(daily, 1), forecasts(daily, 2)
    large = two.with_columns(pl.col("forecast") * 1000 + 5)
    a, b = (daily_models.mean_of_scores([one, x])["forecast"] for x in (two, large))
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_no_column_is_learned_twice_over():
    names = daily_models.learned_names(real_daily.CONFIG["feature_families"])
    assert len(set(names)) == len(names)
    assert "return_5" in names
    assert "return_5_z" not in names


def test_the_same_configuration_is_no_new_look_and_another_is(tmp_path):
    path, day = tmp_path / "looks.json", dt.date(2024, 7, 2)
    config = dict(real_daily.CONFIG)
    first = real_daily.count_look(config, path, today=day, changed="x")
    again = real_daily.count_look(config, path, today=day + dt.timedelta(days=3), changed="x")
    assert (first["look"], again["look"], again["looks"]) == (1, 1, 1)
    assert again["date"] == "2024-07-02"
    other = real_daily.count_look({**config, "seed": 2}, path, today=day, changed="x")
    assert (other["look"], other["looks"]) == (2, 2)
    assert real_daily.count_look(config, path, today=day, changed="x")["look"] == 1
    assert real_daily.count_look({**config, "peers": {}}, path, today=day, changed="x")["look"] == 1


def group_predictions(daily, horizon, engine, seed):
    rng = np.random.default_rng(seed)
    n = daily.height
    return daily.select(
        "symbol",
        "session",
        "bar_end",
        pl.col("known_at").alias("as_of"),
        pl.lit(horizon).alias("horizon"),
        pl.lit(engine).alias("engine"),
        pl.lit(f"{engine}-1").alias("model_version"),
        *(pl.lit(1 / 3).alias(c) for c in ("p_short", "p_neutral", "p_long")),
        pl.Series("expected_return_bps", rng.normal(size=n)),
        pl.lit(100.0).alias("volatility_bps"),
    ).cast(PREDICTION_SCHEMA)


@pytest.mark.parametrize(("horizon", "group"), [("1d", "daily"), ("14d", "swing")])
def test_a_group_is_blended_as_the_product_does(daily, horizon, group):
    row = find_horizon(horizon)
    made = {f: group_predictions(daily, horizon, f, k) for k, f in enumerate(row.families)}
    found = daily_groups.forecasts(made, horizon, daily, classify_regimes(daily))
    meta = ["meta"] if row.stacked else []
    wanted = [f"{group}.{name}" for name in (*row.families, *meta, "ensemble")]
    assert sorted(found) == sorted(wanted)
    for family, rows in made.items():
        of_family = found[f"{group}.{family}"].rename({"forecast": "expected_return_bps"})
        assert of_family.equals(rows.select(of_family.columns))
    # Nothing is known in the first month: all members weigh the same.
    first = daily["session"].min()
    parts = [found[name].filter(pl.col("session") == first).sort("symbol") for name in wanted]
    *members, ensemble = (p["forecast"].to_numpy() for p in parts)
    np.testing.assert_allclose(ensemble, np.mean(members, axis=0))


def test_the_groups_that_are_judged_are_those_of_the_horizons_table():
    for horizon, families in real_daily.CONFIG["groups"].items():
        assert tuple(families) == find_horizon(horizon).families


def test_the_ensemble_before_it_is_scaled_differs_by_one_number_a_month():
    daily = generate(SyntheticSpec(symbols=8, sessions=300, minute_sessions=0)).daily
    large = pl.col("expected_return_bps") * 50
    made = {
        f: group_predictions(daily, "1d", f, k).with_columns(large)
        for k, f in enumerate(find_horizon("1d").families)
    }
    regimes = classify_regimes(daily)
    scaled = daily_groups.forecasts(made, "1d", daily, regimes)["daily.ensemble"]
    both = daily_groups.unscaled(made, "1d", daily, regimes).join(
        scaled, on=["symbol", "session"], suffix="_scaled"
    )
    assert both.height == daily.height
    by_month = (
        both.with_columns((pl.col("forecast_scaled") / pl.col("forecast")).alias("scale"))
        .group_by(pl.col("session").dt.truncate("1mo"))
        .agg(pl.col("scale").min().alias("low"), pl.col("scale").max().alias("high"))
        .sort("session")
    )
    np.testing.assert_allclose(by_month["low"], by_month["high"])
    # Of the first months nothing is known; later large forecasts of noise are worth little.
    assert by_month["low"][0] == pytest.approx(1.0)
    assert by_month["low"][-1] < 0.5


def test_what_came_beyond_costs_is_that_of_a_slow_loop(daily):
    frame = judged_frame(daily, 1, ("noise",))
    made = daily_judge.beyond_costs(frame, "noise", "outcome", least_bps=1.2, steps=1, seed=0)
    mean = dict(frame.group_by("session").agg(pl.col("outcome").mean()).iter_rows())
    said, came = [], []
    for row in frame.iter_rows(named=True):
        if abs(row["noise"]) > 1.2:
            said.append(abs(row["noise"]))
            came.append(np.sign(row["noise"]) * (row["outcome"] - mean[row["session"]]) * 1e4)
    assert made["rows"] == pytest.approx(len(said) / frame.height)
    assert made["said"] == pytest.approx(np.mean(said))
    assert made["came"] == pytest.approx(np.mean(came))
    assert made["low"] < made["came"] < made["high"]
    none = daily_judge.beyond_costs(frame, "noise", "outcome", least_bps=1e6, steps=1, seed=0)
    assert (none["rows"], none["said"], none["came"]) == (0.0, None, None)


def test_a_forecast_that_lacks_rows_is_not_judged(daily):
    frame = judged_frame(daily, 1)
    with pytest.raises(AssertionError, match="b lacks 1 rows"):
        daily_judge.with_forecast(frame, "b", frame.select("symbol", "session", forecast="a")[1:])


def test_a_new_look_says_what_is_new(tmp_path):
    path, day = tmp_path / "looks.json", dt.date(2024, 7, 2)
    real_daily.count_look(real_daily.CONFIG, path, today=day, changed="the first")
    other = {**real_daily.CONFIG, "return_scale": {"prior_deviation": 9.0, "least": 0.0}}
    assert real_daily.count_look(other, path, today=day, changed="a scale")["changed"] == "a scale"
    assert (
        real_daily.count_look(real_daily.CONFIG, path, today=day, changed="again")["changed"]
        == "the first"
    )
    assert [one["changed"] for one in real_daily.read_looks(path)] == ["the first", "a scale"]
