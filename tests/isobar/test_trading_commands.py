"""The commands of trading, against a paper broker: what they do, say and return."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from execution.broker import OrderRequest, OrderType, Side, TimeInForce
from execution.holdings import own_quantities
from isobar.doctor import trading_findings
from market import calendar
from market.horizons import Run, scheduled_for
from market.ledger_tables import audit_log, orders
from pipelines.launch import Launcher
from tests.faults.trading_day import MINUTE, SESSION
from tests.isobar.trading_desk import TradingDesk, a_desk, signal
from tests.pipelines.installation import ALPACA_KEY, ALPACA_SECRET

WIDTH = 80


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[TradingDesk]:
    with a_desk(tmp_path / "home") as made:
        yield made


@pytest.fixture
def holding(desk: TradingDesk) -> TradingDesk:
    """Isobar holds A, with target and stop at the broker, and D; C is restricted, B is no buy."""
    desk.publish(
        signal("A", targets=[300.0], stops=[10.0]),
        signal("B", direction="short"),
        signal("C"),
        signal("D", confidence=0.55),
    )
    assert desk.ask("trade").status == 0
    desk.wait()
    assert set(held(desk)) == {"A", "D"}
    return desk


def held(desk: TradingDesk) -> dict[str, Decimal]:
    return {p.symbol: p.quantity for p in desk.stores.broker.positions()}


def sent(desk: TradingDesk) -> list[str]:
    first = desk.clock.now().replace(hour=0)
    found = desk.stores.broker.orders_since(first)
    return sorted(o.client_order_id for o in found if o.client_order_id.startswith("iso-"))


def by_hand(desk: TradingDesk, symbol: str, side: Side, quantity: int) -> None:
    """Somebody else trades in the same account."""
    key = f"mine-{symbol}-{side}-{quantity}"
    wanted = OrderRequest(key, symbol, side, Decimal(quantity), OrderType.MARKET, TimeInForce.DAY)
    desk.stores.broker.submit(wanted)
    desk.wait()


def rows_of(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]


class TestRunClose:
    def test_it_is_the_job_of_the_session_that_is_about_to_close(self, desk, monkeypatch):
        asked: list[tuple[str, str]] = []

        def launch(_self: Launcher, job: str, *, partition: str) -> dict[str, dict[str, object]]:
            asked.append((job, partition))
            return {"orders_close": {"intents": 2}}

        monkeypatch.setattr(Launcher, "launch", launch)
        due = scheduled_for(Run.CLOSE, SESSION)
        for moment in (due, due - MINUTE):
            assert desk.ask("run", "close", "--as-of", moment.isoformat()).status == 0
        before = calendar.previous_session(SESSION)
        assert asked == [("close_job", f"{SESSION}"), ("close_job", f"{before}")]

    def test_what_publishes_nothing_has_no_report(self, desk):
        done = desk.ask("report", "close")
        assert done.status == 2
        assert "allowed: premarket, midday, eod" in done.message


class TestTrade:
    def test_without_signals_it_says_how_to_make_some(self, desk: TradingDesk):
        done = desk.ask("trade")
        assert done.status == 0
        assert done.out == "No batch of signals is published: `isobar run` makes one.\n"
        assert desk.json("trade")["batch"] == "none published"

    def test_a_dry_run_shows_every_verdict_and_sends_nothing(self, desk: TradingDesk):
        batch = desk.publish(signal("A"), signal("B", direction="short"), signal("C"))
        shown = rows_of(desk.ask("trade", "--dry-run").out)
        assert next(r for r in shown if r[0] == "A")[-1] == "accepted"
        assert next(r for r in shown if r[0] == "C")[-1] == "restricted"
        assert ["B", "at_target", ""] in shown
        document = desk.json("trade", "--dry-run")
        assert document["batch"] == batch
        assert document["dry run"] is True
        assert {p["symbol"]: p["denials"] for p in document["plan"]} == {
            "A": [],
            "C": ["restricted"],
        }
        assert document["skipped"] == [{"symbol": "B", "reason": "at_target", "detail": ""}]
        assert sent(desk) == []
        with desk.stores.ledger as ledger:
            assert ledger.rows(orders.select()) == []

    def test_orders_and_their_exits_are_shown_as_they_stand(self, desk: TradingDesk):
        desk.publish(signal("A", targets=[300.0], stops=[10.0]), signal("C"))
        shown = rows_of(desk.ask("trade").out)
        (entry,) = (r for r in shown if r[0] == "A" and r[1] == "buy")
        exits = sorted(r[3:] for r in shown if r[0] == "A" and r[1] == "sell")
        assert entry[3] == "signal"
        assert exits == [["stop 10 USD", "accepted"], ["target 300 USD", "accepted"]]
        assert ["C", "buy", "12", "signal", "restricted"] in shown

    def test_again_sends_nothing_and_says_so(self, holding: TradingDesk):
        before = sent(holding)
        done = holding.ask("trade")
        assert done.status == 0
        assert "Orders of the plan that was there already" in done.out
        document = holding.json("trade")
        assert document["resumed"] is True
        assert document["plan"] == []
        assert document["denied"] == {"restricted": 1}
        assert sent(holding) == before

    def test_a_stopped_account_is_told_with_the_way_out(self, desk: TradingDesk):
        desk.ask("halt", "--reason", "odd [prices]")
        desk.publish(signal("A"))
        done = desk.ask("trade")
        assert done.status == 0
        assert "trading_halted" in done.out
        assert "Trading is halted: odd [prices]." in done.out
        assert "isobar resume --reason" in done.out
        assert sent(desk) == []


class TestReconcile:
    def test_foreign_holdings_are_named_and_no_fault(self, holding: TradingDesk):
        by_hand(holding, "E", Side.BUY, 5)
        done = holding.ask("reconcile")
        assert done.status == 0
        assert ["foreign_position", "E", "journal 0, account 5"] in rows_of(done.out)
        assert "Journal and account agree; equity 1" in done.out

    def test_drift_fails_halts_and_is_accepted_by_a_person(self, holding: TradingDesk):
        had = held(holding)["D"]
        by_hand(holding, "D", Side.SELL, 5)
        done = holding.ask("reconcile")
        assert done.status == 1
        detail = f"journal {had}, account {had - 5}"
        assert ["position_drift", "D", detail] in rows_of(done.out)
        assert "do not agree" in done.out
        assert "Trading is halted: reconciliation: position_drift D" in done.out
        for arguments in (("D",), ("D", "--reason", " "), ("Q", "--reason", "x")):
            refused = holding.ask("reconcile", "--accept", *arguments)
            assert refused.status == 1
            assert "one of D, with a reason" in refused.message
        assert holding.ask("reconcile").status == 1
        accepted = holding.ask("reconcile", "--accept", "D", "--reason", "sold by hand")
        assert accepted.status == 0
        assert "Journal and account agree" in accepted.out
        # Accepting does not resume.
        assert "Trading is halted" in accepted.out
        with holding.stores.ledger as ledger:
            assert own_quantities(ledger)["D"] == had - 5

    def test_the_document_has_findings_and_equity(self, holding: TradingDesk):
        document = holding.json("reconcile")
        assert document["clean"] is True
        assert document["findings"] == []
        equity = holding.stores.broker.account().equity_usd
        assert Decimal(document["equity_usd"]) == equity
        by_hand(holding, "A", Side.BUY, 1)
        by_hand(holding, "D", Side.SELL, 5)
        done = holding.ask("reconcile", "--json")
        assert done.status == 1
        assert {(f["kind"], f["key"]) for f in done.document["findings"]} == {
            ("position_drift", "D"),
            ("foreign_position", "A"),
            ("foreign_cash", "cash"),
        }


class TestPortfolio:
    def test_without_trades_it_says_so(self, desk: TradingDesk):
        assert desk.ask("portfolio").out == "Isobar has traded nothing yet.\n"
        assert desk.json("portfolio")["positions"] == []

    def test_figures_tie_to_the_account(self, holding: TradingDesk):
        document = holding.json("portfolio")
        found = {p["symbol"]: Decimal(str(p["quantity"])) for p in document["positions"]}
        assert found == held(holding)
        for parts in ("by_horizon", "by_signal"):
            dealt = sum(row["unrealised_usd"] for row in document[parts])
            assert dealt == pytest.approx(document["unrealised_usd"], abs=1e-9)
        assert holding.ask("halt", "--flatten").status == 0
        holding.wait()
        holding.ask("reconcile")
        closed = holding.json("portfolio")
        gained = holding.stores.broker.account().equity_usd - 100_000
        assert closed["realised_usd"] == pytest.approx(float(gained), abs=1e-6)
        assert closed["unrealised_usd"] == 0

    def test_it_needs_no_broker(self, holding: TradingDesk):
        done = holding.ask("portfolio", ALPACA_API_KEY="")
        assert done.status == 0
        (row,) = (r for r in rows_of(done.out) if r[0] == "A")
        assert row[1] == str(held(holding)["A"])


class TestHalt:
    def test_flatten_closes_what_is_ours_and_nothing_else(self, holding: TradingDesk):
        by_hand(holding, "E", Side.BUY, 5)
        had = held(holding)
        done = holding.ask("halt", "--flatten", "--reason", "a storm")
        assert done.status == 0
        closing = {r[0]: r[1:] for r in rows_of(done.out)}
        for symbol in ("A", "D"):
            assert closing[symbol][:2] == ["sell", str(had[symbol])]
        holding.wait()
        again = holding.json("halt", "--flatten")
        assert again["trading_state"] == "halted"
        assert again["held"] == {}
        assert [c["state"] for c in again["closing"]] == ["filled", "filled"]
        assert held(holding) == {"E": Decimal(5)}
        assert holding.stores.broker.open_orders() == []
        assert "Isobar holds nothing." in holding.ask("halt", "--flatten").out

    def test_closings_of_other_days_are_history(self, holding: TradingDesk):
        holding.ask("halt", "--flatten")
        holding.clock.advance_to(holding.clock.now().replace(day=5))
        assert holding.json("halt", "--flatten")["closing"] == []

    @pytest.mark.parametrize(
        "change", [{"ALPACA_API_KEY": ""}, {"ALPACA_BASE_URL": "http://127.0.0.1:9"}]
    )
    def test_the_halt_holds_where_the_broker_cannot_be_asked(
        self, holding: TradingDesk, change: dict[str, str]
    ):
        done = holding.ask("halt", "--flatten", "--reason", "a storm", **change)
        assert done.status == 1
        assert done.out == "Trading is halted.\n"
        assert "broker" in done.message
        assert holding.json("status")["trading_state"] == "halted"
        assert set(held(holding)) == {"A", "D"}

    def test_only_a_person_with_a_reason_resumes(self, desk: TradingDesk):
        assert desk.json("halt", "--reason", "a test")["trading_state"] == "halted"
        refused = desk.ask("resume", "--reason", "  ")
        assert refused.status == 1
        assert "needs a reason" in refused.message
        assert desk.ask("resume").status == 2
        assert desk.json("status")["trading_state"] == "halted"
        assert desk.json("resume", "--reason", "it was one") == {
            "trading_state": "active",
            "was_stopped_because": "a test",
        }


class TestAudit:
    def test_an_intact_log_holds(self, holding: TradingDesk):
        done = holding.ask("audit", "orders")
        assert done.status == 0
        document = holding.json("audit", "orders")
        assert document == {"clean": True, "rows": document["rows"], "findings": []}
        assert f"{document['rows']:,} rows of the audit log hold." in done.out

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (sa.update(audit_log).where(audit_log.c.seq == 2).values(event="x"), "was altered"),
            (sa.delete(audit_log).where(audit_log.c.seq == 2), "missing"),
            (sa.update(orders).values(filled_quantity=Decimal(1)), "iso-"),
        ],
    )
    def test_what_was_tampered_with_is_found(self, holding: TradingDesk, change, said: str):
        with holding.stores.ledger as ledger, ledger.engine.begin() as connection:
            for trigger in connection.scalars(
                sa.text("select name from sqlite_master where type = 'trigger'")
            ).all():
                connection.execute(sa.text(f"drop trigger {trigger}"))
            connection.execute(change)
        done = holding.ask("audit", "orders")
        assert done.status == 1
        assert "broken" in done.out
        found = holding.ask("audit", "orders", "--json")
        assert found.status == 1
        assert found.document["clean"] is False
        assert any(said in finding for finding in found.document["findings"])


class TestDoctor:
    """What it asks of trading; the vendor has tests of its own."""

    @pytest.fixture(autouse=True)
    def _trading_alone(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("isobar.doctor.examine", lambda stores, now: trading_findings(stores))

    def examine(self, desk: TradingDesk, **changes: str) -> tuple[int, dict[str, tuple[bool, str]]]:
        done = desk.ask("doctor", "--json", **changes)
        assert done.document["healthy"] is (done.status == 0)
        return done.status, {c["check"]: (c["ok"], c["says"]) for c in done.document["checks"]}

    def test_a_fresh_paper_account_may_trade(self, desk: TradingDesk):
        status, found = self.examine(desk)
        assert status == 0
        assert found["trading mode"] == (True, "paper, at alpaca-paper")
        assert found["account"] == (True, "PA00000000, USD, equity 100,000.00")
        # A replay's clock is not held against this machine's.
        assert found["broker's clock"] == (True, "replayed, 2025-03-04 15:30:00Z")
        assert found["trading state"] == (True, "active")
        assert "isobar reconcile" in found["reconciliation"][1]
        desk.ask("reconcile")
        _, found = self.examine(desk)
        said = "journal and account agreed, 2025-03-04 15:30:00Z"
        assert found["reconciliation"] == (True, said)

    def test_drift_and_the_halt_that_follows_are_named(self, holding: TradingDesk):
        by_hand(holding, "D", Side.SELL, 5)
        holding.ask("reconcile")
        status, found = self.examine(holding)
        assert status == 1
        assert {name for name, (ok, _) in found.items() if not ok} == {
            "trading state",
            "reconciliation",
        }
        assert "isobar resume" in found["trading state"][1]
        assert "position_drift D" in found["reconciliation"][1]
        holding.ask("reconcile", "--accept", "D", "--reason", "sold by hand")
        holding.ask("resume", "--reason", "looked at")
        assert self.examine(holding)[0] == 0

    def test_live_settings_are_judged_by_what_live_needs(self, desk: TradingDesk):
        desk.ask("reconcile")
        live = {"ISOBAR_TRADING__MODE": "live"}
        status, found = self.examine(desk, **live)
        assert status == 1
        assert list(found) == ["broker", "trading mode"]
        assert "ISOBAR_ALLOW_LIVE" in found["trading mode"][1]
        status, found = self.examine(desk, ISOBAR_ALLOW_LIVE="PA00000000", **live)
        assert status == 1
        assert found["trading mode"] == (True, "live, at alpaca-live")
        assert not found["broker's clock"][0]
        assert "the newest is of alpaca-paper" in found["reconciliation"][1]

    def test_without_a_broker_there_is_one_line(self, desk: TradingDesk):
        status, found = self.examine(desk, ALPACA_API_KEY="")
        assert status == 1
        assert list(found) == ["broker"]
        assert "ALPACA_API_KEY" in found["broker"][1]

    def test_the_page_fits_a_terminal(self, desk: TradingDesk):
        done = desk.ask("doctor")
        assert done.status == 0
        assert max(map(len, done.out.splitlines())) <= WIDTH


def test_live_orders_are_refused_with_what_the_doctor_says(desk: TradingDesk):
    desk.publish(signal("A"))
    live = {"ISOBAR_TRADING__MODE": "live", "ISOBAR_ALLOW_LIVE": "PA00000000"}
    done = desk.ask("trade", **live)
    assert done.status == 1
    assert "live trading is not ready" in done.message
    assert "clocks" in done.message
    assert "isobar reconcile" in done.message
    assert sent(desk) == []
    with desk.stores.ledger as ledger:
        assert ledger.rows(orders.select()) == []


@pytest.mark.parametrize("command", ["trade", "trade --dry-run", "reconcile", "halt --flatten"])
def test_without_keys_the_error_names_them(desk: TradingDesk, command: str):
    done = desk.ask(*command.split(), ALPACA_SECRET_KEY="")
    assert done.status == 1
    assert "no keys for the broker" in done.message
    assert "ALPACA_SECRET_KEY" in done.message


def test_a_wrong_key_is_refused_and_not_shown(desk: TradingDesk):
    for command in ("trade", "reconcile", "halt --flatten"):
        done = desk.ask(*command.split(), ALPACA_SECRET_KEY="needle-wrong-key")
        assert done.status == 1
        assert "needle" not in done.out + done.err


def test_every_page_fits_a_terminal_and_shows_no_key(holding: TradingDesk):
    by_hand(holding, "D", Side.SELL, 5)
    for command in (
        "trade --dry-run",
        "trade",
        "portfolio",
        "reconcile",
        "halt --flatten",
        "audit orders",
        "resume --reason seen",
    ):
        done = holding.ask(*command.split())
        assert done.out
        assert max(map(len, done.out.splitlines())) <= WIDTH, command
        assert not [k for k in (ALPACA_KEY, ALPACA_SECRET) if k in done.out + done.err]
