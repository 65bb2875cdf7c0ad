"""The Celery worker: claims a batch, loads its images, infers and stores the results."""
