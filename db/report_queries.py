"""What a report counts of a run: scores by intervals, and results beside human labels. Nothing here writes."""

from collections.abc import Generator
from dataclasses import dataclass

from sqlalchemy import and_, exists, func, select

from db.session import Database
from db.tables import images, studies, study_results
from xray.vocabulary import Label, StudyStatus


@dataclass(frozen=True)
class ScoreBin:
    """Studies whose score is at least `low` and below `high` (the last bin has 1 too), flagged or not."""

    low: float
    high: float
    flagged: int
    others: int


@dataclass(frozen=True)
class LabelledResult:
    """A scored study with a human label; `patient` is a keyed hash, where one is known."""

    study: str
    patient: str | None
    body_parts: str | None
    human_label: Label
    score: float


_CURRENT = exists().where(images.c.study_id == studies.c.id, images.c.current)


def count_scores(database: Database, run_id: int, bins: int) -> list[ScoreBin]:
    """Count the studies of a run that have a score, by intervals of equal size from 0 to 1."""
    score, flagged = study_results.c.score, study_results.c.flagged
    edges = [(number / bins, (number + 1) / bins) for number in range(bins)]
    within = [and_(score >= low, score < high if high < 1 else score <= 1) for low, high in edges]
    counts = [func.count().filter(inside, kind) for inside in within for kind in (flagged, ~flagged)]
    query = (
        select(*(each.label(f"count{number}") for number, each in enumerate(counts)))
        .join_from(study_results, studies, studies.c.id == study_results.c.study_id)
        .where(study_results.c.run_id == run_id, score.is_not(None), _CURRENT)
    )
    with database.read() as connection:
        found = tuple(connection.execute(query).one())
    return [ScoreBin(low, high, found[2 * n], found[2 * n + 1]) for n, (low, high) in enumerate(edges)]


def labelled_results(database: Database, run_id: int) -> Generator[LabelledResult, None, None]:
    """Stream the studies of a run that have a human label and whose images were all scored."""
    query = (
        select(studies.c.key, studies.c.patient, studies.c.body_parts, studies.c.human_label, study_results.c.score)
        .join_from(study_results, studies, studies.c.id == study_results.c.study_id)
        .where(study_results.c.run_id == run_id, study_results.c.status == StudyStatus.SCORED)
        .where(study_results.c.score.is_not(None), studies.c.human_label.is_not(None), _CURRENT)
        .execution_options(yield_per=1000)
    )
    with database.read() as connection:
        for key, patient, parts, human_label, score in connection.execute(query):
            yield LabelledResult(key, patient, parts, Label(human_label), score)


def count_labelled_without_score(database: Database, run_id: int) -> int:
    """Count the studies of a run that have a human label and a result, but not all of whose images were scored."""
    query = (
        select(func.count())
        .select_from(study_results)
        .join(studies, studies.c.id == study_results.c.study_id)
        .where(study_results.c.run_id == run_id, study_results.c.status != StudyStatus.SCORED)
        .where(studies.c.human_label.is_not(None), _CURRENT)
    )
    with database.read() as connection:
        return connection.execute(query).scalar_one()
