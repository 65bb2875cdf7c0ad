"""A run through PgBouncer in transaction mode, where each transaction may be on another server connection."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, make_url, select, text

from db.migrate import upgrade
from db.session import Database
from db.tables import batches
from tests.awaiting import await_that
from tests.broker import TcpBroker, free_port
from tests.faults.conftest import MakeArchive, join_cluster
from tests.faults.debian import PgBouncer, debian_pgbouncer, debian_postgres, require_debian_servers
from tests.faults.stack import ARCHIVE
from xray.errors import DatabaseOutage
from xray.network.package import ModelPackage


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    require_debian_servers()
    with debian_postgres() as url:
        yield url


def test_statements_that_one_client_repeats_do_not_disturb_the_next_one(server_url: str) -> None:
    with ExitStack() as end:
        pooler = end.enter_context(debian_pgbouncer(server_url, pool_size=1))
        clients = [end.enter_context(closing(Database(pooler.url))) for _ in range(2)]
        for number in range(20):
            for client, statement in zip(clients, ("SELECT :n + 1", "SELECT :n + 2"), strict=True):
                with client.write() as connection:
                    connection.execute(text(statement), {"n": number})


def test_pgbouncers_own_errors_are_an_outage(server_url: str) -> None:
    with ExitStack() as end:
        pooler = end.enter_context(debian_pgbouncer(server_url, pool_size=1))
        pooler.restart(query_wait_timeout=1)
        with use(pooler), pytest.raises(DatabaseOutage, match="query_wait_timeout"), use(pooler):
            pass
        pooler.restart(max_client_conn=1)
        with use(pooler), pytest.raises(DatabaseOutage, match="no more connections"), use(pooler):
            pass
        no_server = make_url(server_url).set(port=free_port()).render_as_string(hide_password=False)
        alone = end.enter_context(debian_pgbouncer(no_server, pool_size=1))
        with pytest.raises(DatabaseOutage, match="does not answer"), use(alone):
            pass


@contextmanager
def use(pooler: PgBouncer) -> Iterator[None]:
    """Keep one of its server connections, by a transaction."""
    with closing(Database(pooler.url)) as database, database.write() as connection:
        connection.execute(select(1))
        yield


def test_a_run_through_pgbouncer_survives_its_end(
    tmp_path: Path, make_archive: MakeArchive, tiny_package: ModelPackage, broker: TcpBroker, server_url: str
) -> None:
    archive = make_archive(320)
    with ExitStack() as end:
        pooler = end.enter_context(debian_pgbouncer(server_url, pool_size=3))
        with closing(Database(pooler.url)) as database:
            upgrade(database)
        stack = join_cluster(tmp_path / "home", archive, tiny_package, broker, pooler.url)
        end.callback(stack.close)
        for _ in range(2):
            stack.start("worker")
        code, said = stack.run("enqueue", ARCHIVE)
        assert code == 0, said
        await_that(stack.ledger.processed, 90, "the first results")
        pooler.kill()
        pooler.start()
        stack.assert_run_finishes(150)
        with closing(Database(server_url)) as database, database.read() as connection:
            assert connection.execute(select(func.max(batches.c.attempts))).scalar_one() == 0
