import datetime as dt

import numpy as np
import polars as pl
import pytest

from features.neutral_labels import nested_steps, neutral_returns
from market.errors import FeatureError


def made(seed=0, symbols=12, sessions=9, horizons=(1,)):
    """Return labels of random returns, exposures and sectors."""
    rng = np.random.default_rng(seed)
    days = [
        dt.datetime(2024, 1, 2, 21, tzinfo=dt.UTC) + dt.timedelta(days=k) for k in range(sessions)
    ]
    keys = pl.DataFrame(
        [(f"S{k:02}", day) for day in days for k in range(symbols)],
        schema={"symbol": pl.String, "bar_end": pl.Datetime("us", "UTC")},
        orient="row",
    )
    n = keys.height
    exposures = keys.with_columns(
        pl.Series("beta_60", rng.normal(1.0, 0.8, n)),
        pl.Series("volatility_20", rng.uniform(0.01, 0.05, n)),
    )
    labels = [
        keys.with_columns(pl.Series("forward_return", rng.normal(0.0, 0.02 * h**0.5, n)))
        for h in horizons
    ]
    sectors = pl.DataFrame(
        {
            "symbol": [f"S{k:02}" for k in range(symbols)],
            "sector": [f"{k % 3}" for k in range(symbols)],
        }
    )
    return labels, exposures, sectors


def by_hand(labels, steps, exposures, sectors):
    """Return the neutral return of each row, a session and a sector at a time."""
    sector = dict(sectors.iter_rows())
    out = {}
    for day in exposures["bar_end"].unique():
        rows = exposures.filter(pl.col("bar_end") == day)
        names = rows["symbol"].to_list()
        beta = np.clip(0.5 * rows["beta_60"].to_numpy() + 0.5, 0.2, 2.5)
        volatility = rows["volatility_20"].to_numpy()
        total = np.zeros(len(names))
        for label, length in zip(labels, steps, strict=True):
            own = label.filter(pl.col("bar_end") == day)
            forward = np.array(
                [dict(own.select("symbol", "forward_return").iter_rows())[s] for s in names]
            )
            beyond = forward - beta * forward.mean()
            for s in set(sector.values()):
                mine = np.array([sector[x] == s for x in names])
                beyond[mine] -= beyond[mine].mean()
            total += np.clip(beyond / (volatility * length**0.5), -3, 3)
        neutral = total / len(steps) * volatility * steps[-1] ** 0.5
        out |= {(s, day): v for s, v in zip(names, neutral, strict=True)}
    return out


@pytest.mark.parametrize("horizons", [(1,), (1, 5, 10)])
def test_it_is_what_a_loop_over_sessions_and_sectors_gives(horizons):
    labels, exposures, sectors = made(horizons=horizons)
    got = neutral_returns(labels, horizons, exposures, sectors)
    wanted = by_hand(labels, horizons, exposures, sectors)
    for symbol, day, value in got.select("symbol", "bar_end", "neutral_return").iter_rows():
        assert value == pytest.approx(wanted[symbol, day], abs=1e-12)


def test_what_a_market_and_its_sectors_do_does_not_count():
    labels, exposures, sectors = made()
    level = exposures.with_columns(pl.lit(1.0).alias("beta_60"))
    kept = labels[0].join(sectors, on="symbol", how="left")
    moved = kept.with_columns(
        pl.col("forward_return") + 0.03 + 0.01 * pl.col("sector").cast(pl.Float64)
    ).select(labels[0].columns)
    one, other = (
        neutral_returns([x], [1], level, sectors)["neutral_return"].to_numpy()
        for x in (labels[0], moved)
    )
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_without_sectors_there_is_one():
    labels, exposures, sectors = made()
    alike = sectors.with_columns(pl.lit("all").alias("sector"))
    one = neutral_returns(labels, [1], exposures)["neutral_return"]
    assert (
        one.to_list() == neutral_returns(labels, [1], exposures, alike)["neutral_return"].to_list()
    )


def test_what_is_not_known_stays_unknown():
    labels, exposures, sectors = made(horizons=(1, 5))
    last = exposures["bar_end"].max()
    gone = labels[1].with_columns(
        pl.when(pl.col("bar_end") < last).then(pl.col("forward_return")).alias("forward_return")
    )
    got = neutral_returns([labels[0], gone], (1, 5), exposures, sectors)
    assert (got["neutral_return"].is_null() == (got["bar_end"] == last)).all()


@pytest.mark.parametrize("steps", [(), (1, 5), (0.5,) * 2])
def test_labels_and_steps_must_go_together(steps):
    labels, exposures, _ = made()
    with pytest.raises(FeatureError, match="do not go together"):
        neutral_returns(labels, steps, exposures)


def test_nested_labels_end_with_the_horizon():
    for steps in (1, 5, 10, 21):
        assert nested_steps(steps)[-1] == steps
        assert sorted(set(nested_steps(steps))) == list(nested_steps(steps))
