"""Read a multipart/related message of one part (RFC 2387), strictly: what is cut off or otherwise wrong is refused."""

import re
from email.message import Message

OVERHEAD_BYTES = 2**16
"""How many bytes a message of one part may have besides the part's content."""


class DamagedMessage(Exception):
    """A message is not what it has to be; the text says what its sender did, and has nothing of the message."""


def content_of(body: bytes, content_type: str, wanted: str) -> bytes:
    """Return the content of a message's only part.

    Parameters
    ----------
    body : bytes
        The message's body.
    content_type : str
        The message's header Content-Type. If it is `wanted` itself, the body is the content.
    wanted : str
        The part's media type, such as ``application/dicom``.

    Returns
    -------
    bytes

    Raises
    ------
    DamagedMessage
        The message has another type, no end, several parts or none, or its part has another type or length than it
        says.
    """
    kind = _header(content_type)
    if kind.get_content_type() == wanted:
        return body
    boundary = kind.get_boundary()
    if kind.get_content_type() != "multipart/related" or not boundary:
        raise DamagedMessage(f"sent {_media_type(content_type)} and not multipart/related")
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    start = 0 if body.startswith(delimiter) else body.find(b"\r\n" + delimiter, 0, OVERHEAD_BYTES) + 2
    # Searched from its end: pixels are long, and after them comes little.
    end = body.rfind(b"\r\n" + delimiter + b"--", max(0, len(body) - OVERHEAD_BYTES))
    if not body.startswith(delimiter, start) or end < 0:
        raise DamagedMessage("sent a message that ends too early")
    head_start = start + len(delimiter)
    head_end = body.find(b"\r\n\r\n", head_start, head_start + OVERHEAD_BYTES)
    if head_end < 0 or head_end > end:
        raise DamagedMessage("sent a message without a part")
    head = _headers(body[head_start:head_end])
    content = body[head_end + 4 : end]
    if b"\r\n" + delimiter in content:
        raise DamagedMessage("sent several parts, of which one was asked for")
    # RFC 2046 5.1: without a type, it would be a text.
    if _header(head.get("content-type", "")).get_content_type() != wanted:
        raise DamagedMessage(f"sent a part of {_media_type(head.get('content-type', ''))} and not of {wanted}")
    length = head.get("content-length")
    if length is not None and length != str(len(content)):
        raise DamagedMessage("sent a part that does not have the length that it says")
    return content


def _header(content_type: str) -> Message:
    message = Message()
    message["content-type"] = content_type
    return message


def _headers(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode("latin-1").splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in lines}


def _media_type(content_type: str) -> str:
    found = re.match(r"[a-z]+/[a-z0-9.+-]+", content_type.strip().lower())
    return found[0] if found else "something without a media type"
