"""What a zip's or a tar's directory says of its members, and which of their names may be used."""

import re
from dataclasses import dataclass, field
from enum import Enum

from xray.errors import ContainerFault
from xray.studies import MAX_PATH_BYTES, SkipReason, is_hidden

MAX_MEMBERS = 200_000
"""Members a container may have. One takes 336 bytes of an index that is kept, and 870 while a zip's is made (measured
with MURA's names): 67 and 173 MB at the cap."""

MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
"""Bytes that a container's names may take, and a zip's whole directory."""

ZIP_SUFFIX = ".zip"
TAR_SUFFIX = ".tar"
_COMPRESSED_TAR = re.compile(r"\.(tar\.[a-z0-9]{1,5}|tgz|taz|tbz|tbz2|tb2|tz2|txz|tlz|tzst)\Z", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


class Packing(Enum):
    """How a member's bytes lie in its container."""

    STORED = "stored"
    DEFLATED = "deflated"
    ENCRYPTED = "encrypted"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a member lies, and what it should be.

    Parameters
    ----------
    offset : int
        Bytes into the container: of the local header in a zip, of the content in a tar.
    packed, size : int
        Bytes in the container, and unpacked.
    stamp_ns : int
        The member's version, nanoseconds since 1970, within 64 bits.
    packing : Packing
        How to read it.
    crc : int or None
        CRC-32 of the content; None in a tar, which has none.
    """

    offset: int
    packed: int
    size: int
    stamp_ns: int
    packing: Packing
    crc: int | None


@dataclass(slots=True)
class Index:
    """A container's directory; changed by nobody once it is read.

    Parameters
    ----------
    members : dict of str to Entry
        By normalised path.
    passed : list of (str, SkipReason)
        What is passed over: names for a person to read, and why.
    """

    members: dict[str, Entry] = field(default_factory=dict)
    passed: list[tuple[str, SkipReason]] = field(default_factory=list)
    _name_bytes: int = 0

    def add(self, name: str, entry: Entry | SkipReason) -> None:
        """Take in a member that is no folder, or the reason why its kind is passed over.

        Of a name that comes twice the last one counts, as it would once unpacked.

        Raises
        ------
        ContainerFault
            The container is over a cap.
        """
        self._name_bytes += len(name)
        if self._name_bytes > MAX_DIRECTORY_BYTES:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"its names take over {MAX_DIRECTORY_BYTES:,} bytes")
        if len(self.members) + len(self.passed) == MAX_MEMBERS:
            raise ContainerFault(SkipReason.CONTAINER_TOO_LARGE, f"it has over {MAX_MEMBERS:,} members")
        path = normalised(name)
        if isinstance(path, SkipReason):
            self.passed.append((printable(name), path))
        elif isinstance(entry, SkipReason):
            self.passed.append((printable(path), entry))
        else:
            if path in self.members:
                self.passed.append((printable(path), SkipReason.DUPLICATE_NAME))
            self.members[path] = entry


def is_container(name: str) -> bool:
    """Tell by its name whether a file is read like a folder: a zip or an uncompressed tar."""
    return name.lower().endswith((ZIP_SUFFIX, TAR_SUFFIX))


def is_compressed_tar(name: str) -> bool:
    """Tell by its name whether a file is a compressed tar, which could only be read from its start."""
    return _COMPRESSED_TAR.search(name) is not None


def normalised(name: str) -> str | SkipReason:
    r"""Return a member's path below its container, or why there is none.

    ``\`` separates folders as ``/`` does, empty and ``.`` components fall away.
    """
    unified = name.replace("\\", "/")
    parts = [part for part in unified.split("/") if part not in ("", ".")]
    if not parts or unified.startswith("/") or ".." in parts or _DRIVE.match(parts[0]):
        return SkipReason.OUTSIDE_ARCHIVE
    if "\0" in name:
        return SkipReason.IMPOSSIBLE_NAME
    path = "/".join(parts)
    if len(path.encode(errors="surrogateescape")) > MAX_PATH_BYTES:
        return SkipReason.PATH_TOO_LONG
    if (is_container(path) or is_compressed_tar(path)) and not any(map(is_hidden, parts)):
        return SkipReason.NESTED_CONTAINER
    return path


def printable(name: str) -> str:
    r"""Return a name for a person, cut where no path is as long: what is no text is written out as ``\xNN``."""
    text = name[:MAX_PATH_BYTES].encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
