"""`bonescreen db backup`: a copy made while a screen runs is whole, and restored it goes on to the end."""

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from tests.faults.conftest import MakeArchive, MakeStack
from tests.faults.stack import Stack
from tests.faults.test_one_machine import END, screening


def test_a_backup_made_while_a_screen_runs_is_restored_and_finished_without_losing_or_doubling_an_image(
    make_archive: MakeArchive, home_stack: MakeStack, tmp_path: Path
) -> None:
    stack = home_stack(make_archive(2000))
    command = screening(stack)
    # Suspended, so that it is not finished before the copy is; the feeder and others write meanwhile.
    child, _ = stack.suspended_at_work()
    copy = tmp_path / "backup.db"
    code, said = stack.run("db", "backup", str(copy))
    child.resume()
    assert code == 0, said
    assert command.ended(END) == 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(tmp_path.glob(".backup*")) == []
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        (copied,) = connection.execute("SELECT count(*) FROM outcomes").fetchone()
    assert 0 < copied < 2000

    # As docs/operations.md says.
    home = tmp_path / "restored"
    home.mkdir()
    shutil.copy(copy, home / "bonescreen.db")
    model = {"BONESCREEN_MODEL": stack.environ["BONESCREEN_MODEL"]}
    restored = Stack(home, stack.archive, model, f"sqlite:///{home / 'bonescreen.db'}")
    try:
        assert restored.ledger.processed() == copied
        for batch in restored.ledger.claimed_batches():
            restored.ledger.expire_lease(batch.batch_id)
        code, said = restored.run("screen", str(stack.archive.root))
        assert code == 0, said
        restored.ledger.assert_one_outcome_each(2000)
    finally:
        restored.close()
