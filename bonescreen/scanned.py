"""What a scan has to say: what it found, and what it passed over."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from bonescreen.show import count
from producer.scan import ScanReport


def report_lines(report: ScanReport, root: Path) -> Iterator[str]:
    """Say in lines what a scan of an archive found; what somebody should look at is named."""
    yield f"Scanned {root}: {count(report.found, 'image')} (layout {report.layout})"
    if report.skipped:
        yield f"  passed over: {counts(report.skipped)}"
    for place in report.look_at:
        yield f"  warning, not screened: {place}"
    if report.gone:
        yield f"  no longer there: {count(report.gone, 'image')}; results are kept for when they come back"


def counts(skipped: Mapping[str, int]) -> str:
    """Write counts by reason, the largest first: ``12 hidden, 3 not an image``."""
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(skipped.items(), key=lambda item: -item[1]))
