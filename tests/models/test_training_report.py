"""The report of a training: its figures, its card, and what the run and the asset carry."""

from __future__ import annotations

import base64
import io
import json
import math

import polars as pl
import pytest
from PIL import Image

from market.horizons import find_horizon
from models.card_tables import tell_skill
from models.conformal import conformal_walk_forward
from models.ensemble_report import ensemble_against_members
from models.training_report import report_training, training_metadata
from models.training_tables import score_sets
from tests.forecasts import LATER
from tests.trainings import HORIZON, PROVENANCE, engines, fitted, regimes, report

FAMILIES = ("lightgbm", "linear")


def opening(card: str) -> str:
    return "\n".join(card.splitlines()[:3])


def test_the_card_begins_with_whether_skill_is_shown() -> None:
    without, with_skill = report(0.0), report(0.4)
    row = without.tables.overall("ensemble")
    assert row["rank_ic_low"] < 0.0 < row["rank_ic_high"]
    assert "No skill is shown" in opening(without.card)
    assert with_skill.tables.overall("ensemble")["rank_ic_low"] > 0.0
    assert "Some skill is shown" in opening(with_skill.card)
    for made in (without, with_skill):
        of = made.tables.overall("ensemble")
        assert f"{of['rank_ic_low']:+.4f} to {of['rank_ic_high']:+.4f}" in opening(made.card)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-0.01, 0.01, "No skill is shown"),
        (0.0, 0.01, "No skill is shown"),
        (0.001, 0.01, "Some skill is shown"),
        (-0.02, -0.001, "worse than none"),
        (math.nan, math.nan, "cannot be judged"),
    ],
)
def test_what_is_told_of_an_interval(low: float, high: float, told: str) -> None:
    row = {"rank_ic": 0.0, "rank_ic_low": low, "rank_ic_high": high, "sessions": 9}
    assert told in tell_skill(row | {"engine": "ensemble"})


def test_accuracy_is_told_with_coverage_and_interval_or_as_never() -> None:
    never, bold = report(0.0).card, report(1.5)
    assert [f"- {level}%: never, at this evidence." in never for level in (60, 65, 70)] == [
        True
    ] * 3
    reached = bold.tables.reached.filter(verdict="supported").to_dicts()
    assert reached
    for row in reached:
        line = next(x for x in bold.card.splitlines() if x.startswith(f"- {row['level']:.0%}:"))
        for value in ("share", "share_low", "share_high", "accuracy", "band_low", "band_high"):
            assert f"{row[value]:.1%}" in line, value


def test_no_outcome_known_later_moves_a_figure() -> None:
    predictions, outcomes = engines(0.3)
    as_of = predictions["as_of"].unique().sort()[150]
    late = pl.col("label_known_at") > as_of
    changed = outcomes.with_columns(
        pl.when(late).then(-pl.col("outcome")).otherwise("outcome"),
        pl.when(late).then(-pl.col("excess_return")).otherwise("excess_return"),
    )
    assert not changed.equals(outcomes)
    before, after = (
        report_training(
            predictions,
            those,
            regimes=regimes(predictions),
            models=fitted(*FAMILIES),
            horizon=HORIZON,
            provenance=PROVENANCE,
            as_of=as_of,
            draws=50,
        )
        for those in (outcomes, changed)
    )
    assert before.files() == after.files()
    assert before.tables.overall("ensemble")["sessions"] == 150


def test_without_an_outcome_the_report_says_so() -> None:
    predictions, _ = engines(0.3)
    made = report(0.3, as_of=predictions["as_of"].min())
    assert "cannot be judged" in opening(made.card)
    assert made.metrics == {}
    assert made.window_metrics == {}
    assert set(made.pictures) == {"importances"}
    assert "skill" in training_metadata(made)
    assert "## Going back" in made.card


def test_a_training_without_an_ensemble_has_figures_of_its_engines() -> None:
    predictions, outcomes = engines(0.3)
    made = report_training(
        predictions.filter(pl.col("engine") != "ensemble"),
        outcomes,
        regimes=regimes(predictions),
        models=fitted(*FAMILIES),
        horizon=HORIZON,
        provenance=PROVENANCE,
        as_of=LATER,
        draws=50,
    )
    told = made.card.splitlines()[2:6]
    assert told[0].startswith("There is no ensemble")
    for line, engine in zip(told[2:], FAMILIES, strict=True):
        low = made.tables.overall(engine)["rank_ic_low"]
        assert line.startswith(f"- `{engine}`: **Some skill is shown:**")
        assert f"{low:+.4f} to" in line
    assert "rank_ic_linear" in made.metrics
    assert "accuracy" not in made.pictures


def test_metrics_are_those_of_the_tables() -> None:
    made = report(0.4)
    metrics = made.metrics
    for engine in ("ensemble", *FAMILIES):
        row = made.tables.overall(engine)
        for name in ("rank_ic", "rank_ic_low", "ic", "brier", "log_loss", "ece", "hit_rate"):
            assert metrics[f"{name}_{engine}"] == row[name]
    bear = made.tables.scores.filter(grouping="regime", group="bear", engine="linear")
    assert metrics["regime/bear/log_loss_linear"] == bear["log_loss"].item()
    assert (metrics["rank_ic_low"], metrics["set_covered_linear"]) == (
        metrics["rank_ic_low_ensemble"],
        made.tables.sets.filter(engine="linear")["covered"].item(),
    )
    assert list(made.window_metrics) == [1, 2, 3, 4]
    third = made.tables.scores.filter(grouping="window", group="3", engine="ensemble")
    assert made.window_metrics[3]["window/rank_ic_ensemble"] == third["rank_ic"].item()
    assert all(math.isfinite(v) for v in metrics.values())


def test_the_files_are_whole() -> None:
    made = report(0.4)
    files = made.files()
    windows = json.loads(files["windows.json"])
    assert [w["window"] for w in windows] == [1, 2, 3, 4]
    assert windows[1]["models"] == {"lightgbm": "lightgbm-1", "linear": "linear-1"}
    scores = json.loads(files["tables/scores.json"])
    assert len(scores) == made.tables.scores.height
    assert files["model_card.md"].decode() == made.card
    for text in (PROVENANCE.data_hash, PROVENANCE.feature_hash, PROVENANCE.code_version):
        assert text in made.card
    assert "isobar models rollback --horizon 1d" in made.card


def test_pictures_are_white_cards_of_modest_size() -> None:
    made = report(0.4)
    assert set(made.pictures) == {"reliability", "accuracy", "rank_ic", "importances"}
    for name, png in made.pictures.items():
        image = Image.open(io.BytesIO(png)).convert("RGB")
        assert 600 <= image.width <= 1000, name
        assert image.getpixel((0, 0)) == (255, 255, 255), name
        dark = sum(n for n, (r, g, b) in image.getcolors(10**6) if r + g + b < 600)
        assert dark > 1000, name
    metadata = training_metadata(made)
    assert sum(map(len, metadata.values())) < 200_000
    drawn = [v for v in metadata.values() if v.startswith("![")]
    assert len(drawn) == 4
    for text in drawn:
        encoded = text.split("data:image/png;base64,")[1].rstrip(")")
        assert base64.b64decode(encoded) in made.pictures.values()


def test_the_same_training_is_reported_to_the_byte() -> None:
    first = report(0.4)
    report.cache_clear()
    assert report(0.4).files() == first.files()


def test_sets_are_counted_as_a_loop_counts_them() -> None:
    predictions, outcomes = engines(0.4)
    one = predictions.filter(engine="linear")
    how = {"as_of": LATER, "seed": 1, "block": 5.0, "draws": 50}
    found = score_sets(one, outcomes, coverage=0.5, **how).row(0, named=True)
    sets = conformal_walk_forward(one, outcomes, coverage=0.5)
    happened = {(s, t): o for s, t, o in outcomes.select("symbol", "bar_end", "outcome").rows()}
    rows = covered = single = right = 0
    for row in sets.iter_rows(named=True):
        outcome = happened.get((row["symbol"], row["bar_end"]))
        if outcome is None or not row["evidence_rows"]:
            continue
        inside = [row["has_short"], row["has_neutral"], row["has_long"]]
        rows += 1
        covered += inside[outcome + 1]
        single += sum(inside) == 1
        right += sum(inside) == 1 and inside[outcome + 1]
    assert single > 0
    assert found["rows"] == rows
    assert found["covered"] == pytest.approx(covered / rows)
    assert found["single"] == pytest.approx(single / rows)
    assert found["single_covered"] == pytest.approx(right / single)
    assert found["covered_low"] < found["covered"] < found["covered_high"]


def test_the_ensemble_beside_its_best_member_is_told() -> None:
    made = report(0.4)
    predictions, outcomes = engines(0.4)
    wanted = ensemble_against_members(
        predictions, outcomes, as_of=LATER, seed=3, block=5.0, draws=200
    )
    assert made.tables.against_members.equals(wanted)
    row = wanted.filter(measure="rank_ic", choice="earlier").row(0, named=True)
    assert f"| {row['standing']} | {row['sessions']} |" in made.card


@pytest.mark.parametrize(
    ("sessions", "symbols", "horizon"), [(1, 3, "1d"), (3, 2, "1d"), (30, 5, "1M")]
)
def test_a_short_history_is_reported_without_intervals(sessions, symbols, horizon) -> None:
    predictions, outcomes = engines(0.3, sessions=sessions, symbols=symbols, horizon=horizon)
    made = report_training(
        predictions,
        outcomes,
        regimes=regimes(predictions),
        models=fitted(*FAMILIES),
        horizon=find_horizon(horizon),
        provenance=PROVENANCE,
        as_of=LATER,
        draws=50,
    )
    assert "too few for an interval" in opening(made.card)
    assert "never, at this evidence" in made.card
    assert "log_loss_ensemble" in made.metrics
    assert "rank_ic_low_ensemble" not in made.metrics
    assert made.files()
