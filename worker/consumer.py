"""The worker's end of a queue: a message that is not ours is refused, acknowledged and logged, and never runs.

Celery's own consumer stops with an error at some malformed messages, and kombu puts such a message back into the queue:
one of them would stop every worker for ever. So Celery sees only messages that are rewritten from the two values that
count, the id and the run's number.
"""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

from celery.app.amqp import AMQP
from celery.worker.consumer import Consumer
from kombu.connection import Connection
from kombu.transport.redis import Channel, Transport
from redis import DataError

from xray.message import TASK_NAME

log = logging.getLogger(__name__)

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DataError)
"""What kombu raises at a queue's entry that is not a message."""


class StrictConsumer(Consumer):  # type: ignore[misc]
    """A Celery consumer that acknowledges and drops every message but the feeder's."""

    def create_task_handler(self, *arguments: Any, **named: Any) -> Callable[[Any], None]:
        """Return the function that is called with each message."""
        accept = super().create_task_handler(*arguments, **named)

        def receive(message: Any) -> None:
            try:
                _rewrite(message)
            except (*MALFORMED, OverflowError) as error:
                log.warning("a message was refused: it is not one of the feeder's (%s)", type(error).__name__)
                message.ack_log_error(log, self.connection_errors)
            else:
                accept(message)

        return receive

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Refuse a message whose body kombu cannot decode; Celery would write its content to the log."""
        log.warning("a message was refused: it cannot be decoded (%s)", type(exc).__name__)
        message.ack_log_error(log, self.connection_errors)


def _rewrite(message: Any) -> None:
    """Keep of a message only the task's id and the run's number; in version 2 of Celery's protocol.

    Raises
    ------
    ValueError
        It is not ``screen_batches(run_id)``, to be run now; or another of the errors that parsing it raises.
    """
    headers = message.headers
    task_id, (positional, named, _) = headers["id"], json.loads(message.body)
    (run_id,) = positional
    if headers["task"] != TASK_NAME or headers.get("eta") or headers.get("expires"):
        raise ValueError("another task, or for another time")
    if named != {} or type(run_id) is not int or re.fullmatch(r"[\w-]{1,64}", task_id) is None:
        raise ValueError("other arguments")
    message.headers = {
        "lang": "py", "task": TASK_NAME, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
        "shadow": None, "eta": None, "expires": None, "retries": 0, "timelimit": [None, None],
        "argsrepr": f"({run_id},)", "kwargsrepr": "{}",
    }  # fmt: skip
    message.body = json.dumps([[run_id], {}, {}]).encode()
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.properties = {"delivery_tag": message.delivery_tag, "correlation_id": task_id}
    message.delivery_info = {"exchange": "", "routing_key": "", "priority": 0}


class _StrictChannel(Channel):
    """A channel that drops what is not a message at all; kombu has taken it from the queue by then."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except MALFORMED as error:
            log.warning("a message was refused: it has no envelope (%s)", type(error).__name__)
            return True

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        # Remote control commands, such as Flower's, and events: an error here would end the worker.
        try:
            super()._deliver_fanout_message(message, exchange)  # type: ignore[no-untyped-call]
        except MALFORMED as error:
            log.warning("a remote control message was refused: it has no envelope (%s)", type(error).__name__)
        return True


class _StrictTransport(Transport):
    Channel = _StrictChannel


class _StrictConnection(Connection):
    def get_transport_cls(self) -> type[Transport]:
        return _StrictTransport


class StrictAMQP(AMQP):  # type: ignore[misc]
    """Connects workers through a channel that survives any content of a queue."""

    Connection = _StrictConnection
