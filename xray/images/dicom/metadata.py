"""A DICOM file of nothing but a header, from metadata in the DICOM JSON model (PS3.18 annex F).

So what a header means is decided in one place, `xray.images.dicom.header`, wherever it comes from.
"""

import io
from collections.abc import Mapping
from typing import Any, BinaryIO

from xray.images.dicom import tags
from xray.images.dicom.data_set import ITEM, MAX_ITEMS, MAX_VALUE_BYTES
from xray.images.dicom.header import IMPLICIT

UTF8 = "ISO_IR 192"
"""The character set of JSON, as Specific Character Set (0008,0005) names it."""

_SELECTED = {**tags.HEADER_ELEMENTS, **tags.RADIOGRAPH_CHECK_ELEMENTS}


def header_file(metadata: Mapping[str, Any]) -> BinaryIO:
    """Return a file that `xray.images.dicom.header.read_header` takes.

    Metadata leave the pixels out, so that they cannot tell whether there are any: the file has an empty Pixel Data
    element.

    Parameters
    ----------
    metadata : mapping of str to Any
        Elements by their tags as eight hexadecimal digits. Whatever is not as the model says is left out.
    """
    syntax = IMPLICIT.encode() + b"\0" * (len(IMPLICIT) % 2)
    meta = b"\x02\x00\x10\x00UI" + len(syntax).to_bytes(2, "little") + syntax
    text = dict(metadata) | {f"{tags.SPECIFIC_CHARACTER_SET:08X}": {"vr": "CS", "Value": [UTF8]}}
    return io.BytesIO(bytes(128) + b"DICM" + meta + _data_set(text, _SELECTED) + _element(tags.PIXEL_DATA, b""))


def _data_set(metadata: Mapping[str, Any], selected: Mapping[int, frozenset[int]]) -> bytes:
    """Encode the selected elements: Implicit VR Little Endian, as no VR has to be known for it."""
    return b"".join(
        _element(tag, _sequence(values, nested) if nested else _text(values))
        for tag, nested in sorted(selected.items())
        if (values := _values(metadata.get(f"{tag:08X}")))
    )


def _values(element: Any) -> list[Any]:
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _sequence(items: list[Any], nested: frozenset[int]) -> bytes:
    encoded = (_data_set(item, dict.fromkeys(nested, frozenset[int]())) for item in items if isinstance(item, dict))
    return b"".join(_element(ITEM, item) for _, item in zip(range(MAX_ITEMS), encoded, strict=False))


def _text(values: list[Any]) -> bytes:
    value = "\\".join(map(_one_text, values)).encode(errors="replace")
    value = value if len(value) < MAX_VALUE_BYTES else b""
    return value + b" " * (len(value) % 2)


def _one_text(value: Any) -> str:
    if isinstance(value, dict):
        # The groups of a person's name (PS3.5 6.2.1).
        groups = (value.get(name) for name in ("Alphabetic", "Ideographic", "Phonetic"))
        return "=".join(group if isinstance(group, str) else "" for group in groups).rstrip("=")
    return str(value) if isinstance(value, str | int | float) else ""


def _element(tag: int, value: bytes) -> bytes:
    head = b"".join(number.to_bytes(2, "little") for number in (tag >> 16, tag & 0xFFFF))
    return head + len(value).to_bytes(4, "little") + value
