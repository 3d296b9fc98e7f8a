"""Publication: whole or not at all, once, and every tampering shows."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from market.errors import LedgerError, SignalError
from market.ledger import open_ledger
from signals import publish as publish_module
from signals.head_file import BatchHead, read_heads
from signals.publish import newest_batch, read_signals, sync_head_file, verify_chain
from signals.schema import CONTENT_SCHEMA, SIGNAL_SCHEMA, SignalColumn
from tests.signals.batches import AS_OF, DAY, a_batch, publish, publish_at, tamper


@pytest.fixture
def ledger(ledger_url):
    with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def head_file(tmp_path):
    return tmp_path / "heads.jsonl"


def test_what_is_published_is_read_back(ledger, head_file):
    done = publish(ledger, head_file)
    assert (done.rows, done.already_published) == (2, False)
    rows = read_signals(ledger)
    assert rows.schema == SIGNAL_SCHEMA
    assert rows.select(CONTENT_SCHEMA.names()).equals(a_batch())
    assert rows["hash"][-1] == done.head_hash
    assert rows["batch_id"].unique().to_list() == [done.batch_id]
    assert verify_chain(ledger, head_file) == []


def test_a_negative_zero_does_not_break_the_chain(ledger, head_file):
    batch = a_batch(expected_return_bps=-0.0, confidence=-0.0)
    publish(ledger, head_file, batch)
    assert verify_chain(ledger, head_file) == []
    positive = a_batch(expected_return_bps=0.0, confidence=0.0)
    assert publish(ledger, head_file, positive).already_published


def test_ids_are_a_function_of_the_key(tmp_path, ledger, head_file):
    publish(ledger, head_file)
    with open_ledger(f"sqlite:///{tmp_path}/other.db") as other:
        publish(other, tmp_path / "other.jsonl", ts_emit=AS_OF + DAY)
        assert read_signals(other)["id"].equals(read_signals(ledger)["id"])


def test_the_same_batch_again_changes_nothing(ledger, head_file):
    first = publish(ledger, head_file)
    shuffled = a_batch(symbols=("MSFT", "AAPL"))
    again = publish(ledger, head_file, shuffled, ts_emit=AS_OF + DAY, late=True)
    assert again == replace(first, already_published=True)
    assert ledger.read("SELECT count(*) AS n FROM signals").item() == 2
    assert len(read_heads(head_file)) == 1


def test_a_correction_supersedes_the_whole_batch(ledger, head_file):
    publish(ledger, head_file)
    publish(ledger, head_file, a_batch(symbols=("AAPL",), direction="short"))
    rows = read_signals(ledger)
    assert rows.select("symbol", "direction", "revision").rows() == [("AAPL", "short", 2)]
    assert ledger.read("SELECT count(*) AS n FROM signals").item() == 3
    assert verify_chain(ledger, head_file) == []


def test_two_runs_of_one_moment_do_not_collide(ledger, head_file):
    publish(ledger, head_file)
    publish(ledger, head_file, run="midday")
    assert read_signals(ledger)["revision"].to_list() == [2, 2]
    assert verify_chain(ledger, head_file) == []


def test_filters(ledger, head_file):
    publish(ledger, head_file)
    later = AS_OF + DAY
    publish(
        ledger,
        head_file,
        a_batch(symbols=("TSLA",), horizon="14d", valid_until=later + DAY),
        as_of=later,
        scheduled_for=later,
        ts_emit=later,
    )
    assert read_signals(ledger, since=later)["symbol"].to_list() == ["TSLA"]
    assert read_signals(ledger, until=AS_OF)["symbol"].to_list() == ["AAPL", "MSFT"]
    assert read_signals(ledger, horizon="14d")["symbol"].to_list() == ["TSLA"]
    assert read_signals(ledger, symbol="MSFT").height == 1
    assert read_signals(ledger, engine="nobody").schema == SIGNAL_SCHEMA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expected_return_bps": float("nan")}, "expected return"),
        ({"expected_return_bps": None}, "expected_return_bps is missing"),
        ({"expected_return_bps": float("inf")}, "expected return"),
        ({"confidence": 1.01}, "confidence out of range"),
        ({"confidence": -0.01}, "confidence out of range"),
        ({"confidence": float("nan")}, "confidence out of range"),
        ({"confidence": None}, "confidence is missing"),
        ({"direction": "up"}, "unknown direction"),
        ({"horizon": "2d"}, "does not publish"),
        ({"horizon": "1h"}, "does not publish"),
        ({"regime": "sideways"}, "unknown regime"),
        ({"regime": None}, "regime is missing"),
        ({"symbol": " "}, "empty symbol"),
        ({"symbol": "AAPL"}, "same signal twice"),
        ({"valid_until": AS_OF}, "never valid"),
        ({"confidence": float("inf")}, "confidence out of range"),
        ({"targets": [0.0]}, "no price"),
        ({"stops": [float("nan")]}, "no price"),
        ({"features": [{"feature": "x", "contribution": float("nan")}]}, "contribution"),
    ],
)
def test_a_bad_row_refuses_the_batch(ledger, head_file, changes, message):
    good = a_batch(symbols=("AAPL",))
    bad = a_batch(symbols=("ZZZ",), **changes)
    with pytest.raises(SignalError, match=message):
        publish(ledger, head_file, pl.concat([good, bad]))
    assert read_signals(ledger).is_empty()
    assert not head_file.exists()


def test_other_bad_batches(ledger, head_file):
    naive = a_batch().with_columns(pl.col("valid_until").dt.replace_time_zone(None))
    with pytest.raises(SignalError, match="time zone"):
        publish(ledger, head_file, naive)
    for name in ("as_of", "scheduled_for", "ts_emit"):
        with pytest.raises(SignalError, match=f"{name} has no time zone"):
            publish(ledger, head_file, **{name: AS_OF.replace(tzinfo=None)})
    with pytest.raises(SignalError, match="unknown run"):
        publish(ledger, head_file, run="teatime")
    with pytest.raises(SignalError, match="empty batch"):
        publish(ledger, head_file, a_batch(symbols=()))
    with pytest.raises(SignalError, match="lacks columns"):
        publish(ledger, head_file, a_batch().drop("regime"))
    with pytest.raises(SignalError, match="mixes moments"):
        publish(ledger, head_file, a_batch().with_columns(as_of=pl.lit(AS_OF + DAY)))
    assert read_signals(ledger).is_empty()


def test_a_symbol_outside_the_universe_refuses_the_batch(ledger, head_file):
    with pytest.raises(SignalError, match=r"outside the universe in 1 of 2.*MSFT.*1 symbols"):
        publish(ledger, head_file, universe={"AAPL"})
    assert ledger.read("SELECT * FROM signal_batches").is_empty()
    assert not head_file.exists()
    assert publish(ledger, head_file, universe=["AAPL", "MSFT", "TSLA"]).rows == 2


def test_the_newest_batch_is_read_by_its_id(ledger, head_file):
    assert newest_batch(ledger) is None
    publish(ledger, head_file)
    first = publish_at(ledger, head_file, 1)
    assert newest_batch(ledger) == first.batch_id
    corrected = publish_at(ledger, head_file, 1, a_batch(symbols=("TSLA",)))
    assert newest_batch(ledger) == newest_batch(ledger, run="premarket") == corrected.batch_id
    assert newest_batch(ledger, run="eod") is None
    assert read_signals(ledger, batch=corrected.batch_id)["symbol"].to_list() == ["TSLA"]
    assert read_signals(ledger, batch=first.batch_id).is_empty()


def test_verification_is_not_disturbed_by_a_publication(ledger, head_file, monkeypatch):
    """Another batch arrives after the rows were read and before the heads are."""
    publish(ledger, head_file)
    original = publish_module.verify_rows

    def then_publish(connection):
        found = original(connection)
        publish_at(ledger, head_file, 1)
        return found

    monkeypatch.setattr(publish_module, "verify_rows", then_publish)
    assert verify_chain(ledger, head_file) == []
    monkeypatch.undo()
    assert verify_chain(ledger, head_file) == []


def test_a_snapshot_does_not_move(ledger, head_file):
    publish(ledger, head_file)
    count = sa.text("SELECT (SELECT count(*) FROM signals) + (SELECT count(*) FROM engines)")
    with ledger.snapshot() as connection:
        before = connection.scalar(count)
        publish_at(ledger, head_file, 1)
        assert connection.scalar(count) == before == 2
    assert ledger.read("SELECT count(*) AS n FROM signals").item() == 4


def test_a_crash_before_the_head_file_is_healed(ledger, head_file, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish_module, "append_heads", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(ledger, head_file)
    assert verify_chain(ledger, head_file) != []
    assert publish(ledger, head_file).already_published
    assert verify_chain(ledger, head_file) == []


def test_a_publication_reads_the_batches_before_it_once(ledger, head_file):
    three_batches(ledger, head_file)
    read = []

    @event.listens_for(ledger.engine, "after_cursor_execute")
    def hear(_connection, cursor, statement, *_others):
        if "FROM signal_batches ORDER BY signal_batches.seq" in " ".join(statement.split()):
            read.append(statement)

    assert not publish_at(ledger, head_file, 7).already_published
    assert publish_at(ledger, head_file, 7).already_published
    assert len(read) == 2


def test_a_writer_that_was_faster_with_the_head_file_is_followed(ledger, head_file, monkeypatch):
    append, between = publish_module.append_heads, []

    def late(path, missing):
        if not between:
            between.append(1)
            publish_at(ledger, head_file, 5)
        return append(path, missing)

    monkeypatch.setattr(publish_module, "append_heads", late)
    publish(ledger, head_file)
    assert len(read_heads(head_file)) == 2
    assert verify_chain(ledger, head_file) == []


@pytest.mark.parametrize("foreign", [1, 4])
def test_a_head_file_that_was_changed_meanwhile_is_refused(ledger, head_file, monkeypatch, foreign):
    append = publish_module.append_heads
    strange = BatchHead("no batch", 1, 1, "h", "b")

    def late(path, missing):
        append(path, lambda _known: [strange] * foreign)
        return append(path, missing)

    monkeypatch.setattr(publish_module, "append_heads", late)
    with pytest.raises(SignalError, match="different histories"):
        publish(ledger, head_file)
    assert read_heads(head_file) == [strange] * foreign


def test_a_torn_line_is_healed(ledger, head_file):
    publish(ledger, head_file)
    whole = head_file.read_bytes()
    head_file.write_bytes(whole[:-10])
    assert sync_head_file(ledger, head_file) == 1
    assert head_file.read_bytes() == whole


def test_a_garbled_head_file_is_refused(ledger, head_file):
    head_file.write_bytes(b"{]\n")
    with pytest.raises(SignalError, match="cannot be understood"):
        publish(ledger, head_file)
    assert read_signals(ledger).is_empty()


def test_a_failure_inside_leaves_nothing(ledger, head_file, monkeypatch):
    calls = []

    def fail_late(row):
        calls.append(row)
        if len(calls) == 2:
            raise LedgerError("disk full")
        return original(row)

    original = publish_module._row_hash
    monkeypatch.setattr(publish_module, "_row_hash", fail_late)
    with pytest.raises(LedgerError):
        publish(ledger, head_file)
    assert ledger.read("SELECT * FROM signal_batches").is_empty()
    assert read_signals(ledger).is_empty()


def three_batches(ledger, head_file):
    for n in range(3):
        publish_at(ledger, head_file, n)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM signals WHERE seq = 3",
        "DELETE FROM signals WHERE seq = 6",
        "DELETE FROM signals WHERE seq > 4",
        "UPDATE signals SET hash = prev_hash WHERE seq = 6",
        "UPDATE signals SET seq = 9 WHERE seq = 6",
        "UPDATE signals SET targets = '[1' WHERE seq = 2",
        "UPDATE signals SET valid_until = 'tomorrow' WHERE seq = 2",
        "UPDATE signal_batches SET late = (1 = 1) WHERE seq = 2",
        "UPDATE signal_batches SET rows = 3 WHERE seq = 1",
        "DELETE FROM signal_batches WHERE seq = 2",
    ],
)
def test_tampering_is_found(ledger, head_file, sql):
    three_batches(ledger, head_file)
    assert verify_chain(ledger, head_file) == []
    tamper(ledger, sql)
    assert verify_chain(ledger, head_file) != []


def test_a_cut_tail_is_found_and_nothing_is_published_on_top(ledger, head_file):
    three_batches(ledger, head_file)
    tamper(ledger, "DELETE FROM signals WHERE seq > 4")
    tamper(ledger, "DELETE FROM signal_batches WHERE seq = 3")
    findings = verify_chain(ledger, head_file)
    assert len(findings) == 1
    assert "was removed" in findings[0]
    with pytest.raises(SignalError, match="different histories"):
        publish(ledger, head_file, a_batch(symbols=("NEW",)))


def test_a_history_rewritten_with_fresh_hashes_is_found(tmp_path, ledger, head_file):
    three_batches(ledger, head_file)
    with open_ledger(f"sqlite:///{tmp_path}/forged.db") as forged:
        publish(forged, tmp_path / "forged.jsonl", a_batch(confidence=0.99))
        assert verify_chain(forged, tmp_path / "forged.jsonl") == []
        assert verify_chain(forged, head_file) != []


_TEXT_COLUMNS = [n for n, t in SIGNAL_SCHEMA.items() if t == pl.String() and n not in {"batch_id"}]
_NUMBER_COLUMNS = [SignalColumn.CONFIDENCE, SignalColumn.EXPECTED_RETURN_BPS]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    seq=st.integers(1, 6),
    change=st.one_of(
        st.tuples(st.sampled_from(_TEXT_COLUMNS), st.text("abcxyz", min_size=1, max_size=5)),
        st.tuples(st.sampled_from(_NUMBER_COLUMNS), st.floats(0, 1).filter(lambda v: v != 0.6)),
    ),
)
def test_any_altered_value_is_found(tmp_path_factory, seq, change):
    folder = tmp_path_factory.mktemp("tamper")
    with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        three_batches(ledger, folder / "heads.jsonl")
        wanted = {"value": change[1], "seq": seq}
        tamper(ledger, f"UPDATE signals SET {change[0]} = :value WHERE seq = :seq", wanted)
        assert verify_chain(ledger, folder / "heads.jsonl") != []
