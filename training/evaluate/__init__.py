"""Measure a model against human labels."""
