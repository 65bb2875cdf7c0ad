"""Saying what a scan would do, without doing it."""

import os
from pathlib import Path

from db.run_queries import list_runs
from db.session import Database
from producer.find import Source
from producer.plan import plan_archive
from producer.scan import scan_archive
from producer.scan_report import Plan
from tests.archives import png
from tests.seeding import MODEL, finish_sent


def counts(plan: Plan) -> tuple[int, int, int, int, int, int]:
    return plan.found, plan.new, plan.changed, plan.left, plan.processed, plan.gone


def test_a_plan_tells_new_changed_left_settled_and_gone_apart_and_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    root = tmp_path / "clinic"
    root.mkdir()
    for number in range(6):
        (root / f"{number}.png").write_bytes(png(number))

    def plan() -> Plan:
        return plan_archive(database, "clinic", Source(root), MODEL.digest)

    assert counts(plan()) == (6, 6, 0, 0, 0, 0)
    assert list_runs(database) == []
    scan_archive(database, "clinic", Source(root), MODEL, batch_size=2)
    assert counts(plan()) == (6, 0, 0, 6, 0, 0)
    finish_sent(database, 1)
    assert counts(plan()) == (6, 0, 0, 4, 2, 0)
    finish_sent(database, 2)
    (root / "0.png").unlink()
    os.utime(root / "1.png", ns=(1, 1))
    (root / "new.png").write_bytes(png(9))
    (root / "notes.txt").write_text("text")
    told = plan()
    assert counts(told) == (6, 1, 1, 0, 4, 1)
    assert told.skipped == {"not an image": 1}
    assert list_runs(database)[0].images == 6
    assert plan_archive(database, "clinic", Source(root), "00" * 32).left == 4


def test_a_plan_needs_no_database(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    assert counts(plan_archive(None, "clinic", Source(tmp_path), MODEL.digest)) == (1, 1, 0, 0, 0, 0)
