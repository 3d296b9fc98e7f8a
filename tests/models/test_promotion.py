"""Promotion by evidence: paired, on what was known, at any look."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import t

from market.errors import ModelError
from models.comparison import automatic_lags, newey_west_variance
from models.promotion import Verdict, judge_challenger
from models.sequential import Decision, SequentialTest
from tests.forecasts import LATER, forecasts

PLAN = SequentialTest(planned_sessions=120, min_sessions=40)


def three(skill: float = 0.5, boldness: float = 0.5, sessions: int = 120):
    """A champion that knows nothing, a challenger that believes its signal, and what happened."""
    champion, outcomes = forecasts(sessions, skill=skill, boldness=0.0, engine="linear")
    challenger, _ = forecasts(sessions, skill=skill, boldness=boldness, engine="linear@challenger")
    return champion, challenger, outcomes


def judge(champion, challenger, outcomes, as_of=LATER, state=PLAN):
    return judge_challenger(champion, challenger, outcomes, as_of=as_of, state=state)


def naive_losses(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> np.ndarray:
    happened = {(r["symbol"], r["bar_end"]): r["outcome"] for r in outcomes.to_dicts()}
    sessions: dict[dt.date, list[float]] = {}
    for row in predictions.to_dicts():
        outcome = happened[(row["symbol"], row["bar_end"])]
        chance = row[{-1: "p_short", 0: "p_neutral", 1: "p_long"}[outcome]]
        sessions.setdefault(row["session"], []).append(-math.log(max(chance, 1e-6)))
    return np.array([np.mean(sessions[day]) for day in sorted(sessions)])


def test_a_better_challenger_is_promoted_and_the_figures_are_those_of_a_naive_loop() -> None:
    champion, challenger, outcomes = three()
    verdict, state = judge(champion, challenger, outcomes)
    better = naive_losses(champion, outcomes) - naive_losses(challenger, outcomes)
    n, lags = 120, automatic_lags(120)
    error = math.sqrt(newey_west_variance(better, lags) * n * n / ((n - lags - 1) * (n - lags)))
    half = t.ppf(0.975, n - 1) * error
    assert verdict.mean_difference == pytest.approx(better.mean())
    assert (verdict.low, verdict.high) == pytest.approx(
        (better.mean() - half, better.mean() + half)
    )
    assert verdict.p_value == pytest.approx(t.sf(better.mean() / error, n - 1))
    assert (verdict.sessions, verdict.rows) == (120, challenger.height)
    assert verdict.decision is Decision.PROMOTE is state.decision
    assert 0.0 < verdict.sequential_low < verdict.mean_difference
    assert verdict.reason.startswith("promote: the challenger's log loss is 0.0")
    assert "nats better" in verdict.reason


def test_a_worse_one_is_never_promoted_however_often_one_looks() -> None:
    champion, challenger, outcomes = three()
    days = outcomes["label_known_at"].unique().sort()
    state, decisions = PLAN, []
    for moment in days[::6]:
        verdict, state = judge(challenger, champion, outcomes, as_of=moment, state=state)
        decisions.append(verdict.decision)
    verdict, state = judge(challenger, champion, outcomes, state=state)
    assert set(decisions) == {Decision.CONTINUE}
    assert verdict.decision is Decision.KEEP
    assert verdict.mean_difference < 0.0
    assert verdict.p_value > 0.5
    assert "nats worse" in verdict.reason
    assert "ended after 120 sessions" in verdict.reason


def test_only_rows_that_both_forecast_count() -> None:
    champion, challenger, outcomes = three()
    part = challenger.filter(pl.col("symbol") < "S010")
    common = champion.filter(pl.col("symbol") < "S010")
    found, _ = judge(champion, part, outcomes)
    assert found == judge(common, part, outcomes)[0]
    assert found.rows == part.height
    # The champion's own rows may say anything.
    others = pl.when(pl.col("symbol") >= "S010")
    bold = champion.with_columns(
        others.then(1.0).otherwise("p_long").alias("p_long"),
        *(others.then(0.0).otherwise(c).alias(c) for c in ("p_short", "p_neutral")),
    )
    assert judge(bold, part, outcomes)[0] == found
    # A row made at another moment is another forecast.
    later = part.with_columns(pl.col("as_of") + pl.duration(minutes=1))
    assert judge(champion, later, outcomes)[0].sessions == 0


def test_what_is_known_later_changes_no_bit() -> None:
    champion, challenger, outcomes = three()
    as_of = outcomes["label_known_at"].unique().sort()[79]
    future = pl.col("label_known_at") > as_of
    other = outcomes.with_columns(
        pl.when(future).then(-pl.col("outcome")).otherwise("outcome").alias("outcome")
    )
    wanted = judge(champion, challenger, outcomes, as_of=as_of)
    assert wanted[0].sessions == 80
    for changed in (other, outcomes.filter(~future)):
        assert judge(champion, challenger, changed, as_of=as_of) == wanted


def test_too_few_sessions_decide_nothing() -> None:
    champion, challenger, outcomes = three(sessions=39)
    verdict, _ = judge(champion, challenger, outcomes)
    assert verdict.decision is Decision.CONTINUE
    assert verdict.reason == "continue: 39 of at least 40 sessions seen"
    assert verdict.sequential_low == -math.inf
    assert verdict.as_evidence()["sequential_low"] is None


def test_before_any_outcome_there_is_nothing_to_say() -> None:
    champion, challenger, outcomes = three()
    verdict, state = judge(champion, challenger, outcomes.clear())
    assert (verdict.decision, verdict.sessions, verdict.p_value) == (Decision.CONTINUE, 0, 1.0)
    assert state == PLAN
    first = champion["as_of"].min()
    assert judge(champion, challenger, outcomes, as_of=first)[0] == verdict


def test_a_lead_that_is_gone_promotes_no_more() -> None:
    champion, challenger, outcomes = three()
    early = outcomes["label_known_at"].unique().sort()[69]
    first, state = judge(champion, challenger, outcomes, as_of=early)
    assert first.decision is Decision.PROMOTE
    # Judged again after its later forecasts turned out very wrong.
    late = champion["session"].unique().sort()[70]
    turned = challenger.with_columns(
        pl.when(pl.col("session") >= late).then(v).otherwise(c).alias(c)
        for c, v in (("p_long", 0.0), ("p_short", 0.0), ("p_neutral", 1.0))
    )
    verdict, after = judge(champion, turned, outcomes, state=state)
    assert after.decision is Decision.PROMOTE
    assert verdict.decision is Decision.CONTINUE
    assert "is gone" in verdict.reason


def test_sessions_beyond_the_plan_are_not_looked_at() -> None:
    champion, challenger, outcomes = three()
    short = replace(PLAN, planned_sessions=60)
    verdict, _ = judge(champion, challenger, outcomes, state=short)
    first = champion["session"].unique().sort()[:60].to_list()
    kept = [f.filter(pl.col("session").is_in(first)) for f in (champion, challenger)]
    assert verdict == judge(*kept, outcomes, state=short)[0]
    assert verdict.sessions == 60


@pytest.mark.parametrize("which", ["champion", "challenger"])
def test_tables_of_several_engines_or_with_rows_twice_are_refused(which: str) -> None:
    champion, challenger, outcomes = three()
    for wrong in (
        pl.concat([champion, challenger]),
        pl.concat([champion, champion.head(1)]),
    ):
        pair = (wrong, challenger) if which == "champion" else (champion, wrong)
        with pytest.raises(ModelError, match=f"{which} are not those of one engine"):
            judge(*pair, outcomes)


def test_sessions_that_vanished_since_the_last_look_are_an_error() -> None:
    champion, challenger, outcomes = three()
    _, state = judge(champion, challenger, outcomes)
    for kept in (challenger.clear(), challenger.filter(pl.col("session") > dt.date(2019, 2, 1))):
        with pytest.raises(ModelError, match="lost sessions between two looks"):
            judge(champion, kept, outcomes, state=state)


def test_evidence_is_plain_and_whole() -> None:
    verdict, _ = judge(*three())
    found = verdict.as_evidence()
    assert isinstance(verdict, Verdict)
    assert found["decision"] == "promote"
    assert set(found) >= {"mean_difference", "low", "high", "p_value", "sessions", "rows"}
