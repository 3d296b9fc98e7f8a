"""The command line: documents on stdout, messages on stderr, three exit statuses."""

from __future__ import annotations

import datetime as dt
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isobar import cli
from isobar.arguments import due_session, read_time
from isobar.cli import app
from market.errors import UsageError
from market.horizons import Run
from tests.commands import Outcome, isobar
from tests.pipelines.installation import KEYS, TODAY, Installation, clean_environment, environment

COMMANDS = (
    "demo",
    "bootstrap",
    "ingest",
    "train",
    "backtest",
    "backtest list",
    "backtest compare",
    "run",
    "trade",
    "reconcile",
    "portfolio",
    "signals",
    "ledger backup",
    "ledger restore",
    "audit signals",
    "status",
    "doctor",
    "halt",
    "resume",
    "report",
    "serve",
    "serve polygon",
    "serve alpaca",
    "ui",
    "predictions",
    "tune",
    "models",
    "models list",
    "models card",
    "models promote",
    "models dismiss",
    "models rollback",
    "models history",
    "features",
    "features list",
    "features describe",
    "audit",
    "audit leaks",
    "audit orders",
)
SMALL = ("predictions", "report", "status", "doctor", "halt", "resume")
WITH_JSON = ("demo", "bootstrap", "ingest", "train", "backtest", "run", "trade", "signals")


def ask(installation: Installation, *arguments: str) -> Outcome:
    return isobar(*arguments, environment=installation.environment)


def shell(*arguments: str, home: Path) -> Outcome:
    """The same through the installed entry point, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "isobar.cli", *arguments],
        cwd=home.parent,
        env={**clean_environment(), **environment(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


class TestHelp:
    @pytest.mark.parametrize("command", ["", *COMMANDS])
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_every_command_explains_itself(self, command: str, flag: str):
        done = CliRunner().invoke(app, [*command.split(), flag], env={"COLUMNS": "120"})
        assert done.exit_code == 0
        assert "Usage:" in done.output
        assert "Traceback" not in done.output

    def test_the_first_page_lists_every_command(self):
        page = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).output
        assert [c for c in COMMANDS if c.split()[0] not in page] == []

    @pytest.mark.parametrize(
        "command", [*WITH_JSON, "predictions", "tune", "status", "doctor", "halt", "resume"]
    )
    def test_whatever_answers_can_answer_in_json(self, command: str):
        page = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"}).output
        assert "--json" in page


@pytest.mark.xdist_group("installation")
class TestDocuments:
    @pytest.mark.parametrize(
        "command",
        [
            "signals",
            "signals --engine all --symbol ZZAA",
            "signals --horizon 1h --since 2025-06-30T16:00:00Z",
            "signals --since 2030-01-01",
            "predictions --horizon 1d",
            "status",
            "trade --dry-run",
        ],
    )
    def test_stdout_is_one_document_and_stderr_is_quiet(
        self, installation: Installation, command: str
    ):
        done = ask(installation, *command.split(), "--json")
        assert done.status == 0, done.err
        assert isinstance(done.document, list | dict)
        assert done.err == ""

    def test_signals_are_filtered(self, installation: Installation):
        every = ask(installation, "signals", "--engine", "all", "--json").document
        found = ask(
            installation, "signals", "--horizon", "1h", "--symbol", "ZZAB", "--json"
        ).document
        wanted = [
            s["id"]
            for s in every
            if (s["horizon"], s["symbol"], s["engine"]) == ("1h", "ZZAB", "ensemble")
        ]
        assert wanted
        assert [s["id"] for s in found] == wanted

    def test_status_tells_what_there_is(self, installation: Installation):
        document = ask(installation, "status", "--json").document
        assert document["trading_state"] == "active"
        assert document["lake"]["bars_1d"].endswith(str(TODAY))
        assert document["newest_batch"]["run"] == "eod"
        assert document["orders"] == {"filled": document["orders"]["filled"]}
        assert document["positions"]

    def test_a_dry_run_sends_nothing(self, installation: Installation):
        before = installation.broker_requests.count(("POST", "/v2/orders"))
        document = ask(installation, "trade", "--dry-run", "--json").document
        assert document["dry run"] is True
        assert document["batch"] == installation.story[f"eod {TODAY}"]["signals_eod"]["batch"]
        for intent in document["plan"]:
            assert set(intent) == {"symbol", "side", "quantity", "client_order_id", "denials"}
        assert installation.broker_requests.count(("POST", "/v2/orders")) == before

    def test_doctor_says_of_each_thing_whether_it_is_well(self, installation: Installation):
        done = ask(installation, "doctor", "--json")
        checks = {c["check"]: c for c in done.document["checks"]}
        assert set(checks) == {
            "settings",
            "keys",
            "market data",
            "data plan",
            "calendar",
            "disk",
            "ledger",
            "models",
            "broker",
            "trading mode",
            "account",
            "broker's clock",
            "trading state",
            "reconciliation",
        }
        assert [c for c in checks.values() if not c["ok"]] == []
        assert done.document["healthy"] is True
        assert done.status == 0

    def test_doctor_of_an_empty_place_fails_with_remedies(self, tmp_path: Path):
        done = isobar("doctor", "--json", environment={"ISOBAR_HOME": str(tmp_path / "home")})
        assert done.status == 1
        failed = {c["check"]: c["says"] for c in done.document["checks"] if not c["ok"]}
        assert set(failed) == {"keys", "models"}
        assert "POLYGON_API_KEY" in failed["keys"]
        assert "ALPACA_API_KEY" in failed["keys"]
        assert "isobar train" in failed["models"]

    def test_ingest_of_what_is_settled_is_a_document_too(
        self, installation: Installation, tmp_path: Path
    ):
        copy = installation.copy(tmp_path)
        done = ask(
            copy,
            *[
                "ingest",
                "--start",
                "2025-06-24",
                "--end",
                "2025-06-26",
                "--timeframe",
                "1d",
                "--json",
            ],
        )
        assert done.status == 0, done.err
        assert done.document["bars_1d"]["sessions already settled"] == 3
        assert done.document["bars_1d"]["bars"] == 0


@pytest.mark.xdist_group("installation")
class TestTables:
    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("signals", ("Signals (", "ZZAA", "1d")),
            ("signals --since 2030-01-01", ("No signals match",)),
            ("status", ("Status", "active", "sessions")),
            ("doctor", ("Doctor", "ok", "calendar")),
            ("trade --dry-run", ("Plan", "Trade", "batch")),
        ],
    )
    def test_without_json_a_person_reads_a_table(
        self, installation: Installation, command: str, words: tuple[str, ...]
    ):
        done = ask(installation, *command.split())
        assert done.status == 0
        assert [w for w in words if w not in done.out] == []

    def test_no_output_shows_a_key(self, installation: Installation):
        for command in ("signals", "status", "doctor", "trade --dry-run", "--debug doctor"):
            done = ask(installation, *command.split())
            assert not [k for k in KEYS if k in done.out + done.err]


@pytest.mark.xdist_group("installation")
class TestSwitch:
    def test_halt_holds_in_a_new_process_until_resume(
        self, installation: Installation, tmp_path: Path
    ):
        copy = installation.copy(tmp_path)
        halted = ask(copy, "halt", "--reason", "a test", "--json")
        assert halted.document["trading_state"] == "halted"
        assert halted.document["closing"] == []
        seen = shell("status", "--json", home=copy.home)
        assert seen.status == 0, seen.err
        assert seen.document["trading_state"] == "halted"
        plan = ask(copy, "trade", "--dry-run", "--json").document["plan"]
        assert plan
        assert [i for i in plan if "trading_halted" not in i["denials"]] == []
        resumed = ask(copy, "resume", "--reason", "it was one", "--json")
        assert resumed.document == {
            "trading_state": "active",
            "was_stopped_because": "a test",
        }

    def test_resume_wants_a_reason(self, installation: Installation, tmp_path: Path):
        copy = installation.copy(tmp_path)
        ask(copy, "halt")
        refused = ask(copy, "resume")
        assert refused.status == 2
        assert "--reason" in refused.err
        empty = ask(copy, "resume", "--reason", " ")
        assert empty.status != 0
        assert ask(copy, "status", "--json").document["trading_state"] == "halted"


class TestExitStatus:
    def test_a_process_ends_with_0_1_and_2(self, tmp_path: Path):
        home = tmp_path / "home"
        assert shell("halt", home=home).status == 0
        failed = shell("backtest", "--horizon", "1d", home=home)
        assert failed.status == 1
        assert failed.out == ""
        used_wrongly = shell("run", "noon", home=home)
        assert used_wrongly.status == 2
        for done in (failed, used_wrongly):
            assert "Error:" in done.err
            assert "Traceback" not in done.err

    def test_no_room_for_the_ledger_of_runs_is_said_with_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        def full() -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(cli, "app", lambda **_how: full())
        said: list[str] = []
        monkeypatch.setattr(cli.log, "print", lambda *what, **_how: said.extend(map(str, what)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        assert said[-1] == (
            "disk I/O error. Remedy: see that the disk has room and is sound, then run again."
        )

    def test_debug_shows_the_traceback_and_the_message(self, tmp_path: Path):
        done = isobar("--debug", "run", "noon", environment=environment(tmp_path))
        assert done.status == 2
        assert "Traceback" in done.err
        assert "unknown run" in done.err

    @pytest.mark.parametrize("command", ["nonsense", "run", "signals --horizons 1d", "serve"])
    def test_what_the_parser_refuses_is_status_2(self, command: str, tmp_path: Path):
        done = isobar(*command.split(), environment=environment(tmp_path))
        assert done.status == 2
        assert "Traceback" not in done.err


class TestArguments:
    def test_a_time_without_zone_is_utc(self):
        expected = dt.datetime(2025, 6, 30, 12, 30, tzinfo=dt.UTC)
        assert read_time("2025-06-30T12:30:00", "--as-of") == expected
        assert read_time("2025-06-30T08:30:00-04:00", "--as-of") == expected
        assert read_time("", "--as-of") is None
        with pytest.raises(UsageError, match="--as-of"):
            read_time("noon", "--as-of")

    @pytest.mark.parametrize(
        ("run", "now", "session"),
        [
            (Run.EOD, "2024-07-03T17:20", "2024-07-03"),
            (Run.EOD, "2024-07-03T17:19", "2024-07-02"),
            (Run.PREMARKET, "2024-07-05T12:30", "2024-07-05"),
            (Run.PREMARKET, "2024-07-05T12:29", "2024-07-03"),
            (Run.MIDDAY, "2024-07-07T12:00", "2024-07-05"),
        ],
    )
    def test_a_run_is_for_the_session_that_was_due_last(self, run: Run, now: str, session: str):
        moment = read_time(now, "--as-of")
        assert moment is not None
        assert due_session(run, moment) == dt.date.fromisoformat(session)
