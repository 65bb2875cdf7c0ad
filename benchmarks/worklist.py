"""Measure how long pages of a worklist take on a large database, by filter.

    python -m benchmarks.worklist sqlite:////data/worklist.db --images 1000000
    python -m benchmarks.worklist postgresql://user@host/empty --images 1000000

Seeds an empty database: a finished run of so many images (two or three in a study), another run of the same archive by
another model version, and an archive of half as many images that nobody has screened. The human label follows the score
exactly, so that looking for studies with one label among those with the other finds none. Some body parts, statuses and
times are rare. Prints for each filter the median and 95th percentile, in milliseconds, of the first page, of one in the
middle of the run, of the last but one, and of the count; then those of other questions that the pages ask.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

from sqlalchemy import Connection, text, update

from bonescreen.bench import ledger
from bonescreen.bench.machine import describe_machine
from db.comparison import compare_runs, count_labels, score_pairs
from db.counts import BLOCK_IDS
from db.reviews import add_review, agreement, reviews_of
from db.session import Database
from db.tables import study_results
from db.worklist import count_worklist, neighbours, study_by_id, worklist
from db.worklist_search import WorklistFilter
from xray.vocabulary import Decision, Label, StudyStatus

RUN, WAITING_RUN, OTHER_RUN = 1, 2, 3
LAST_NIGHT = 1_800_000_000.0

CHANGES = (
    # A human label that the score agrees with, but for some studies without one.
    "UPDATE studies SET human_label = CASE WHEN id % 10 = 0 THEN NULL "
    "WHEN (SELECT score FROM study_results WHERE run_id = 1 AND study_id = studies.id) >= 0.6 THEN 'positive' "
    "ELSE 'negative' END WHERE archive_id = 1",
    "UPDATE studies SET accession = 'A' || (10000000 + id)",
    # Rare body parts: one of a few studies, one of those with the lowest scores, one of several parts.
    "UPDATE images SET body_part = 'CLAVICLE' WHERE study_id % 20011 = 5",
    "UPDATE studies SET body_parts = 'CLAVICLE' WHERE id % 20011 = 5",
    "UPDATE studies SET body_parts = 'SHOULDER' WHERE archive_id = 1 AND "
    "(SELECT score FROM study_results WHERE run_id = 1 AND study_id = studies.id) < 0.02",
    "UPDATE images SET body_part = 'SHOULDER' WHERE study_id IN (SELECT id FROM studies WHERE body_parts = 'SHOULDER')",
    "UPDATE studies SET body_parts = 'HAND,WRIST' WHERE id % 101 = 7",
    # Some out of scope, few not assessable, and fewer pending again.
    "UPDATE study_results SET status = 'out of scope', score = NULL, flagged = {false} WHERE study_id % 20 = 3",
    "UPDATE study_results SET status = 'not assessable', score = NULL, flagged = {false} WHERE study_id % 50021 = 9",
    "UPDATE study_results SET status = 'pending', score = NULL, flagged = {false} WHERE study_id % 60013 = 11",
    "UPDATE study_results SET changed_at = study_id",
    "UPDATE study_results SET changed_at = {night} + study_id WHERE study_id % 200 = 1",
    "UPDATE study_results SET human_label = COALESCE(studies.human_label, ''), "
    "body_parts = COALESCE(studies.body_parts, '') FROM studies WHERE studies.id = study_results.study_id",
    # The other model version gives other scores.
    "INSERT INTO models SELECT 2, 'other', version, '1' || SUBSTR(digest, 2), precision, finding, image_threshold, "
    "study_threshold, body_parts, queue, modalities FROM models WHERE id = 1",
    "INSERT INTO runs (id, archive_id, model_id, batch_size, priority, created_at) VALUES (3, 1, 2, 256, 0, 0)",
    "INSERT INTO study_results (run_id, study_id, status, score, highest, flagged, images, failed, changed_at, "
    "human_label, body_parts, reviewed) SELECT 3, study_id, status, score * score, highest, "
    "score IS NOT NULL AND score * score >= 0.9, images, failed, changed_at, human_label, body_parts, reviewed "
    "FROM study_results WHERE run_id = 1",
    "INSERT INTO run_counts SELECT 3, block, processed, failed, inferred, scored, incomplete, not_assessable, "
    "out_of_scope, flagged_scored, flagged_incomplete FROM run_counts WHERE run_id = 1",
)


def seed(database: Database, url: str, images: int) -> int:
    """Fill an empty database; return how many studies the run `RUN` has."""
    studies = ledger.build(database, url, images, images // 2)
    values = {"false": "0" if database.dialect == "sqlite" else "false", "night": LAST_NIGHT}
    for statement in CHANGES:
        with database.write() as connection:
            connection.execute(text(statement.format(**values)))
    with database.write() as connection:
        _count_again(connection)
    # What autovacuum would do in a minute.
    ledger.vacuum(database, url)
    return studies


def _count_again(connection: Connection) -> None:
    for status in ("scored", "incomplete", "not assessable", "out of scope"):
        column = status.replace(" ", "_")
        number = (
            "SELECT COUNT(*) FROM study_results WHERE study_results.run_id = run_counts.run_id AND "
            f"status = '{status}' AND study_id BETWEEN block * {BLOCK_IDS} AND block * {BLOCK_IDS} + {BLOCK_IDS - 1}"
        )
        connection.execute(text(f"UPDATE run_counts SET {column} = ({number})"))


def review_most(database: Database, every: bool) -> None:
    """Review a few studies, those with the highest scores, or every one."""
    if not every:
        for row in worklist(database, WorklistFilter(RUN), limit=300).rows:
            add_review(database, RUN, row.study_id, "Ann", Decision.AGREE)
        return
    with database.write() as connection:
        connection.execute(
            text(
                "INSERT INTO reviews (run_id, study_id, decision, reviewer, reviewed_at, score, status) "
                "SELECT run_id, study_id, 'agree', 'Bob', 0, score, status FROM study_results WHERE run_id = 1"
            )
        )
        connection.execute(update(study_results).where(study_results.c.run_id == RUN).values(reviewed=True))


def filters(images: int, studies: int) -> dict[str, WorklistFilter]:
    """Return the filters that are measured, by name."""
    every = WorklistFilter(RUN)
    waiting = WorklistFilter(WAITING_RUN)
    return {
        "none": every,
        "flagged": replace(every, flagged=True),
        "label negative": replace(every, label=Label.NEGATIVE),
        "score 0.3 to 0.4": replace(every, min_score=0.3, max_score=0.4),
        "body part, common": replace(every, body_part="HAND"),
        "body part, rare": replace(every, body_part="CLAVICLE"),
        "body part, lowest scores": replace(every, body_part="SHOULDER"),
        "body part, none": replace(every, body_part="TOE"),
        "human label negative": replace(every, human_label=Label.NEGATIVE),
        "human negative, flagged: none": replace(every, human_label=Label.NEGATIVE, flagged=True),
        "status scored": replace(every, status=StudyStatus.SCORED),
        "status incomplete": replace(every, status=StudyStatus.INCOMPLETE),
        "status out of scope": replace(every, status=StudyStatus.OUT_OF_SCOPE),
        "status not assessable, rare": replace(every, status=StudyStatus.NOT_ASSESSABLE),
        "status pending, rare": replace(every, status=StudyStatus.PENDING),
        "reviewed": replace(every, reviewed=True),
        "not reviewed": replace(every, reviewed=False),
        "not reviewed, flagged": replace(every, reviewed=False, flagged=True),
        "since last night (0.5 %)": replace(every, since=LAST_NIGHT),
        "since last night, HAND, flagged": replace(every, since=LAST_NIGHT, body_part="HAND", flagged=True),
        "since, half": replace(every, since=studies / 2),
        "since, none": replace(every, since=LAST_NIGHT * 2),
        "text, a whole key": replace(every, text=ledger.study_key(studies // 3)),
        "text, begins 20,000 keys": replace(every, text="XR_HAND/patient000"),
        "text, an accession number": replace(every, text=f"A{10_000_000 + studies // 2}"),
        "text, within one key": replace(every, text=f"patient{studies // 5:07}"),
        "text, within most keys": replace(every, text="study1"),
        "text, none": replace(every, text="nowhere"),
        "text within keys and since half": replace(every, text="study1", since=studies / 2),
        "unscreened: none": waiting,
        "unscreened: body part, rare": replace(waiting, body_part="CLAVICLE"),
        "unscreened: human label, none": replace(waiting, human_label=Label.POSITIVE),
        "unscreened: text within one key": replace(waiting, text=ledger.study_key(images + 99)[3:]),
    }


def measure(database: Database, images: int, studies: int, repeats: int, named: str) -> None:
    """Print how long each filter takes."""
    print(f"\n{named:34} studies   first page      middle        late       count")
    for name, wanted in filters(images, studies).items():
        cursors = [None, _place(database, 0.5), _place(database, 0.02)]
        columns = [
            _time(lambda _, wanted=wanted, cursor=cursor: worklist(database, wanted, cursor), repeats)  # type: ignore[misc]
            for cursor in cursors
        ]
        columns.append(_time(lambda _, wanted=wanted: count_worklist(database, wanted), repeats))  # type: ignore[misc]
        print(f"{name:34} {count_worklist(database, wanted):7,} {'  '.join(columns)}", flush=True)


def _place(database: Database, score: float) -> str | None:
    """Return the cursor of a page that begins below a score, in any worklist of the run."""
    return worklist(database, WorklistFilter(RUN, max_score=score), limit=1).next


def measure_others(database: Database, studies: int, repeats: int) -> None:
    """Print how long the other questions take."""
    chosen = random.Random(1)
    ids = [chosen.randint(1, studies) for _ in range(repeats * 10)]
    every, hand = WorklistFilter(RUN), WorklistFilter(RUN, body_part="HAND", flagged=True)
    questions: dict[str, tuple[Callable[[int], object], int]] = {
        "study page: study": (lambda n: study_by_id(database, RUN, ids[n]), repeats * 10),
        "study page: neighbours": (lambda n: neighbours(database, every, ids[n]), repeats * 10),
        "study page: neighbours, filtered": (lambda n: neighbours(database, hand, ids[n]), repeats * 10),
        "study page: reviews": (lambda n: reviews_of(database, RUN, ids[n]), repeats * 10),
        "agreement": (lambda _: agreement(database, RUN), 3),
        "comparison: counts": (lambda _: count_labels(database, RUN, OTHER_RUN), 3),
        "comparison: first page": (lambda _: compare_runs(database, RUN, OTHER_RUN), 3),
        "comparison: scatter": (lambda _: score_pairs(database, RUN, OTHER_RUN), 3),
    }
    print("\nquestion                               median     p95")
    for name, (act, times) in questions.items():
        print(f"{name:34} {_time(act, times)}", flush=True)


def _time(act: Callable[[int], object], repeats: int) -> str:
    seen: list[float] = []
    for number in range(repeats):
        started = time.perf_counter()
        act(number)
        seen.append((time.perf_counter() - started) * 1000)
    p95 = sorted(seen)[max(0, -(-len(seen) * 95 // 100) - 1)]
    return f"{statistics.median(seen):5.1f} {p95:6.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of an empty database")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    chosen = parser.parse_args(arguments)
    machine = describe_machine()
    with closing(Database(chosen.url)) as database:
        started = time.perf_counter()
        studies = seed(database, chosen.url, chosen.images)
        print(f"{database.dialect}, {chosen.images:,} images, {studies:,} studies, {machine['processor']}, ", end="")
        print(f"{machine['cpus']} CPUs, {time.strftime('%F')}; seeded in {time.perf_counter() - started:.0f} s")
        review_most(database, every=False)
        measure(database, chosen.images, studies, chosen.repeats, "median and p95 in ms; 300 reviewed")
        measure_others(database, studies, chosen.repeats)
        review_most(database, every=True)
        ledger.vacuum(database, chosen.url)
        measure(database, chosen.images, studies, chosen.repeats, "the same; all are reviewed")


if __name__ == "__main__":
    main()
