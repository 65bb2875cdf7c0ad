"""All findings, the worst first, and what they come to."""

from collections import Counter
from collections.abc import Sequence

from training.doctor.about_copies import about_copies
from training.doctor.about_files import about_files
from training.doctor.about_labels import about_labels
from training.doctor.examined import Examined
from training.doctor.finding import Finding, Severity


def judge(examined: Examined) -> tuple[Finding, ...]:
    """Return the findings, errors before warnings before notes."""
    found = [*about_copies(examined), *about_labels(examined), *about_files(examined)]
    return tuple(sorted(found, key=lambda finding: list(Severity).index(finding.severity)))


def verdict(findings: Sequence[Finding]) -> str:
    """Say in a sentence whether it is safe to train."""
    counts = Counter(finding.severity for finding in findings)
    errors, warnings = (_counted(counts[s], s) for s in (Severity.ERROR, Severity.WARNING))
    if counts[Severity.ERROR]:
        return f"Not ready to train on: {errors} to mend first" + (
            f", {warnings} to look at." if counts[Severity.WARNING] else "."
        )
    if counts[Severity.WARNING]:
        return f"Can be trained on; look at {warnings} first."
    return "Nothing was found that speaks against training."


def _counted(number: int, severity: Severity) -> str:
    return f"{number} {severity}" + ("" if number == 1 else "s")
