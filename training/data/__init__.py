"""Labelled radiographs: data sets, splits, decoded images, leakage."""
