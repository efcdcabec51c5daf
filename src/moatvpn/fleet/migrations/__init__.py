"""How the customer database's tables came to be, one step a file (Alembic)."""
