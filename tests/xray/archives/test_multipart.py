"""Only a whole message of one part of the right type gives content; nothing else is taken for it."""

import pytest

from xray.archives.multipart import DamagedMessage, content_of

TYPE = 'multipart/related; type="application/dicom"; boundary="b-1"'
CONTENT = b"\r\n--b-2\r\n\x00\xff" * 50
PART = b"Content-Type: application/dicom\r\nContent-Length: %d\r\n\r\n" % len(CONTENT)


def message(start: bytes = b"", head: bytes = PART, content: bytes = CONTENT, end: bytes = b"\r\n--b-1--\r\n") -> bytes:
    return start + b"--b-1\r\n" + head + content + end


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (message(), TYPE),
        (message(start=b"\r\n"), TYPE),
        (message(start=b"preamble\r\n"), "Multipart/Related;boundary=b-1"),
        (message(head=b"content-type:application/dicom; transfer-syntax=1.2\r\n\r\n"), TYPE),
        (message(end=b"\r\n--b-1--"), TYPE),
        (CONTENT, "application/dicom"),
    ],
)
def test_the_content_of_the_only_part_is_as_it_was_sent(body: bytes, content_type: str) -> None:
    assert content_of(body, content_type, "application/dicom") == CONTENT


@pytest.mark.parametrize("kept", [0, 3, 20, 80, 300, len(message()) - 5, len(message()) - 12])
def test_a_message_that_was_cut_off_anywhere_is_refused(kept: int) -> None:
    with pytest.raises(DamagedMessage):
        content_of(message()[:kept], TYPE, "application/dicom")


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (message(), "text/html; charset=utf-8", "text/html"),
        (message(), "", "without a media type"),
        (message(), "multipart/related", "multipart/related"),
        (message(head=b"Content-Type: text/html\r\n\r\n"), TYPE, "a part of text/html"),
        (message(head=b"X: y\r\n\r\n"), TYPE, "not of application/dicom"),
        (message(content=CONTENT[1:]), TYPE, "length"),
        (message(end=b"") + b"\r\n" + message(), TYPE, "several parts"),
        (b"--b-1--\r\n", TYPE, "ends too early"),
    ],
)
def test_a_message_of_another_form_is_refused_with_what_it_is(body: bytes, content_type: str, said: str) -> None:
    with pytest.raises(DamagedMessage, match=said):
        content_of(body, content_type, "application/dicom")
