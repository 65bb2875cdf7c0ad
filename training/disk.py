"""Files that a long run leaves behind: whole or not at all, and room for them looked for before hours are spent."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from xray.errors import StorageOutage


def require_room(path: Path, size: int) -> None:
    """Refuse to begin a file for which the disk has no room.

    Parameters
    ----------
    path : Path
        Where the file will be; its folder exists.
    size : int
        Bytes it will take.

    Raises
    ------
    StorageOutage
        If less is free; says how much is missing.
    """
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise StorageOutage(
            f"{path.parent} has {_bytes(free)} free and {_bytes(size)} are needed: free some, or choose another folder"
        )


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file that is there whole, or not at all, after a crash too.

    Parameters
    ----------
    path : Path
        The file; one that is there is replaced.
    content : bytes or callable
        What to write, or what is given the open file to write it.

    Raises
    ------
    StorageOutage
        If it cannot be written, as when the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError as error:
        raise StorageOutage(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _bytes(size: int) -> str:
    # To tenths, so that what is free and what is needed are seldom written alike.
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
