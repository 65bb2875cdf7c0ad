"""Files that only their owner may read, as they show or name patients, and that are there whole or not at all."""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xray.archive_root import Root
from xray.errors import StorageOutage, UsageError


def check_target(path: Path) -> None:
    """Check that a file may be written, before time is spent on what goes into it.

    Raises
    ------
    UsageError
        Its folder does not exist, or something other than a file has its name.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise UsageError(f"the folder {path.parent} does not exist; make it, or choose a different one") from None
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose a different file") from error
    if not stat.S_ISREG(mode):
        # A device or a link such as /dev/stdout would be replaced by the file.
        raise UsageError(f"{path} is not a file; choose a different one")


def check_output_folder(folder: Path, roots: Mapping[str, Root], harm: str) -> None:
    """Check that files may be written below a folder, which need not exist.

    Parameters
    ----------
    folder : Path
    roots : mapping of str to Path or DicomWebService
        The archives' roots on this host, by name.
    harm : str
        What an archive's next scan would do with the files: ``"take the pictures for radiographs"``.

    Raises
    ------
    UsageError
        It is in an archive, or something other than a folder has its name or that of one above it.
    """
    # Unlike Path.resolve, realpath accepts a link to itself.
    real = Path(os.path.realpath(folder))
    for name, root in roots.items():
        if isinstance(root, Path) and real.is_relative_to(os.path.realpath(root)):
            raise UsageError(
                f"{folder} is in the archive {name}: its next scan would {harm}; choose a different folder"
            )
    for each in (folder, *folder.parents):
        if os.path.lexists(each):
            if not each.is_dir():
                raise UsageError(f"{each} is not a folder; choose a different one")
            return


@contextmanager
def open_private(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes a name's place when everything is written; without that, it is removed again.

    Parameters
    ----------
    path : Path
        An existing file or link is replaced, so neither its rights are kept nor the link followed.

    Raises
    ------
    StorageOutage
        It cannot be written, for example because the disk is full.
    """
    try:
        # The name is short, whatever the file's own is, and its rights are 0600 from the beginning.
        descriptor, partial = tempfile.mkstemp(prefix=".bonescreen-", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _outage(path, error) from error
    try:
        try:
            # Closing writes what is still held, so a full disk may be met there, for the first time or again.
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise _outage(path, error) from error
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def make_private_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user only.

    Raises
    ------
    StorageOutage
        One cannot be made.
    """
    try:
        for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _outage(folder, error) from error


def _outage(path: Path, error: OSError) -> StorageOutage:
    return StorageOutage(f"{path} cannot be written: {error.strerror or error}")
