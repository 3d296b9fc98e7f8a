"""Reports of a tiny installation that lived through two days, and the command that shows them."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

from execution import alpaca
from execution.state import halt
from market.errors import BrokerError, SignalError
from market.horizons import Run, scheduled_for
from market.ledger_tables import (
    batch_inputs,
    fills,
    orders,
    parity_checks,
    plans,
    signal_batches,
    signal_outcomes,
    signals,
)
from market.ledger_tables import reports as reports_table
from pipelines.assets.orders import trade_newest
from pipelines.launch import Launcher, prepare_dagster_home
from pipelines.report_data import next_run_at, read_report
from pipelines.resources import Stores
from pipelines.settings import load_settings
from reports.facts import CHECK_SCHEMA, Report
from reports.render import render_html, render_markdown
from signals.publish import read_signals
from tests.commands import isobar
from tests.pipelines.installation import (
    RUNS,
    TODAY,
    YESTERDAY,
    Installation,
    environment_of,
)
from tests.reports.scenes import unescaped

pytestmark = pytest.mark.xdist_group("installation")
NAMES = [f"{run.value} {session}" for run, session in RUNS]
NO_CHECKS = pl.DataFrame(schema=CHECK_SCHEMA)
EACH = pytest.mark.parametrize(("run", "session"), RUNS, ids=NAMES)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker out of reach is asked as often as ever, without pauses."""
    monkeypatch.setattr(alpaca, "_FIRST_PAUSE_SECONDS", 0.0)


def read(stores: Stores, run: Run, session: dt.date, now: dt.datetime | None = None) -> Report:
    return read_report(stores, run, session, now or scheduled_for(run, session), NO_CHECKS)


def rows_of(stores: Stores, query: Any) -> list[dict[str, Any]]:
    with stores.ledger as ledger:
        return ledger.rows(query)


class TestRuns:
    @EACH
    def test_a_run_leaves_its_report(self, installation: Installation, run: Run, session: dt.date):
        told = installation.story[f"{run.value} {session}"][f"report_{run.value}"]
        page, text = Path(told["report"]), Path(told["markdown"])
        assert page == installation.home / "reports" / str(session) / f"{run.value}.html"
        assert page.read_text().endswith("</html>")
        assert text.read_text().startswith("# ")
        assert told["first screen"].count("\n## ") == 3
        found = rows_of(
            installation.stores,
            sa.select(reports_table).where(
                reports_table.c.run == run.value,
                reports_table.c.as_of == scheduled_for(run, session),
            ),
        )
        assert found
        assert {r["path"] for r in found} == {f"reports/{session}/{run.value}.html"}
        assert found[0]["created_at"] == scheduled_for(run, session)

    @EACH
    def test_it_shows_the_strongest_signals_of_the_ledger(
        self, installation: Installation, run: Run, session: dt.date
    ):
        as_of = scheduled_for(run, session)
        page = installation.home / "reports" / str(session) / f"{run.value}.md"
        text = unescaped(page.read_text())
        with installation.stores.ledger as ledger:
            rows = read_signals(ledger, since=as_of, until=as_of, engine="ensemble")
        assert rows.height > 0
        for horizon in rows["horizon"].unique():
            directed = rows.filter(
                (pl.col("horizon") == horizon) & (pl.col("direction") != "neutral")
            )
            if directed.is_empty():
                assert "No symbol is expected to pay its costs over" in text
                continue
            top = directed.sort(pl.col("expected_return_bps").abs()).row(-1, named=True)
            bps = f"{top['expected_return_bps']:+.1f}".replace("-", "−")
            assert f"{horizon}: strongest is {top['symbol']} " in text
            assert f"{bps} bps, confidence {100 * top['confidence']:.0f} %" in text
            given = sum(c["contribution"] for c in top["features"])
            assert f"make {given:+.1f} bps of it, all else".replace("-", "−") in text

    def test_the_broker_is_heard_while_it_is_the_present(self, installation: Installation):
        text = (installation.home / "reports" / str(TODAY) / "midday.md").read_text()
        assert "Equity: unknown" not in text
        assert "by the broker \\(" not in text  # Round brackets need no escape.
        assert "by the broker (alpaca" in text

    def test_checks_of_the_data_are_told(self, installation: Installation):
        text = (installation.home / "reports" / str(TODAY) / "eod.md").read_text()
        assert "checks of the data passed" in text
        assert "No check is on file" not in text


class TestAsOf:
    @EACH
    def test_made_again_much_later_it_says_the_same(
        self, installation: Installation, run: Run, session: dt.date
    ):
        then = read(installation.stores, run, session, next_run_at(run, session))
        later = next_run_at(run, session) + dt.timedelta(days=400)
        again = read(installation.stores, run, session, later)
        assert again.known_by == then.known_by == next_run_at(run, session)
        # Only the broker, which knows no time but the present, is not asked again.
        same = {"book": then.book, "made_at": then.made_at}
        assert render_html(replace(again, **same)) == render_html(then)
        assert again.book.problem is not None
        assert "earlier time" in again.book.problem

    def test_what_came_later_is_not_in_it(self, installation: Installation):
        stores = installation.stores
        first = read(stores, Run.PREMARKET, TODAY)
        assert first.previous is not None
        assert first.previous.as_of == scheduled_for(Run.EOD, YESTERDAY)
        assert set(first.earlier["as_of"]) == {scheduled_for(Run.EOD, YESTERDAY)}
        # By now these orders are filled; at half past eight they were on their way.
        now = {o["client_order_id"]: o["state"] for o in rows_of(stores, sa.select(orders))}
        assert first.plan is not None
        assert first.plan.orders.height > 0
        assert {now[o] for o in first.plan.orders["client_order_id"]} == {"filled"}
        assert set(first.plan.orders["state"]) == {"accepted"}
        assert first.open_orders.height == first.plan.orders.height
        assert set(read(stores, Run.MIDDAY, TODAY).plan.orders["state"]) == {"filled"}  # type: ignore[union-attr]

    def test_positions_by_own_fills_are_those_of_the_broker(self, installation: Installation):
        later = next_run_at(Run.EOD, TODAY) + dt.timedelta(days=1)
        own = read(installation.stores, Run.EOD, TODAY, later).book
        assert own.source == "Isobar's own fills"
        held = {p.symbol: p for p in installation.stores.broker.positions()}
        assert held
        found = {r["symbol"]: r for r in own.positions.to_dicts()}
        assert set(found) == set(held)
        for symbol, position in held.items():
            assert found[symbol]["quantity"] == float(position.quantity)
            paid = float(position.average_price_usd)
            assert found[symbol]["average_price_usd"] == pytest.approx(paid, rel=1e-4)
            assert found[symbol]["price_usd"] is not None

    def test_a_run_that_is_not_due_has_no_report(self, installation: Installation):
        early = scheduled_for(Run.EOD, TODAY) - dt.timedelta(seconds=1)
        with pytest.raises(SignalError, match="not due yet"):
            read(installation.stores, Run.EOD, TODAY, early)

    def test_the_next_run_is_the_next_of_the_day_or_of_the_next_session(self):
        assert next_run_at(Run.PREMARKET, TODAY) == scheduled_for(Run.MIDDAY, TODAY)
        friday = dt.date(2025, 7, 3)
        assert next_run_at(Run.EOD, friday) == scheduled_for(Run.PREMARKET, dt.date(2025, 7, 7))


class TestLedger:
    def test_outcomes_are_those_that_became_known_in_the_time_between(
        self, installation: Installation, tmp_path: Path
    ):
        copy = installation.copy(tmp_path)
        as_of, stores = scheduled_for(Run.EOD, TODAY), copy.stores
        chosen = (
            sa.select(signals)
            .where(signals.c.engine == "ensemble", signals.c.as_of < as_of)
            .order_by(signals.c.seq)
        )
        known = rows_of(stores, chosen)[:3]
        # One in time, one before the time, one that the report cannot know.
        moments = [as_of, scheduled_for(Run.EOD, YESTERDAY), next_run_at(Run.EOD, TODAY)]
        moments[2] += dt.timedelta(seconds=1)
        with stores.ledger as ledger, ledger.transaction() as connection:
            # The story's own are of other moments.
            connection.execute(sa.delete(signal_outcomes))
        unsettled = read(stores, Run.EOD, TODAY).unsettled
        with stores.ledger as ledger, ledger.transaction() as connection:
            for row, moment in zip(known, moments, strict=True):
                outcome = {"signal_id": row["id"], "known_at": moment, "recorded_at": moment}
                outcome |= {"realised_return_bps": 12.5}
                connection.execute(signal_outcomes.insert(), outcome)
        found = read(stores, Run.EOD, TODAY)
        assert found.outcomes["symbol"].to_list() == [known[0]["symbol"]]
        assert found.outcomes["realised_return_bps"].to_list() == [12.5]
        assert sum(found.unsettled.values()) == sum(unsettled.values()) - sum(
            scheduled_for(Run.EOD, YESTERDAY) < r["valid_until"] <= as_of for r in known
        )

    def test_a_halt_is_the_first_thing_seen(self, installation: Installation, tmp_path: Path):
        copy = installation.copy(tmp_path)
        as_of = scheduled_for(Run.EOD, TODAY)
        with copy.stores.ledger as ledger:
            halt(ledger, "<b>smoke</b>", as_of)
        html = render_html(read(copy.stores, Run.EOD, TODAY))
        assert html.index("TRADING IS HALTED") < html.index("<h2")
        assert "&lt;b&gt;smoke&lt;/b&gt;" in html
        before = read(copy.stores, Run.EOD, TODAY, as_of)
        assert before.trading.state == "halted"
        assert read(copy.stores, Run.MIDDAY, TODAY).trading.is_active

    def test_a_broken_parity_is_told(self, installation: Installation, tmp_path: Path):
        copy = installation.copy(tmp_path)
        as_of = scheduled_for(Run.PREMARKET, TODAY)
        batch = rows_of(copy.stores, sa.select(signal_batches).order_by(signal_batches.c.seq))[0]
        row = {"batch_id": batch["batch_id"], "checked_at": as_of, "equal": False}
        with copy.stores.ledger as ledger, ledger.transaction() as connection:
            connection.execute(parity_checks.insert(), row | {"findings": ["bars_1d moved"]})
        text = render_markdown(read(copy.stores, Run.PREMARKET, TODAY))
        assert "PARITY BROKEN" in text.split("## ")[0]
        assert "bars\\_1d moved" in text

    def test_a_broker_out_of_reach_is_named_and_not_fatal(
        self, installation: Installation, tmp_path: Path
    ):
        copy = replace(installation.copy(tmp_path), broker_url="http://127.0.0.1:9")
        book = read(copy.stores, Run.EOD, TODAY).book
        assert book.problem is not None
        assert book.equity_usd is None
        assert book.source == "Isobar's own fills"
        assert book.positions.height > 0

    def test_a_run_without_a_batch_says_so(self, installation: Installation):
        report = read(installation.stores, Run.MIDDAY, YESTERDAY)
        assert report.batch is None
        assert "NO SIGNALS" in render_markdown(report).split("## ")[0]

    def test_a_fresh_installation_has_a_report(self, installation: Installation, tmp_path: Path):
        empty = replace(installation, home=tmp_path / "home")
        empty.home.mkdir()
        report = read(empty.stores, Run.PREMARKET, TODAY)
        text = render_markdown(report)
        assert "regimes (" in unescaped(text)
        assert "No outcomes known yet." in text


class TestFailedOrders:
    """A broker that is out of reach when orders are due."""

    @pytest.fixture
    def broken(self, installation: Installation, tmp_path: Path) -> Installation:
        """The morning of the second day once more, and nobody answers where orders go."""
        copy = installation.copy(tmp_path)
        forget = (signal_outcomes, parity_checks, batch_inputs, fills, orders, plans, signals)
        with copy.stores.ledger as ledger, ledger.transaction() as connection:
            for table in (*forget, signal_batches):
                connection.execute(sa.delete(table))
        (copy.home / "signal_heads.jsonl").unlink()
        shutil.rmtree(copy.home / "reports")
        return replace(copy, broker_url="http://127.0.0.1:9")

    def launch(self, broken: Installation, run: Run) -> None:
        with environment_of(broken.environment, broken.home):
            launcher = Launcher(load_settings(), now=scheduled_for(run, TODAY))
            launcher.scheduled_run(run, TODAY)

    @pytest.mark.parametrize("run", [Run.PREMARKET, Run.EOD], ids=lambda run: run.value)
    def test_the_report_is_made_all_the_same_and_after_them(self, broken: Installation, run: Run):
        with pytest.raises(BrokerError, match="broker"):
            self.launch(broken, run)
        text = (broken.home / "reports" / str(TODAY) / f"{run.value}.md").read_text()
        assert ("ORDERS FAILED at" in text.split("## ")[0]) == (run is Run.PREMARKET)
        assert ("isobar trade" in text) == (run is Run.PREMARKET)
        with environment_of(broken.environment, broken.home):
            prepare_dagster_home(broken.settings)
            with dg.DagsterInstance.get() as instance:
                (record,) = instance.get_run_records()
                assert record.dagster_run.status is dg.DagsterRunStatus.FAILURE
                steps = [
                    s.step_key
                    for s in sorted(
                        instance.get_run_step_stats(record.dagster_run.run_id),
                        key=lambda s: s.start_time or 0.0,
                    )
                ]
        assert steps[-1] == f"report_{run.value}"
        assert {"orders_premarket", "fills"} & set(steps)

    def test_when_orders_are_carried_on_the_report_is_silent(
        self, broken: Installation, installation: Installation
    ):
        with pytest.raises(BrokerError):
            self.launch(broken, Run.PREMARKET)
        as_of = scheduled_for(Run.PREMARKET, TODAY)
        failed = read(broken.stores, Run.PREMARKET, TODAY)
        assert failed.trading_failure is not None
        assert failed.trading_failure.at == as_of
        mended = replace(broken, broker_url=installation.broker_url)
        later = as_of + dt.timedelta(minutes=5)
        trade_newest(mended.stores, now=later, dry_run=True)
        assert read(broken.stores, Run.PREMARKET, TODAY, later).trading_failure is not None
        trade_newest(mended.stores, now=later, dry_run=False)
        assert read(broken.stores, Run.PREMARKET, TODAY, later).trading_failure is None
        assert read(broken.stores, Run.PREMARKET, TODAY, as_of).trading_failure is not None


class TestCommand:
    def test_it_shows_the_newest(self, installation: Installation, tmp_path: Path):
        copy = installation.copy(tmp_path)
        shown = isobar("report", "eod", environment=copy.environment)
        assert shown.status == 0, shown.err
        assert "What not to trust" in shown.out
        document = isobar("report", "eod", "--json", environment=copy.environment).document
        assert document["summary"]["session"] == str(TODAY)
        assert Path(document["html"]) == copy.home / "reports" / str(TODAY) / "eod.html"
        text = isobar("report", "eod", "--markdown", environment=copy.environment)
        assert text.out == Path(document["markdown"]).read_text()

    def test_one_that_is_missing_is_made(self, installation: Installation, tmp_path: Path):
        copy = installation.copy(tmp_path)
        page = copy.home / "reports" / str(TODAY) / "premarket.html"
        page.unlink()
        shown = isobar("report", "premarket", "--json", environment=copy.environment)
        assert shown.status == 0, shown.err
        assert page.read_text().endswith("</html>")
        assert shown.document["summary"]["session"] == str(TODAY)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("noon",), "unknown run"),
            (("eod", "--session", "2025-06-28"), "no trading session"),
            (("eod", "--session", "June"), "--session is no date"),
            (("eod", "--json", "--markdown"), "exclude each other"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, installation: Installation, arguments: tuple[str, ...], said: str
    ):
        refused = isobar("report", *arguments, environment=installation.environment)
        assert refused.status == 2
        assert said in refused.message

    def test_where_nothing_was_published_the_remedy_is_named(
        self, installation: Installation, tmp_path: Path
    ):
        empty = replace(installation, home=tmp_path / "home")
        empty.home.mkdir()
        refused = isobar("report", "eod", environment=empty.environment)
        assert refused.status == 2
        assert "isobar run eod" in refused.message
