"""Reads that stay fast with a million signals: by cursor, and of what is current.

A consumer's cursor is the hash of a row, so hashes are indexed. The view ``signals_current``
asks of each row whether a later one replaces it; now it asks so only where there is a later
batch of the same moment at all, and shows the same rows.

Revision: 0003
Follows: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_CURRENT = """
CREATE VIEW signals_current AS
SELECT s.seq, s.id, s.batch_id, s.revision, s.ts_emit, s.as_of, s.valid_until, s.symbol,
       s.engine, s.direction, s.confidence, s.horizon, s.expected_return_bps, s.targets,
       s.stops, s.regime, s.explain, s.features, s.model_version, s.data_hash,
       s.config_hash, s.prev_hash, s.hash
FROM signals AS s
JOIN signal_batches AS b ON b.batch_id = s.batch_id
WHERE b.complete
  AND NOT EXISTS (
      SELECT 1 FROM signal_batches AS later
      WHERE later.run = b.run AND later.as_of = b.as_of
        AND later.revision > b.revision AND later.complete)
  AND (
      b.revision = (
          SELECT max(newest.revision) FROM signal_batches AS newest
          WHERE newest.as_of = b.as_of)
      OR NOT EXISTS (
          SELECT 1 FROM signals AS later
          WHERE later.as_of = s.as_of AND later.symbol = s.symbol
            AND later.horizon = s.horizon AND later.engine = s.engine
            AND later.revision > s.revision))
"""


def upgrade() -> None:
    """Add two indexes and write the view anew."""
    op.create_index("ix_signals_hash", "signals", ["hash"])
    op.create_index("ix_signal_batches_as_of", "signal_batches", ["as_of", "revision"])
    op.execute("DROP VIEW signals_current")
    op.execute(_CURRENT)
