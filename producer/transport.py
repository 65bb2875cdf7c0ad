"""The feeder's connection to the broker: count the messages that wait, and send some."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as KombuOperationalError

from xray.errors import BrokerOutage
from xray.message import TASK_NAME, transport_options

NODE_LISTS = ("_kombu.binding.celery.pidbox", "_kombu.binding.celeryev")
"""Where kombu lists the nodes that receive commands and events. It adds each worker name and each start of Flower, and
removes none while any is alive. It never reads the lists, as Redis' PUBLISH reaches whoever listens."""


class Transport:
    """The connection of a process to the broker.

    Parameters
    ----------
    broker_url : str
        Redis-protocol URL, as Celery takes it.
    """

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("bonescreen", broker=broker_url, set_as_current=False)
        self._app.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            task_create_missing_queues=True,
            task_publish_retry=False,
            task_send_sent_event=False,
            broker_transport_options={**transport_options(), "socket_timeout": 5},
        )
        self.shown_url = self._app.connection_for_write().as_uri()

    def depth(self, queue: str) -> int:
        """Count the messages that wait in a queue, without those that workers have received."""
        with self._client() as client:
            waiting: int = client.llen(queue)
        return waiting

    def send(self, queue: str, run_id: int) -> None:
        """Send one message, which holds one integer.

        Raises
        ------
        BrokerOutage
            The broker does not answer; the message may have been sent or not.
        """
        with self._outages():
            self._app.send_task(TASK_NAME, args=(run_id,), queue=queue, retry=False)

    def forget_gone_nodes(self) -> None:
        """Delete the lists of workers and monitors that were ever connected; those that are alive do not need them.

        Raises
        ------
        BrokerOutage
            The broker does not answer.
        """
        with self._client() as client:
            client.delete(*NODE_LISTS)

    def close(self) -> None:
        """Close every connection."""
        self._app.close()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with self._outages(), self._app.connection_for_write() as connection:
            yield connection.default_channel.client

    @contextmanager
    def _outages(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, KombuError, KombuOperationalError, OSError) as error:
            if isinstance(error, redis.ReadOnlyError) or isinstance(error.__cause__, redis.ReadOnlyError):
                raise BrokerOutage(
                    f"the broker {self.shown_url} is a read-only replica; "
                    "set BONESCREEN_BROKER_URL to the primary server, or promote this one"
                ) from error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BrokerOutage(f"the broker {self.shown_url} does not answer: {reason}") from error
