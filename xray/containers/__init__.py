"""Zips and uncompressed tars, read in place as if they were folders."""
