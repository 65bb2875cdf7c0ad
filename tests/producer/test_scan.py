"""Scanning whole archives into the ledger."""

from benchmarks.scanning import measure_scans


def test_an_archive_of_200_000_images_is_scanned_and_scanned_again_in_less_than_250_mb() -> None:
    measured = measure_scans(200_000)
    first, again = measured["first scan"], measured["rescan"]
    assert (first.images, first.batches) == (200_000, 782)
    assert (again.images, again.batches) == (200_000, 0)
    assert max(first.peak_rss_mb, again.peak_rss_mb) < 250
