"""Files that a long run writes: atomic writes, disk space reserved in advance, and CSV tables."""

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


def make_folder(path: Path) -> None:
    """Create a folder, and check that it can be written to before time is spent on what goes into it.

    Raises
    ------
    UsageError
        If it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(
            f"cannot write to the folder {path} ({error.strerror or error}): choose a different one"
        ) from error


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that after a crash it is either complete or as it was before.

    Parameters
    ----------
    path : Path
        The file; an existing one is replaced.
    content : bytes or callable
        The content, or a function that writes it to the open file.

    Raises
    ------
    StorageOutage
        If it cannot be written, for example because the disk is full.
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


def mapped_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    """Create a ``.npy`` file of zeros, or open an existing one, and map it into memory for writing.

    Its disk space is reserved at once, because a process that writes to a mapping on a full disk is killed without a
    message.

    Parameters
    ----------
    path : Path
        The file, in an existing folder.
    dtype : DTypeLike
        Type of the array.
    shape : tuple of int
        Shape of the array.

    Returns
    -------
    ndarray of dtype, shape
        Mapped from the file.

    Raises
    ------
    StorageOutage
        If the disk does not have enough space; the message says how much is needed, and the file is deleted.
    """
    try:
        mapped = open_memmap(path, mode="r+" if path.exists() else "w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        free, size = shutil.disk_usage(path.parent).free, math.prod(shape) * np.dtype(dtype).itemsize
        path.unlink(missing_ok=True)
        raise StorageOutage(
            f"{path.parent} has {_size_text(free)} free and {_size_text(size)} are needed "
            f"({error.strerror or error}): free some space, or choose a different folder"
        ) from error
    return mapped


def read_table(table: Path, columns: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file with named columns.

    Parameters
    ----------
    table : Path
        The file, UTF-8.
    columns : collection of str
        Columns that it must have; others are read too.

    Returns
    -------
    list of tuple of int and dict
        Line number and record; a missing cell is an empty string.

    Raises
    ------
    UsageError
        If the file cannot be read or lacks a column.
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
    """Return CSV text with LF line ends that :func:`read_table` can read."""
    return "".join(f"{_csv_line(row)}\n" for row in (columns, *rows))


def _csv_line(row: Sequence[str]) -> str:
    # A csv writer quotes the characters of its own line end. With "\n" it would leave a carriage return unquoted.
    text = io.StringIO(newline="")
    csv.writer(text).writerow(row)
    return text.getvalue().removesuffix("\r\n")


def _size_text(size: int) -> str:
    # One decimal, so that free and needed space seldom look equal.
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
