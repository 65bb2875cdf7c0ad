"""Tests of the command line, the Python API and the one-machine stack."""
