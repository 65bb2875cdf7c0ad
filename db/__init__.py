"""Tables, session, ledger, store (writes), queries (reads) and migrations."""
