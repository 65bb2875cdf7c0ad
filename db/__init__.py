"""The database: tables, session, ledger, store (writes), queries (reads) and migrations."""
