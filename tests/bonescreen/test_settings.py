"""Invalid settings are refused in one line, and no password in them is ever printed."""

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from bonescreen.stack import name_archive
from db.migrate import upgrade
from db.session import Database
from tests.archives import as_plain_user, folder_for_others
from tests.bonescreen.conftest import Bonescreen
from xray.errors import DatabaseOutage, UsageError
from xray.settings import fits_in_setting, read_settings


@pytest.mark.parametrize("character", ["?", "#", "%", "\n", "\udcff"])
def test_a_home_that_a_url_cannot_hold_is_refused(character: str) -> None:
    with pytest.raises(UsageError, match="BONESCREEN_HOME"):
        read_settings({"BONESCREEN_HOME": f"/tmp/a{character}b"})


def test_a_home_with_blanks_and_letters_of_any_language_is_accepted(tmp_path: Path) -> None:
    settings = read_settings({"BONESCREEN_HOME": str(tmp_path / "Röntgen [1] & 'x' @y+z:")})
    settings.home.mkdir()
    database = Database(settings.effective_database_url)
    upgrade(database)
    database.close()
    assert (settings.home / "bonescreen.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "unix:///run/s3cret",
        "http://s3cret@host",
        "redis://:s3cret@host:notaport/0",
        "redis://:s3cret@host:99999/0",
        "redis://:s3cret@[::1/0",
        "redis://:s3/cret@host/0",
        "redis://:s3#cret@host/0",
        "redis://:x?s3cret@host/0",
        "redis://host/0?password=s3cret",
        "redis://host/s3cret",
    ],
)
def test_a_broker_url_that_celery_would_trip_over_is_refused_in_one_line_that_does_not_show_it(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("BONESCREEN_BROKER_URL", url)
    done = bonescreen("feed")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: BONESCREEN_BROKER_URL")
    assert "redis+socket://" in done.err
    assert "cret" not in done.err


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://user:p%40ss@host:6379/1",
        "redis://:p@ss@host/",
        "rediss://host/0?ssl_cert_reqs=required",
        "redis+socket:///run/broker.sock?virtual_host=1",
        "redis+socket://:password@/run/broker.sock",
    ],
)
def test_broker_urls_in_use_are_taken(url: str) -> None:
    assert read_settings({"BONESCREEN_BROKER_URL": url}).broker_url == url


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("rediss://:p@host/0", "rediss://:p@host/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca.pem", "rediss://h/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_cert_reqs=none", "rediss://host/0?ssl_cert_reqs=none"),
    ],
)
def test_a_brokers_certificate_is_verified_unless_the_url_says_otherwise(url: str, taken: str) -> None:
    assert read_settings({"BONESCREEN_BROKER_URL": url}).broker_url == taken


@pytest.mark.parametrize("url", ["postgresql://user:s3cret@host:no/x", "s3cret"])
def test_a_database_url_that_is_none_is_refused_in_one_line_that_does_not_show_it(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("BONESCREEN_DATABASE_URL", url)
    done = bonescreen("runs")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: BONESCREEN_DATABASE_URL")
    assert "s3cret" not in done.err


def test_a_password_in_a_database_urls_query_is_not_shown() -> None:
    database = Database("postgresql://me@127.0.0.1:9/none?password=s3cret")
    with pytest.raises(DatabaseOutage) as caught:
        upgrade(database)
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


def test_an_unexpected_error_of_the_database_shows_no_values(database: Database) -> None:
    insert = text("INSERT INTO archives (id, name, root) VALUES (1, :name, NULL)")
    with pytest.raises(IntegrityError) as caught, database.write() as connection:
        connection.execute(insert, {"name": "doe^jane"})
    assert "doe^jane" not in str(caught.value).split("[SQL")[1]


def test_what_the_database_can_never_do_is_no_outage_to_wait_for(postgres_database_url: str) -> None:
    database = Database(postgres_database_url)
    with pytest.raises(OperationalError), database.read() as connection:
        connection.execute(text("SELECT " + ", ".join(["1"] * 2000)))
    database.close()


def test_a_configured_archive_that_is_a_link_to_itself_does_not_affect_another(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "clinic").mkdir()
    environ = {"BONESCREEN_ARCHIVES": f"loop={tmp_path / 'loop'},mine={tmp_path / 'clinic'}"}
    assert name_archive(read_settings(environ), {}, tmp_path / "clinic") == ("mine", tmp_path / "clinic")


def test_a_database_below_a_link_to_itself_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DatabaseOutage, match="cannot be opened"):
        upgrade(Database(f"sqlite:///{tmp_path / 'loop' / 'mine.db'}"))


def test_a_path_in_a_locked_folder_is_a_usage_error() -> None:
    with folder_for_others() as folder:
        (folder / "locked" / "clinic").mkdir(parents=True)
        (folder / "locked").chmod(0)
        with (
            as_plain_user(),
            pytest.raises(UsageError, match=r"cannot be read \(Permission denied\); give"),
        ):
            name_archive(read_settings({}), {}, folder / "locked" / "clinic")
        (folder / "locked").chmod(0o700)


@pytest.mark.parametrize("name", ["n" * 256, "file", "file/below", "loop"])
def test_a_path_that_leads_to_no_folder_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="give the folder that holds the studies"):
        name_archive(read_settings({}), {}, tmp_path / name)


@pytest.mark.parametrize(
    ("path", "can"),
    [("/a b/ü", True), ("/a=b", True), ("/a,b", False), ("/a,b=/c", False), ("/a ", False), ("/a\nb", False)],
)
def test_an_archive_is_handed_on_only_as_it_can_be_read_back(path: str, can: bool) -> None:
    assert fits_in_setting("name", Path(path)) is can
