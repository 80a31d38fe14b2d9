"""Alembic's scripts. A revision is never changed once it was released."""
