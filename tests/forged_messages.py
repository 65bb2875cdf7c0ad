"""Messages that are not the feeder's: malformed ones, and well-formed ones of another sender."""

import base64
import json
from typing import Any

import redis

from producer.transport import Transport
from xray.message import TASK_NAME


def genuine(queue: str, broker_url: str, client: redis.Redis) -> dict[str, Any]:
    """Return a message as the feeder sends it, decoded: sent to another queue, and removed from that one."""
    transport = Transport(broker_url)
    transport.send(f"{queue}.unused", 1)
    transport.close()
    message: dict[str, Any] = json.loads(client.rpop(f"{queue}.unused"))
    return message


def body(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def forged(message: dict[str, Any]) -> list[bytes]:
    """Return malformed messages, and well-formed ones of another sender."""
    headers, properties = message["headers"], message["properties"]
    changed: list[object] = [
        {**message, "body": "%%%"},
        {**message, "body": "%%%", "properties": {**properties, "body_encoding": None}},
        {**message, "body": ""},
        {**message, "body": body([["1; DROP TABLE"], {}, {}])},
        {**message, "body": body([[1, 2], {}, {}])},
        {**message, "body": body([[True], {}, {}])},
        {**message, "body": body([[1], {"x": 1}, {}])},
        {**message, "body": base64.b64encode(b"[" * 100_000).decode()},
        {**message, "content-type": "application/x-python-serialize"},
        {**message, "content-encoding": "no such encoding"},
        {**message, "headers": {}},
        {**message, "headers": None},
        {**message, "headers": {**headers, "task": "os.system"}},
        {**message, "headers": {**headers, "task": ["a", "list"]}},
        {**message, "headers": {**headers, "id": None}},
        {**message, "headers": {**headers, "eta": "never"}},
        {**message, "headers": {**headers, "expires": "2020-01-01T00:00:00"}},
        {**message, "headers": {**headers, "timelimit": "soon"}},
        {**message, "headers": {**headers, "retries": "many", "errbacks": 7, "root_id": {}}},
        {**message, "headers": {**headers, "compression": "application/x-bz2"}},
        {**message, "properties": {}},
        {**message, "properties": None},
        {**message, "properties": {**properties, "delivery_tag": {"a": 1}}},
        {**message, "properties": {**properties, "delivery_info": 7}},
        {"task": TASK_NAME, "id": "1", "args": [1], "kwargs": {}},
        [],
        7,
        None,
    ]
    return [json.dumps(one).encode() for one in changed] + [b"", b"%%%", b"\xff\xfe", b"[" * 100_000]
