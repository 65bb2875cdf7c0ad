"""What a study's current images say of it: its body parts, and how many patients they are of."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, exists, func, or_, select, update

from db.session import Database, chunks, one_of
from db.tables import images, studies, study_results
from xray.pseudonym import count_patients


def describe_studies(connection: Connection, study_ids: Iterable[int]) -> None:
    """Set the body parts of studies, and how many patients they have, to those of their current images.

    A study without images keeps what it has.
    """
    for chunk in chunks(sorted(study_ids)):
        _count_patients(connection, chunk)
        is_different = func.coalesce(images.c.body_part, "") != func.coalesce(studies.c.body_parts, "")
        suspects = (
            select(images.c.study_id)
            .join(studies, studies.c.id == images.c.study_id)
            .where(one_of(connection, images.c.study_id, chunk), images.c.current, is_different)
        )
        rows = connection.execute(
            select(images.c.study_id, images.c.body_part)
            .where(images.c.study_id.in_(suspects), images.c.current)
            .distinct()
            .order_by(images.c.study_id, images.c.body_part)
        ).all()
        parts: dict[int, list[str]] = {}
        for row in rows:
            parts.setdefault(row.study_id, []).extend([row.body_part] if row.body_part else [])
        if parts:
            connection.execute(
                update(studies).where(studies.c.id == bindparam("study")).values(body_parts=bindparam("parts")),
                [{"study": study_id, "parts": ",".join(found) or None} for study_id, found in parts.items()],
            )
            describe_results(connection, parts)


def describe_results(connection: Connection, study_ids: Iterable[int]) -> None:
    """Repeat the human label and the body parts of studies in their results."""
    label, parts = func.coalesce(studies.c.human_label, ""), func.coalesce(studies.c.body_parts, "")
    is_different = or_(study_results.c.human_label != label, study_results.c.body_parts != parts)
    for chunk in chunks(sorted(study_ids)):
        these = one_of(connection, study_results.c.study_id, chunk), studies.c.id == study_results.c.study_id
        connection.execute(
            update(study_results).where(*these, is_different).values(human_label=label, body_parts=parts)
        )


def _count_patients(connection: Connection, study_ids: Sequence[int]) -> None:
    marks = func.count(images.c.patient_mark.distinct())
    current = one_of(connection, images.c.study_id, study_ids), images.c.current
    rows = connection.execute(
        select(images.c.study_id, marks.label("marks"))
        .join(studies, studies.c.id == images.c.study_id)
        .where(*current)
        .group_by(images.c.study_id, studies.c.patients)
        .having(or_(marks > 1, marks != func.coalesce(studies.c.patients, 0)))
    ).all()
    patients = {row.study_id: row.marks for row in rows}
    # Few studies have more than one mark, and one patient may have two.
    if several := [study_id for study_id, number in patients.items() if number > 1]:
        found: dict[int, set[str]] = {}
        these = one_of(connection, images.c.study_id, several), images.c.current, images.c.patient_mark.is_not(None)
        for row in connection.execute(select(images.c.study_id, images.c.patient_mark).where(*these).distinct()):
            found.setdefault(row.study_id, set()).add(row.patient_mark)
        patients |= {study_id: count_patients(marked) for study_id, marked in found.items()}
    if patients:
        connection.execute(
            update(studies).where(studies.c.id == bindparam("study")).values(patients=bindparam("number")),
            [{"study": study_id, "number": number or None} for study_id, number in patients.items()],
        )


def studies_of_several_patients(database: Database, archive_id: int, most: int) -> tuple[int, list[str]]:
    """Return how many studies of an archive have images of several patients, and the keys of the first of them."""
    several = studies.c.archive_id == archive_id, studies.c.patients > 1
    has_images = exists().where(images.c.study_id == studies.c.id, images.c.current)
    with database.read() as connection:
        number = connection.execute(select(func.count()).select_from(studies).where(*several, has_images)).scalar_one()
        keys = select(studies.c.key).where(*several, has_images).order_by(studies.c.key).limit(most)
        return number, list(connection.execute(keys).scalars())
