"""The database: its schema, the URLs it refuses, and its outages."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, make_url, select, text

from db import migrate
from db.heartbeats import Activity, list_heartbeats, record_heartbeat, remove_all_heartbeats, remove_heartbeat
from db.ledger import claim_next
from db.migrate import check, upgrade
from db.recovery import recover_expired
from db.session import Database
from db.tables import images, metadata, studies
from db.worklist import worklist
from db.worklist_search import WorklistFilter
from tests.archives import as_plain_user, folder_for_others
from tests.seeding import found_file, found_files, scan
from xray.errors import DatabaseOutage, UsageError
from xray.vocabulary import Label


def test_the_migrations_build_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    def belongs(item: object, name: str | None, *_: object) -> bool:
        # On SQLite the unique index is in the order of bytes already.
        return database.dialect == "postgresql" or name != "ix_studies_key"

    with database.read() as connection:
        options = {"compare_type": True, "include_object": belongs}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_upgrading_twice_changes_nothing_and_a_database_that_is_not_upgraded_is_refused(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        with pytest.raises(UsageError, match="bonescreen db upgrade"):
            check(database)
        assert upgrade(database)[0] is None
        before, after = upgrade(database)
        assert before == after
        check(database)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_postgresql_database_in_another_encoding_holds_every_name_or_is_refused(
    postgres_url: str, encoding: str
) -> None:
    name = f"test_{encoding.lower()}"
    admin = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        locale = "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.execute(text(f"CREATE DATABASE {name} ENCODING '{encoding}' {locale}"))
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    try:
        with closing(Database(url)) as opened:
            if encoding == "LATIN1":
                with pytest.raises(UsageError, match="encoding is LATIN1"):
                    upgrade(opened)
            else:
                upgrade(opened)
                scan(opened, [found_file("骨折 é", "image.png")])
                with opened.read() as connection:
                    assert connection.execute(select(studies.c.key)).scalar_one() == "骨折 é"
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def test_upgrading_from_the_first_schema_keeps_the_data_and_moves_the_body_part_to_the_images(
    database_url: str,
) -> None:
    with closing(Database(database_url)) as database:
        with database.write() as connection:
            config = migrate._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
        with database.write() as connection:
            connection.execute(text("INSERT INTO archives (id, name, root) VALUES (1, 'a', '/a')"))
            connection.execute(text("INSERT INTO studies (id, archive_id, key, body_part) VALUES (1, 1, 's', 'HAND')"))
            connection.execute(
                text(
                    "INSERT INTO images (id, archive_id, study_id, path, size, mtime_ns, current) "
                    "VALUES (1, 1, 1, 's/1.png', 1, 1, :current)"
                ),
                {"current": True},
            )
        with pytest.raises(UsageError, match="at revision 0001"):
            check(database)
        assert upgrade(database)[0] == "0001"
        check(database)
        with database.read() as connection:
            row = connection.execute(select(studies.c.body_parts, images.c.body_part).join_from(images, studies)).one()
        assert tuple(row) == ("HAND", "HAND")


def test_upgrading_while_batches_are_sent_and_claimed_leaves_the_sent_ones_to_be_claimed(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        with database.write() as connection:
            config = migrate._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0006")
        with database.write() as connection:
            connection.execute(text("INSERT INTO archives (id, name, root) VALUES (1, 'a', '/a')"))
            connection.execute(
                text(
                    "INSERT INTO models (id, name, version, digest, precision, finding, image_threshold, "
                    "study_threshold, body_parts, queue) VALUES (1, 'm', '1', 'd', 'fp32', 'f', 0.5, 0.5, '', 'q')"
                )
            )
            connection.execute(
                text("INSERT INTO runs (id, archive_id, model_id, batch_size, created_at) VALUES (1, 1, 1, 9, 0)")
            )
            for number, (state, sent_at, worker) in enumerate(
                [("pending", None, None), ("sent", 7.0, None), ("claimed", 7.0, "w"), ("done", 7.0, None)], 1
            ):
                connection.execute(
                    text(
                        "INSERT INTO batches (id, run_id, first_image_id, last_image_id, images, state, token, "
                        "attempts, worker, sent_at, lease_expires_at) "
                        "VALUES (:n, 1, :n, :n, 1, :state, 3, 0, :worker, :sent, :until)"
                    ),
                    {"n": number, "state": state, "sent": sent_at, "worker": worker, "until": sent_at},
                )
        assert upgrade(database) == ("0006", "0010")
        assert [claim.batch_id for _ in range(2) if (claim := claim_next(database, "q", "new"))] == [1, 2]
        assert claim_next(database, "q", "new") is None
        assert recover_expired(database) == 1, "the one that an earlier worker had claimed"


def test_upgrading_repeats_labels_and_body_parts_in_results_that_were_stored_before(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        upgrade(database, "0007")
        with database.write() as connection:
            for statement in (
                "INSERT INTO archives (id, name, root) VALUES (1, 'a', '/a')",
                "INSERT INTO models (id, name, version, digest, precision, finding, image_threshold, study_threshold, "
                "body_parts, modalities, queue) VALUES (1, 'm', '1', 'd', 'fp32', 'f', 0.5, 0.5, '', '', 'q')",
                "INSERT INTO runs (id, archive_id, model_id, batch_size, created_at) VALUES (1, 1, 1, 9, 0)",
                "INSERT INTO studies (id, archive_id, key, body_parts, human_label) VALUES "
                "(1, 1, 'known', 'HAND,WRIST', 'positive'), (2, 1, 'unknown', NULL, NULL)",
                "INSERT INTO images (archive_id, study_id, path, size, mtime_ns, current, body_part) VALUES "
                "(1, 1, '1', 1, 1, true, 'HAND'), (1, 2, '2', 1, 1, true, NULL)",
                "INSERT INTO study_results (run_id, study_id, status, score, flagged, images, failed) VALUES "
                "(1, 1, 'scored', 0.9, true, 1, 0), (1, 2, 'scored', 0.1, false, 1, 0)",
            ):
                connection.execute(text(statement))
        assert upgrade(database) == ("0007", "0010")
        for wanted, keys in (
            (WorklistFilter(1), ["known", "unknown"]),
            (WorklistFilter(1, body_part="WRIST", human_label=Label.POSITIVE), ["known"]),
            (WorklistFilter(1, reviewed=False, flagged=True), ["known"]),
        ):
            assert [row.row.study for row in worklist(database, wanted).rows] == keys


def test_several_processes_may_upgrade_at_the_same_time(database_url: str) -> None:
    reached: list[str] = []

    def migrate() -> None:
        with closing(Database(database_url)) as database:
            reached.append(upgrade(database)[1])

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reached) == 4


def test_a_database_made_by_a_newer_bonescreen_is_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for act in (check, upgrade):
        with pytest.raises(UsageError, match="newer bonescreen"):
            act(database)


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_an_unsupported_database_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        Database(url)


def test_a_locked_sqlite_file_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.session.BUSY_SECONDS", 0.1)
    file = tmp_path / "test.db"
    database = Database(f"sqlite:///{file}")
    upgrade(database)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseOutage, match="locked"):
        scan(database, found_files(1))
    other.execute("ROLLBACK")
    other.close()
    assert scan(database, found_files(1)) == 1


def test_a_damaged_sqlite_file_is_an_outage(tmp_path: Path) -> None:
    file = tmp_path / "test.db"
    with closing(Database(f"sqlite:///{file}")) as database:
        upgrade(database)
        scan(database, found_files(200))
    with file.open("r+b") as pages:
        pages.seek(4096)
        pages.write(b"\xff" * (file.stat().st_size - 4096))
    with closing(Database(f"sqlite:///{file}")) as database, pytest.raises(DatabaseOutage, match="malformed"):
        scan(database, found_files(1))


def test_a_new_sqlite_file_waits_for_another_process_that_writes_it_first(tmp_path: Path) -> None:
    file = tmp_path / "test.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.5, other.execute, ["ROLLBACK"])
    release.start()
    with closing(Database(f"sqlite:///{file}")) as database:
        upgrade(database)
        check(database)
    release.join()
    other.close()


def test_an_unreachable_server_is_an_outage_whose_message_has_no_password() -> None:
    database = Database("postgresql://me:secret@127.0.0.1:9/none")
    with pytest.raises(DatabaseOutage) as caught:
        check(database)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


def test_a_read_only_server_is_an_outage(postgres_database_url: str) -> None:
    with closing(Database(postgres_database_url)) as database:
        upgrade(database)
        with database.write() as connection:
            connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
        with pytest.raises(DatabaseOutage, match="read-only"):
            record_heartbeat(database, "host:1", "worker", "q", None)


def test_a_missing_folder_is_an_outage_that_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(DatabaseOutage, match=r"cannot be opened: unable to open .* check that its folder exists"):
        upgrade(Database(f"sqlite:///{tmp_path}/missing/test.db"))


def test_a_read_only_file_is_an_outage_that_says_what_to_check() -> None:
    with folder_for_others() as folder:
        url = f"sqlite:///{folder / 'test.db'}"
        with closing(Database(url)) as database:
            upgrade(database)
        (folder / "test.db").chmod(0o444)
        refused = pytest.raises(DatabaseOutage, match=r"cannot be written: .* check that this user may write")
        with as_plain_user(), closing(Database(url)) as database, refused:
            scan(database, found_files(1))


def test_heartbeats_tell_which_processes_are_alive_and_what_they_wait_for(database: Database) -> None:
    record_heartbeat(database, "host:1", "worker", "q", None)
    record_heartbeat(database, "host:2", "feeder", None, "the broker is away")
    record_heartbeat(database, "host:1", "worker", "q", "the archive is away")
    found = {(one.name, one.problem): one.alive for one in list_heartbeats(database)}
    assert found == {("host:1", "the archive is away"): True, ("host:2", "the broker is away"): True}
    remove_heartbeat(database, "host:1")
    assert [one.name for one in list_heartbeats(database)] == ["host:2"]
    record_heartbeat(database, "host:3", "worker", "q", None, Activity.LOADING, "bf16 fp32 int8")
    assert [(one.activity, one.precisions) for one in list_heartbeats(database)] == [
        (None, None),
        ("loading the model", "bf16 fp32 int8"),
    ]
    remove_all_heartbeats(database)
    assert list_heartbeats(database) == []
