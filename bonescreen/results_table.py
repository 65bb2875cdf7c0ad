"""The table of results on a terminal: studies or images with their scores, and how many studies have none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.text import Text

from bonescreen.problems import is_open
from bonescreen.terminal import print_line, print_table
from db import queries
from db.queries import ImageRow, ResultFilter, StudyRow
from db.run_queries import RunSummary
from db.session import Database
from xray.vocabulary import RESEARCH_NOTICE, UNLIKE, Label, StudyStatus, count

TABLE_ROWS = 50

WITHOUT_RESULT = (StudyStatus.INCOMPLETE, StudyStatus.NOT_ASSESSABLE, StudyStatus.OUT_OF_SCOPE)
"""Statuses of studies that are neither positive nor negative, unless an incomplete one is positive already."""


def why_out_of_scope(image: ImageRow) -> str:
    """Say in words why the model does not apply to an image that is out of scope."""
    if image.is_unlike:
        return f"{UNLIKE} (distance {image.distance:.3f}, in scope up to {image.distance_threshold:.3f})"
    return "the model does not know this body part or modality"


def run_heading(run: RunSummary, threshold: float | None = None) -> str:
    """Say in a line which archive, model and threshold a run's results come from."""
    own = f"{run.study_threshold:.3f}"
    used = own if threshold is None else f"{threshold:.3f} (the model's own: {own})"
    text = f"Run {run.run}: {run.archive}, {run.model} ({run.precision}), study threshold {used}"
    return text + (f" ({run.state}, {run.percent} % processed)" if is_open(run) else "")


def outcome_text(row: StudyRow, finding: str) -> Text:
    """Write a study's result in a run; only a study all of whose images were read is called negative."""
    status = StudyStatus(row.status)
    if row.label == Label.POSITIVE:
        unread = f" ({status})" if status is not StudyStatus.SCORED else ""
        return Text(f"positive: {finding}{unread}", "bold red")
    return Text("negative") if row.label == Label.NEGATIVE else Text(status, "yellow")


def score_text(score: float | None) -> str:
    """Write a score or probability, where there is one."""
    return "-" if score is None else f"{score:.3f}"


def print_results(database: Database, wanted: ResultFilter, runs: Sequence[RunSummary]) -> None:
    """Print the table of results, how many studies have none, and the research notice."""
    print_studies(database, wanted, runs)
    _print_without_result(count_studies(database, replace(wanted, flagged=False, min_score=None, label=None)))
    print_line(RESEARCH_NOTICE)


def print_studies(database: Database, wanted: ResultFilter, runs: Sequence[RunSummary]) -> None:
    """Print the table of results, with a heading for each run."""
    for summary in runs:
        print_line(run_heading(summary, wanted.threshold), "dim")
    rows = list(queries.results(database, replace(wanted, limit=wanted.limit or TABLE_ROWS)))
    if rows:
        _print_rows(rows, {summary.run: summary.finding for summary in runs})
    else:
        print_line("No study matches.")
    more = sum(queries.count_results(database, wanted).values()) - len(rows)
    if more > 0:
        print_line(f"... and {more:,} more: bonescreen results with --format csv or a higher --limit", "dim")


def print_images(database: Database, wanted: ResultFilter, runs: Sequence[RunSummary]) -> None:
    """Print the images of the studies, and the research notice."""
    for summary in runs:
        print_line(run_heading(summary, wanted.threshold), "dim")
    most = wanted.limit or TABLE_ROWS
    rows = list(queries.image_results(database, replace(wanted, limit=most + 1)))
    if rows:
        titles = (" probability", "label", "state", "body part", "image")
        print_table(
            titles,
            [
                [
                    score_text(row.probability),
                    row.label or "-",
                    row.reason or row.state,
                    row.body_part or "unknown",
                    row.image,
                ]
                for row in rows[:most]
            ],
        )
    else:
        print_line("No study matches.")
    if len(rows) > most:
        print_line("... and more: bonescreen results --images with --format csv or a higher --limit", "dim")
    print_line(RESEARCH_NOTICE)


@dataclass(frozen=True)
class StudyCounts:
    """Numbers of studies by result; `without_result` by status, of `WITHOUT_RESULT`."""

    positive: int
    negative: int
    without_result: dict[StudyStatus, int]
    pending: int

    @property
    def reasons(self) -> str:
        """Why studies have no result: ``2 incomplete, 1 out of scope``."""
        return ", ".join(f"{number:,} {status}" for status, number in self.without_result.items() if number)


def count_studies(database: Database, everything: ResultFilter) -> StudyCounts:
    """Count studies by result. An incomplete study that is positive all the same counts as positive."""
    counted = queries.count_results(database, everything)
    positive = queries.count_results(database, replace(everything, label=Label.POSITIVE))
    left = {status: counted.get(status, 0) - positive.get(status, 0) for status in StudyStatus}
    return StudyCounts(
        positive=sum(positive.values()),
        negative=left[StudyStatus.SCORED],
        without_result={status: left[status] for status in WITHOUT_RESULT},
        pending=left[StudyStatus.PENDING],
    )


def _print_without_result(counts: StudyCounts) -> None:
    total = sum(counts.without_result.values())
    if total:
        verb, them = ("has", "it") if total == 1 else ("have", "them")
        print_line(f"{count(total, 'study')} {verb} no result: {counts.reasons}; review {them} yourself", "yellow")
    if counts.pending:
        print_line(f"{count(counts.pending, 'study')} not screened yet", "yellow")


def _print_rows(rows: Sequence[StudyRow], findings: dict[int, str]) -> None:
    several, labelled = len(findings) > 1, any(row.human_label for row in rows)
    kept = [name for name in ("accession", "study_date", "modality", "path") if any(getattr(row, name) for row in rows)]
    titles = ((" run",) if several else ()) + (" score", " highest", "result", " images", "body part")
    print_table(
        titles + (("human label",) if labelled else ()) + ("study", *(name.replace("_", " ") for name in kept)),
        [
            [
                *([str(row.run)] if several else []),
                score_text(row.score),
                score_text(row.highest),
                outcome_text(row, findings[row.run]),
                f"{row.images - row.failed}/{row.images}" if row.status != StudyStatus.PENDING else "-",
                row.body_part or "unknown",
                *([row.human_label or "-"] if labelled else []),
                row.study,
                *(getattr(row, name) or "-" for name in kept),
            ]
            for row in rows
        ],
    )
