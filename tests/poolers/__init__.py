"""What stands between us and PostgreSQL: a real PgBouncer. `apt install pgbouncer`, then `pytest tests/poolers`."""
