"""The Celery worker: claim a batch, load, infer, explain, store."""
