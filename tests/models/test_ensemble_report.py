"""The ensemble against its best member, chosen in hindsight and by what was known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from market.errors import ModelError
from models.ensemble_report import (
    CONTRAST_SCHEMA,
    ensemble_against_members,
    session_rank_ic,
)
from tests.forecasts import LATER, forecasts

SHAPE = {"sessions": 200, "symbols": 12, "seed": 5, "skill": 0.3}


def engines(**blurred: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return predictions of one market by engines that see its signal through so much noise."""
    clear, outcomes = forecasts(**SHAPE, boldness=0.3)
    rng = np.random.default_rng(11)
    told = pl.col("expected_return_bps")
    parts = [
        clear.with_columns(
            pl.lit(name).alias("engine"),
            told + pl.Series(noise * 60.0 * rng.standard_normal(clear.height)),
        )
        for name, noise in blurred.items()
    ]
    return pl.concat(parts), outcomes


def contrast(predictions: pl.DataFrame, outcomes: pl.DataFrame, **settings) -> pl.DataFrame:
    given = {"as_of": LATER, "seed": 1, "block": 2.0, "draws": 500} | settings
    return ensemble_against_members(predictions, outcomes, **given)


def pick(found: pl.DataFrame, choice: str, measure: str = "rank_ic") -> dict[str, object]:
    (row,) = found.filter(choice=choice, measure=measure).to_dicts()
    return row


def test_rank_ic_of_a_session_is_scipys() -> None:
    predictions, outcomes = forecasts(**SHAPE, boldness=0.3)
    found = session_rank_ic(predictions, outcomes, as_of=LATER)
    joined = predictions.join(outcomes, on=["symbol", "bar_end", "horizon"])
    for session, ic in found.head(5).rows():
        day = joined.filter(session=session)
        wanted = spearmanr(day["expected_return_bps"], day["excess_return"]).statistic
        assert ic == pytest.approx(wanted, abs=1e-12)


def test_a_worse_and_a_better_ensemble_are_told_apart() -> None:
    told, outcomes = engines(ensemble=0.0, good=1.0, poor=9.0)
    found = contrast(told, outcomes)
    assert found.schema == CONTRAST_SCHEMA
    for choice in ("hindsight", "earlier"):
        row = pick(found, choice)
        assert (row["member"], row["standing"]) == ("good", "better")
        assert row["difference"] == pytest.approx(row["ensemble"] - row["best"], abs=1e-12)
    turned = told.with_columns(
        pl.col("engine").replace({"ensemble": "good", "good": "ensemble"}),
    )
    again = pick(contrast(turned, outcomes), "hindsight")
    assert again["standing"] == "worse"
    assert again["difference"] == pytest.approx(-pick(found, "hindsight")["difference"])


def test_equal_engines_differ_by_nothing() -> None:
    told, outcomes = engines(ensemble=0.0, same=0.0)
    found = contrast(told, outcomes)
    assert found["difference"].to_list() == [0.0] * found.height
    assert set(found["standing"]) == {"no worse than noise"}


def test_earlier_choice_follows_a_naive_loop() -> None:
    told, outcomes = engines(ensemble=0.5, first=1.0, second=1.0)
    found = pick(contrast(told, outcomes, min_sessions=20), "earlier")
    ic = {
        name: dict(session_rank_ic(told.filter(engine=name), outcomes, as_of=LATER).rows())
        for name in ("ensemble", "first", "second")
    }
    known = dict(
        told.filter(engine="first")
        .join(outcomes, on=["symbol", "bar_end"])
        .group_by("session")
        .agg(pl.col("label_known_at").max())
        .rows()
    )
    begun = dict(told.group_by("session").agg(pl.col("as_of").min()).rows())
    differences = []
    for day in sorted(begun):
        past = [d for d in begun if known[d] <= begun[day]]
        if len(past) >= 20:
            means = {n: np.mean([ic[n][d] for d in past]) for n in ("first", "second")}
            best = max(("first", "second"), key=means.__getitem__)
            differences.append(ic["ensemble"][day] - ic[best][day])
    assert found["sessions"] == len(differences)
    assert found["difference"] == pytest.approx(np.mean(differences), abs=1e-12)


def test_rows_that_one_engine_lacks_count_for_none() -> None:
    told, outcomes = engines(ensemble=0.0, good=1.0)
    lacking = told.filter((pl.col("engine") != "good") | (pl.col("symbol") != "S003"))
    neither = told.filter(pl.col("symbol") != "S003")
    assert contrast(lacking, outcomes).equals(contrast(neither, outcomes))


def test_too_few_sessions_say_so() -> None:
    told, outcomes = engines(ensemble=0.0, good=1.0)
    row = pick(contrast(told, outcomes, min_sessions=10_000), "earlier")
    assert (row["sessions"], row["standing"], row["member"]) == (0, "too few sessions", None)


@pytest.mark.parametrize(
    "settings", [{"ensemble": "none"}, {"members": ["absent"]}, {"members": ["ensemble"]}]
)
def test_an_ensemble_without_members_is_refused(settings) -> None:
    told, outcomes = engines(ensemble=0.0, good=1.0)
    with pytest.raises(ModelError, match="cannot be held against its members"):
        contrast(told, outcomes, **settings)
