"""Scan archives into the database, and send batches from the database to the broker."""
