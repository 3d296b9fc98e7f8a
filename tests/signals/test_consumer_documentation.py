"""docs/signals.md: its columns are the columns, its examples run, its chain is the chain."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from market.hash_chain import canonical_json
from market.ledger import open_ledger
from market.ledger_tables import signal_batches, signals
from signals.consume import read_after
from signals.publish import CHANNEL
from tests.commands import isobar
from tests.pipelines.installation import environment
from tests.signals.batches import AS_OF, a_batch, publish, publish_at, tamper

_PAGE = (Path(__file__).parents[2] / "docs" / "signals.md").read_text()
_FOREVER = AS_OF.replace(year=2199)


def _block(kind: str) -> str:
    found = re.findall(rf"^```{kind}\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return found[0]


def _statements(kind: str) -> list[str]:
    code = re.sub(r"^--.*$", "", _block(kind), flags=re.MULTILINE)
    return [s.strip() for s in code.split(";") if s.strip()]


def test_the_columns_are_those_of_the_tables():
    section = _PAGE.split("## Columns of")[1].split("\n## ")[0]
    told = [n for line in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for n in _names(line)]
    assert told == [c.name for c in signals.columns]
    batches = section.split("`signal_batches` has one row")[1].split("(")[0]
    assert _names(batches) == [c.name for c in signal_batches.columns]


def _names(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    return tmp_path / "heads.jsonl"


def test_the_examples_for_the_ledgers_database(ledger_url: str, head_file: Path):
    with open_ledger(ledger_url) as ledger:
        publish(ledger, head_file)
        cursor = read_after(ledger, None).cursor
        wanted = {"valid_until": _FOREVER, "confidence": 0.9}
        publish(ledger, head_file, a_batch(symbols=("B", "A"), **wanted), late=True)
        results: list[list[Any]] = []
        with ledger.engine.begin() as connection:
            for statement in _statements(f"sql {ledger.engine.dialect.name}"):
                if statement.startswith("LISTEN"):
                    assert statement == f"LISTEN {CHANNEL}"
                    connection.exec_driver_sql(statement)
                    continue
                known = {"cursor": cursor} if ":cursor" in statement else {}
                results.append(connection.execute(_text(statement), known).mappings().all())
    valid, newest, count, after = results
    assert [(r["symbol"], r["first_target"]) for r in valid] == [("A", 101.0), ("B", 101.0)]
    assert [r["symbol"] for r in newest] == ["A", "B"]
    assert [list(r.values()) for r in count] == [[1]]
    assert [(r["symbol"], r["run"], bool(r["late"])) for r in after] == [
        ("A", "premarket", True),
        ("B", "premarket", True),
    ]


def _text(statement: str) -> sa.TextClause:
    # PostgreSQL's casts and SQLite's time formats have colons that are no parameters.
    return sa.text(re.sub(r":(?!cursor)", r"\\:", statement))


def test_the_examples_for_duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "home"
    home.mkdir()
    with open_ledger(f"sqlite:///{home}/ledger.db") as ledger:
        publish(ledger, home / "signal_heads.jsonl", a_batch(symbols=("A", "B", "C")))
        publish_at(ledger, home / "signal_heads.jsonl", 1, a_batch(engine="linear"))
    done = isobar("signals", "--engine", "all", "--csv", environment=environment(home))
    (tmp_path / "signals.csv").write_text(done.out)
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        grouped, unnested = (
            connection.sql(statement).fetchall() for statement in _statements("sql duckdb")
        )
    assert [(r[:3], round(r[3], 9)) for r in grouped] == [(("1d", "long", 3), 0.6)]
    assert sorted({r[1] for r in unnested}) == [101.0, 102.5]
    assert len(unnested) == 10


def test_the_program_verifies_a_chain_without_isobar(tmp_path: Path, head_file: Path):
    program = tmp_path / "verify.py"
    program.write_text(_block("python verify"))

    def verify() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(program), str(tmp_path / "ledger.db"), str(head_file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.strip()

    with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        head_file.touch()
        assert verify() == (0, "every signal is as it was published")
        strange = 'quotes " \\ tab \t new\nline \x01 \x1f \x7f é 漢 😀 \u2028'
        publish(ledger, head_file, a_batch(explain=strange, targets=[], features=None))
        publish_at(ledger, head_file, 1, a_batch(confidence=1e-6, expected_return_bps=-0.0))
        publish_at(ledger, head_file, 2, a_batch(confidence=1.0, expected_return_bps=-1.5e16))
        assert verify() == (0, "every signal is as it was published")
        for sql in (
            "UPDATE signals SET confidence = 0.61 WHERE seq = 1",
            "UPDATE signals SET stops = '[98.0 ]' WHERE seq = 2",
            "DELETE FROM signals WHERE seq = 3",
            "DELETE FROM signals WHERE seq >= 5",
        ):
            kept = (tmp_path / "kept.db").absolute()
            tamper(ledger, f"VACUUM INTO '{kept}'")
            tamper(ledger, sql)
            status, told = verify()
            assert (status, bool(told)) == (1, True)
            tamper(ledger, "DELETE FROM signals")
            _put_back(ledger, kept)
        assert verify()[0] == 0


def _put_back(ledger: Any, kept: Path) -> None:
    with sqlite3.connect(str(ledger.engine.url.database)) as raw:
        raw.execute("ATTACH ? AS kept", (str(kept),))
        raw.execute("INSERT INTO signals SELECT * FROM kept.signals")
        raw.commit()
    raw.close()
    kept.unlink()


def _number() -> Any:
    code = _block("python verify").split("def spell")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    return names["number"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_spelled_as_the_page_says(value: float):
    assert _number()(value) == canonical_json(value).decode()


@given(st.text())
def test_text_is_spelled_as_the_page_says(text: str):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert json.dumps(text, ensure_ascii=False) == canonical_json(text).decode()
