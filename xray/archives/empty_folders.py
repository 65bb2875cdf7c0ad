"""Empty folders: a mount point whose mount is away looks like one, and all its files seem to be missing."""

import os
from pathlib import PurePosixPath

from xray.archive_root import Root
from xray.archives.files import path_on_disk
from xray.dicomweb import DicomWebService


def empty_folder_above(root: Root, relative: str) -> str | None:
    """Return the innermost folder on a missing file's path that exists, if nothing is in it; a service has none.

    A folder that is removed or renamed with all that it holds leaves no empty folder; a mount that goes away does.

    Parameters
    ----------
    root : Path or DicomWebService
        The archive's root on this host.
    relative : str
        The path of a missing file or member below it, POSIX.

    Returns
    -------
    str or None
        The folder's path below the root; None if that folder holds something, or is the root itself.
    """
    if isinstance(root, DicomWebService):
        return None
    for folder in list(PurePosixPath(relative).parents)[:-1]:
        try:
            with os.scandir(path_on_disk(root, str(folder))) as entries:
                return None if any(True for _ in entries) else str(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
