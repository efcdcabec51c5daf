"""Alembic's way in: run the steps on the connection that moatvpn.fleet.migrate hands over."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
