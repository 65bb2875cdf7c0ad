"""Folders that held images at the last scan and are empty now, as a mount point is whose mount is away."""

from collections import Counter
from pathlib import PurePosixPath

from db.merge import paths_not_found
from db.scans import Scan, folders_found_empty
from db.session import Database
from xray.archive_root import Root
from xray.archives.empty_folders import empty_folder_above


def emptied_folders(database: Database, scan: Scan, root: Root) -> set[str]:
    """Return the folders that held several images and are empty, unless the archive's last scan found them empty too.

    The images of the returned ones are not gone yet: with the mount they come back. If somebody emptied a folder on
    purpose, the next scan sees it empty for the second time. One image may well be deleted from its folder.

    Parameters
    ----------
    database : Database
    scan : Scan
        A scan whose files are merged.
    root : Path or DicomWebService
        The archive's root; a service has no folders.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    lost: Counter[str] = Counter()
    last = above = None
    for path in paths_not_found(database, scan):
        # Paths come nearly in order, and all that are missing below a folder that is empty lead to it.
        if (parent := PurePosixPath(path).parent) != last:
            last, above = parent, empty_folder_above(root, path)
        if above is not None:
            lost[above] += 1
    several = {folder for folder, images in lost.items() if images > 1}
    return several - folders_found_empty(database, scan.archive_id)
