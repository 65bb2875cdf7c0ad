"""Reviews: what people decide on studies' results. A review is added and never changed; the newest one counts.

Who has changed their mind adds another one. Each keeps what the reviewer saw: the study's status, score and label.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, exists, func, insert, select

from db.queries import row_of_study
from db.session import Database, Now
from db.study_results import lock_results, repeat_reviews
from db.tables import reviews, studies
from xray.errors import UsageError
from xray.vocabulary import Decision, Label, StudyStatus

NOTE_CHARACTERS = 2_000
REVIEWER_CHARACTERS = 100


@dataclass(frozen=True)
class Review:
    """What a person decided on a study's result, and when (seconds since 1970, on the database's clock).

    `study` is its key; `label`, `score` in [0, 1] and `status` are what the reviewer saw.
    """

    id: int
    run: int
    study_id: int
    study: str
    decision: Decision
    note: str | None
    reviewer: str
    reviewed_at: float
    label: Label | None
    score: float | None
    status: StudyStatus


class ResultChanged(UsageError):
    """A study's result is not the one that its reviewer saw."""


@dataclass(frozen=True)
class Agreement:
    """What reviewers make of a run's results: the newest review of each reviewer and study counts.

    Parameters
    ----------
    studies : int
        Studies that somebody reviewed.
    reviewed : int
        Reviews that count: the sum of the next three.
    agree, disagree, unsure : int
    by_label : dict of Label to tuple of (int, int, int)
        The same three, of the reviews that saw each label; those of a study without a label are in none.
    """

    studies: int
    reviewed: int
    agree: int
    disagree: int
    unsure: int
    by_label: dict[Label, tuple[int, int, int]] = field(default_factory=dict)


def add_review(
    database: Database,
    run_id: int,
    study_id: int,
    reviewer: str,
    decision: Decision,
    note: str | None = None,
    *,
    saw: str | None = None,
) -> Review:
    """Add a person's review of a study's result.

    Parameters
    ----------
    database : Database
    run_id, study_id : int
    reviewer : str
        The person's name, of at most `REVIEWER_CHARACTERS` printable characters.
    decision : Decision
    note : str, optional
        At most `NOTE_CHARACTERS` characters.
    saw : str, optional
        The `result_mark` of the result that the person saw. Default: that of the stored one.

    Raises
    ------
    ResultChanged
        The result is another one than the person saw.
    UsageError
        The run has no such study, or no result of it yet; the name or the note is too long or not text.
    """
    name, text = check_reviewer(reviewer), check_note(note)
    with database.write() as connection:
        row_of_study(connection, run_id, study_id)
        lock_results(connection, run_id, [study_id])
        # Only now, as the result can no longer change until the review is stored.
        seen = row_of_study(connection, run_id, study_id)
        if seen["status"] == StudyStatus.PENDING:
            raise UsageError(f"run {run_id} has no result of the study {seen['study']} yet; review it when it has one")
        if saw not in (None, result_mark(seen["status"], seen["score"])):
            raise ResultChanged(
                "the result has changed since you saw it, so the review is not stored; look at it again"
            )
        values = {
            "run_id": run_id,
            "study_id": study_id,
            "decision": Decision(decision),
            "note": text,
            "reviewer": name,
            "label": seen["label"],
            "score": seen["score"],
            "status": seen["status"],
        }
        added = insert(reviews).values(**values, reviewed_at=Now()).returning(reviews)
        review = _review({**connection.execute(added).mappings().one(), "study": seen["study"]})
        repeat_reviews(connection, run_id, [study_id])
        return review


def result_mark(status: str, score: float | None) -> str:
    """Return a text that changes with a study's result, to tell whether a person saw this one."""
    # A score's shortest decimal is exact.
    return f"{status} {'-' if score is None else repr(score)}"


def check_reviewer(name: str) -> str:
    """Return a reviewer's name as it is stored.

    Raises
    ------
    UsageError
        It is empty, too long or not printable.
    """
    stripped = name.strip()
    if not stripped:
        raise UsageError("a review needs its reviewer's name")
    if len(stripped) > REVIEWER_CHARACTERS:
        raise UsageError(f"a reviewer's name has at most {REVIEWER_CHARACTERS} characters, and this {len(stripped)}")
    if not stripped.isprintable():
        raise UsageError(f"a reviewer's name has printable characters only: {stripped!r} has others")
    return stripped


def check_note(note: str | None) -> str | None:
    """Return a note as it is stored; None if it is empty.

    Raises
    ------
    UsageError
        It is too long or not text.
    """
    text = "\n".join((note or "").strip().splitlines())
    if len(text) > NOTE_CHARACTERS:
        raise UsageError(f"a note has at most {NOTE_CHARACTERS:,} characters, and this {len(text):,}")
    if not text.replace("\n", "").replace("\t", "").isprintable():
        raise UsageError("a note has printable characters, tabs and line breaks only")
    return text or None


def reviews_of(database: Database, run_id: int, study_id: int) -> list[Review]:
    """Return the reviews of a study in a run, the newest first; none if there is no such study."""
    query = _select_reviews(run_id).where(reviews.c.study_id == study_id).order_by(reviews.c.id.desc())
    with database.read() as connection:
        return [_review(row) for row in connection.execute(query).mappings()]


def stream_reviews(database: Database, run_id: int) -> Generator[Review, None, None]:
    """Stream the reviews of a run by study, each study's in the order in which they were added."""
    query = _select_reviews(run_id).order_by(reviews.c.study_id, reviews.c.id).execution_options(yield_per=1000)
    with database.read() as connection:
        for row in connection.execute(query).mappings():
            yield _review(row)


def agreement(database: Database, run_id: int) -> Agreement:
    """Count what reviewers make of a run's results; see `Agreement`."""
    newer = reviews.alias()
    same = (newer.c[name] == reviews.c[name] for name in ("run_id", "study_id", "reviewer"))
    of_each = (
        select(reviews.c.label, reviews.c.decision, func.count().label("reviews"))
        .where(reviews.c.run_id == run_id, ~exists().where(*same, newer.c.id > reviews.c.id))
        .group_by(reviews.c.label, reviews.c.decision)
    )
    studies_reviewed = select(func.count(reviews.c.study_id.distinct())).where(reviews.c.run_id == run_id)
    with database.read() as connection:
        counted = {(row.label, row.decision): row.reviews for row in connection.execute(of_each)}
        number = connection.execute(studies_reviewed).scalar_one()
    by_label = {label: tuple(counted.get((label, decision), 0) for decision in Decision) for label in (*Label, None)}
    agree, disagree, unsure = (sum(each) for each in zip(*by_label.values(), strict=True))
    del by_label[None]
    return Agreement(number, agree + disagree + unsure, agree, disagree, unsure, by_label)


def _select_reviews(run_id: int) -> Select[Any]:
    return select(reviews, studies.c.key.label("study")).join(studies).where(reviews.c.run_id == run_id)


def _review(row: Mapping[Any, Any]) -> Review:
    return Review(
        id=row["id"],
        run=row["run_id"],
        study_id=row["study_id"],
        study=row["study"],
        decision=Decision(row["decision"]),
        note=row["note"],
        reviewer=row["reviewer"],
        reviewed_at=row["reviewed_at"],
        label=None if row["label"] is None else Label(row["label"]),
        score=row["score"],
        status=StudyStatus(row["status"]),
    )
