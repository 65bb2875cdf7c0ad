"""Files that a long run leaves behind: whole or not at all, and room for them looked for before hours are spent."""

import csv
import io
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike

from xray.errors import StorageOutage, UsageError


def mapped_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    """Make a ``.npy`` file of zeros, or open the one that is there, and map it for writing.

    Its room is taken at once: a disk that fills up while a mapping is written kills the process without a word.

    Parameters
    ----------
    path : Path
        The file, in a folder that exists.
    dtype : DTypeLike
        Of the array.
    shape : tuple of int
        Of the array, any.

    Returns
    -------
    ndarray of dtype, shape
        Mapped from the file.

    Raises
    ------
    StorageOutage
        If the disk has no room for it; says how much is needed. The file is deleted.
    """
    try:
        mapped = open_memmap(path, mode="r+" if path.exists() else "w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        free, size = shutil.disk_usage(path.parent).free, math.prod(shape) * np.dtype(dtype).itemsize
        path.unlink(missing_ok=True)
        raise StorageOutage(
            f"{path.parent} has {_bytes(free)} free and {_bytes(size)} are needed "
            f"({error.strerror or error}): free some, or choose another folder"
        ) from error
    return mapped


def make_folder(path: Path) -> None:
    """Make a folder that can be written to, before what is to go into it costs time.

    Raises
    ------
    UsageError
        If it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(
            f"{path} cannot be a folder to write to ({error.strerror or error}): choose another"
        ) from error


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


def read_table(table: Path, columns: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file with named columns.

    Returns
    -------
    list of tuple
        Line number and record, a missing cell as an empty string.

    Raises
    ------
    UsageError
        If the file cannot be read, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(f"{table} has no column {', '.join(missing)}")
            return [(reader.line_num, record) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table} cannot be read: {error}") from error


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return CSV text that :func:`read_table` reads again, line by line ended by a line feed."""
    return "".join(f"{_line(row)}\n" for row in (columns, *rows))


def _line(row: Sequence[str]) -> str:
    # A writer quotes the characters that end its lines: written with a line feed alone, a carriage return stays bare.
    text = io.StringIO(newline="")
    csv.writer(text).writerow(row)
    return text.getvalue().removesuffix("\r\n")
