"""Whether reviews that came back from a report are of a run of this database, study by study."""

from collections.abc import Sequence
from dataclasses import dataclass

from bonescreen.report.review_table import ReviewLine, WrongLine
from db.review_import import Decided, find_by_keys
from db.run_queries import run_summary
from db.session import Database
from xray.errors import UsageError
from xray.vocabulary import StudyStatus

SAME_SCORE = 0.5e-3
"""Scores that differ by less are the same: a spreadsheet may have rounded one."""


@dataclass(frozen=True)
class Checked:
    """What was found: the reviews as they are stored, the wrong lines, and how many results have changed since."""

    reviews: list[Decided]
    wrong: list[WrongLine]
    changed: int


def check_reviews(database: Database, lines: Sequence[ReviewLine]) -> Checked:
    """Check that all lines are of one run of this database, and each of a study with a result, none twice."""
    first = lines[0]
    wrong = [
        WrongLine(line.line, "run", f"line {first.line} is of run {first.run}, and this one of run {line.run}")
        for line in lines
        if line.run != first.run
    ]
    try:
        run = run_summary(database, first.run)
    except UsageError as error:
        return Checked([], [*wrong, WrongLine(first.line, "run", str(error))], 0)
    found = find_by_keys(database, first.run, (line.study for line in lines))
    seen: dict[str, int] = {}
    decided, changed = [], 0
    for line in lines:
        if line.archive != run.archive:
            text = f"run {run.run} of this database is of the archive {run.archive}, not {line.archive!r}"
            wrong.append(WrongLine(line.line, "archive", text))
        elif line.digest != run.digest:
            text = f"run {run.run} of this database is of {run.model} with the digest {run.digest[:12]}, not another"
            wrong.append(WrongLine(line.line, "model_digest", text))
        elif line.study not in found:
            wrong.append(WrongLine(line.line, "study", f"run {run.run} has no study {line.study!r}"))
        elif line.study in seen:
            wrong.append(WrongLine(line.line, "study", f"{line.study!r} is in line {seen[line.study]} already"))
        elif line.status is StudyStatus.PENDING:
            wrong.append(WrongLine(line.line, "status", "a study that is not screened yet has no result to review"))
        else:
            study_id, now = found[line.study]
            changed += (now.status, now.label) != (line.status, line.label) or not _same(now.score, line.score)
            decided.append(Decided(study_id, line.decision, line.note, line.label, line.score, line.status))
        seen.setdefault(line.study, line.line)
    return Checked(decided, sorted(wrong, key=lambda each: each.line), changed)


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) < SAME_SCORE
