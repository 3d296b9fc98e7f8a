"""Where Alembic starts: it runs the migrations on the connection that the ledger hands over.

A new version is made from the repository root with ``alembic.command.revision`` on
:func:`market.ledger.migration_config`; see ``script.py.mako`` for its shape.
"""

from __future__ import annotations

from alembic import context

from market.ledger_tables import METADATA, VERSION_TABLE


def _run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        version_table=VERSION_TABLE,
        render_as_batch=True,
    )
    # The caller holds the transaction: all versions are applied, or none.
    context.run_migrations()


if __name__ == "env_py":  # the name under which Alembic loads this file
    _run()
