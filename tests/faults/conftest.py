"""Stacks for fault tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.migrate import upgrade
from db.session import Database
from tests.broker import TcpBroker
from tests.faults.stack import ARCHIVE, Archive, Stack, write_archive
from xray.network.package import ModelPackage

MakeArchive = Callable[..., Archive]
MakeStack = Callable[[Archive], Stack]


@pytest.fixture
def make_archive(tmp_path: Path) -> MakeArchive:
    """Write an archive: `make_archive(images, side=pixels)`."""

    def make(images: int, *, side: int = 1600) -> Archive:
        return write_archive(tmp_path / ARCHIVE, images, side)

    return make


@pytest.fixture
def home_stack(tmp_path: Path, tiny_package: ModelPackage) -> Iterator[MakeStack]:
    """Make the one-machine stack: SQLite and the embedded broker."""
    made: list[Stack] = []

    def make(archive: Archive) -> Stack:
        home = tmp_path / "home"
        environ = {"BONESCREEN_MODEL": str(tiny_package.path)}
        made.append(Stack(home, archive, environ, f"sqlite:///{home / 'bonescreen.db'}"))
        return made[-1]

    yield make
    for stack in made:
        stack.close()


@pytest.fixture
def cluster_stack(
    tmp_path: Path, tiny_package: ModelPackage, broker: TcpBroker, postgres_database_url: str
) -> Iterator[MakeStack]:
    """Make a cluster's stack: PostgreSQL, and a broker on TCP."""
    made: list[Stack] = []

    def make(archive: Archive) -> Stack:
        database = Database(postgres_database_url)
        upgrade(database)
        database.close()
        made.append(join_cluster(tmp_path / "home", archive, tiny_package, broker, postgres_database_url))
        return made[-1]

    yield make
    for stack in made:
        stack.close()


def join_cluster(home: Path, archive: Archive, package: ModelPackage, broker: TcpBroker, database_url: str) -> Stack:
    """Add a stack to a cluster whose machines are all this one."""
    environ = {
        "BONESCREEN_MODEL": str(package.path),
        "BONESCREEN_BROKER_URL": broker.url,
        "BONESCREEN_DATABASE_URL": database_url,
        "BONESCREEN_ARCHIVES": f"{ARCHIVE}={archive.root}",
    }
    return Stack(home, archive, environ, database_url)
