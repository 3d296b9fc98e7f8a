"""A batch is made again from what it was made from, whatever has happened since."""

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from execution.trade import newest_batch
from market.errors import SignalError
from market.horizons import Run, scheduled_for
from market.ledger_tables import batch_inputs, parity_checks
from market.schema import Bar
from pipelines.explain import explain_signal
from pipelines.parity import accept_parity, check_parity
from pipelines.resources import Stores
from pipelines.scoring import load_ensembles
from pipelines.settled import read_settled
from pipelines.signal_run import make_again, read_inputs
from pipelines.used_settings import settings_as_used, settings_as_were
from signals.publish import read_signals
from tests.markets import bits
from tests.pipelines.installation import TODAY, YESTERDAY, Installation

pytestmark = pytest.mark.xdist_group("installation")
NOW = scheduled_for(Run.EOD, TODAY) + dt.timedelta(hours=1)
EOD = scheduled_for(Run.EOD, YESTERDAY)


@pytest.fixture
def stores(installation: Installation, tmp_path: Path) -> Stores:
    return installation.copy(tmp_path).stores


def first_batch(stores: Stores) -> str:
    with stores.ledger as ledger:
        rows = read_signals(ledger, until=EOD)
    return rows["batch_id"][0]


def blocked(stores: Stores) -> bool:
    with stores.ledger as ledger:
        batch = newest_batch(ledger)
    assert batch is not None
    return batch.parity_broken


def test_a_lake_of_before_the_kept_sessions_says_the_same(stores: Stores):
    """Of all horizons, also those with many bars a session: kept and since, or all predictions."""
    horizons, lake = stores.settings.enabled_horizons, stores.lake
    kept = {h.name: read_settled(lake, h, NOW) for h in horizons}
    assert any(h.timeframe.is_intraday and kept[h.name] for h in horizons)
    found = load_ensembles(stores, horizons, NOW)
    for table in ("session_skill", "session_moments"):
        shutil.rmtree(Path(lake.root) / table)
    again = load_ensembles(stores, horizons, NOW)
    for one, other in zip(found, again, strict=True):
        assert one.scale == other.scale
        assert bits(one.weights) == bits(other.weights)
        assert (one.stacked is None) == (other.stacked is None)
        if one.stacked is not None and other.stacked is not None:
            assert bits(one.stacked) == bits(other.stacked)
        assert dict(one.residuals) == dict(other.residuals)


def test_every_run_of_the_story_checked_the_batch_before(installation: Installation):
    with installation.stores.ledger as ledger:
        checks = ledger.rows(sa.select(parity_checks))
        kept = ledger.rows(sa.select(batch_inputs.c.batch_id))
    assert len(kept) == 4
    # Of four runs one is the second of its kind.
    assert {c["batch_id"] for c in checks} == {first_batch(installation.stores)}
    assert all(c["equal"] and c["findings"] == [] for c in checks)
    assert not blocked(installation.stores)


def test_what_is_corrected_later_changes_nothing(stores: Stores):
    lake = stores.lake
    bars = lake.read_bars("bars_1d")
    lake.replace(
        "bars_1d", bars.with_columns(pl.col(Bar.CLOSE) * 2), sorted(lake.sessions("bars_1d"))
    )
    for table in ("features_1d", "predictions"):
        rows = lake.scan(table).collect()
        wrong = rows.with_columns(pl.selectors.float() * 2)
        column = "session" if table == "features_1d" else "horizon"
        lake.replace(table, wrong, rows[column].unique().to_list())
    found = check_parity(stores, Run.EOD, NOW)
    assert found is not None
    assert (found.as_of, found.findings) == (EOD, ())


def rewrite_inputs(stores: Stores, change: Any) -> None:
    """Let the first batch say that it was made from something else."""
    batch = batch_inputs.c.batch_id == first_batch(stores)
    with stores.ledger as ledger, ledger.transaction() as connection:
        found = connection.execute(sa.select(batch_inputs.c.inputs).where(batch)).scalar_one()
        change(found)
        connection.execute(sa.update(batch_inputs).where(batch).values(inputs=found))


def test_features_that_are_others_are_found_named_and_stop_orders(stores: Stores):
    rows = stores.lake.scan("features_1d").collect()
    wrong = rows.with_columns(pl.selectors.float() * 1.5)
    stores.lake.replace("features_1d", wrong, rows["session"].unique().to_list())
    version = stores.lake.version("features_1d")
    rewrite_inputs(stores, lambda inputs: inputs["tables"].update(features_1d=version))
    found = check_parity(stores, Run.EOD, NOW)
    assert found is not None
    assert not found.equal
    assert any(f.startswith("data_hash of ") for f in found.findings)
    assert "changed since: 1d: features" in found.findings
    assert not any("settings" in f or "prices" in f for f in found.findings)
    assert blocked(stores)
    # A person who knows why may go on, and a reason is asked for.
    with stores.ledger as ledger:
        with pytest.raises(SignalError, match="without a reason"):
            accept_parity(ledger, reason=" ", now=NOW)
        accept_parity(ledger, reason="a test", now=NOW + dt.timedelta(minutes=1))
        assert ledger.rows(sa.select(parity_checks))[-1]["findings"] == ["accepted by hand: a test"]
        with pytest.raises(SignalError, match="nothing to accept"):
            accept_parity(ledger, reason="again", now=NOW + dt.timedelta(minutes=2))
    assert not blocked(stores)


def test_a_file_that_is_torn_stops_orders(stores: Stores):
    with stores.ledger as ledger:
        version = read_inputs(ledger, first_batch(stores)).tables["features_1d"]
    for uri in stores.lake.open("features_1d", version=version).file_uris():
        Path(uri).write_bytes(Path(uri).read_bytes()[:-100])
    found = check_parity(stores, Run.EOD, NOW)
    assert found is not None
    assert found.findings[0].startswith("it cannot be made again")
    assert blocked(stores)


def test_a_model_that_is_gone_stops_orders(stores: Stores):
    def forget(inputs: Any) -> None:
        inputs["horizons"]["1d"]["champions"]["linear"] = "linear-1d-gone"

    rewrite_inputs(stores, forget)
    found = check_parity(stores, Run.EOD, NOW)
    assert found is not None
    assert found.findings[0].startswith("it cannot be made again: no model linear-1d-gone")
    assert blocked(stores)


def test_settings_of_now_are_not_those_of_then(stores: Stores):
    dearer = stores.settings.costs.__class__(half_spread_bps=50.0)
    other = stores.settings.model_copy(update={"costs": dearer})
    found = check_parity(Stores(other), Run.EOD, NOW)
    assert found is not None
    assert found.equal


def test_settings_come_back_and_secrets_are_not_among_them(stores: Stores):
    settings = stores.settings
    used = settings_as_used(settings)
    assert settings_as_were(used, settings).config_hash == settings.config_hash
    assert settings.polygon.api_key.get_secret_value() not in str(used)
    assert str(settings.home) not in str(used)


def test_a_signal_is_walked_back_to_its_bars(stores: Stores):
    with stores.ledger as ledger:
        rows = read_signals(ledger, engine="ensemble", horizon="1d").sort("expected_return_bps")
        inputs = read_inputs(ledger, rows["batch_id"][-1])
    strongest = rows.row(-1, named=True)
    found = explain_signal(stores, strongest["id"][:16])
    assert found["signal"]["id"] == strongest["id"]
    assert found["again"] == {"equal": True, "differences": [], "changed": []}
    assert {m["model_version"] for m in found["models"]} == set(
        inputs.horizons["1d"].champions.values()
    )
    weights = {w["engine"]: w["weight"] for w in found["weights"]}
    assert sum(weights.values()) == pytest.approx(1.0)
    # The blend is what its parts and weights say.
    parts = {f["engine"]: f["expected_return_bps"] for f in found["forecasts"]}
    blend = sum(weights[e] * parts[e] for e in weights)
    assert blend == pytest.approx(strongest["expected_return_bps"])
    bar = found["bars"]["newest"][-1]
    assert bar["close"] == pytest.approx(found["bars"]["price_usd"])
    assert bar["known_at"] <= strongest["as_of"]
    published = {f["feature"]: f["contribution"] for f in strongest["features"]}
    assert {f["feature"]: f["contribution"] for f in found["features"]}.items() >= published.items()
    of_row = stores.lake.scan("features_1d").filter(
        (pl.col("symbol") == strongest["symbol"]) & (pl.col("bar_end") == bar["bar_end"])
    )
    values = of_row.collect().row(0, named=True)
    for feature in found["features"]:
        assert feature["value"] == values[feature["feature"]]


@pytest.mark.parametrize("wrong", ["", "nosuch", "%"])
def test_a_signal_that_is_not_there(stores: Stores, wrong: str):
    with pytest.raises(SignalError, match="no such signal"):
        explain_signal(stores, wrong)


def test_reasons_of_a_weak_signal_come_on_request(stores: Stores):
    with stores.ledger as ledger:
        inputs = read_inputs(ledger, first_batch(stores))
        rows = read_signals(ledger, until=EOD, engine="ensemble", horizon="1d")
    weakest = rows.sort(pl.col("expected_return_bps").abs()).row(0, named=True)
    made = make_again(stores, inputs, EOD, horizons=["1d"], symbols=[weakest["symbol"]])
    own = made.rows.filter(pl.col("symbol") == weakest["symbol"])
    assert own["features"].list.len().min() > 0
    others = made.rows.filter(pl.col("symbol") != weakest["symbol"])
    assert others["features"].list.len().max() == 0
