"""Scanning whole archives into the ledger."""

import json
import os
import subprocess
import sys

from xray.network.package import ModelPackage


def test_an_archive_of_200_000_files_is_scanned_in_less_than_250_mb(tiny_package: ModelPackage) -> None:
    # Another process measures, as the kernel adds the memory of the forking process to the child's peak.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scan_memory", "--files", "200000"],
        env={**os.environ, "BONESCREEN_MODEL": str(tiny_package.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    scanned, queued, report = done.stdout.splitlines()
    assert done.returncode == 0
    assert "200,000 images" in scanned
    assert "782 batches" in queued
    measured = json.loads(report)
    assert measured["exit"] == 0
    assert measured["peak_rss_mb"] < 250
