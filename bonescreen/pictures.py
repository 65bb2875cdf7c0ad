"""What a picture of a screened image is made of: its file, as it was screened, its CAM, and its model package."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from db.queries import ImageRow, Study
from xray.archive_root import Root
from xray.errors import ArchiveOutage, PackageError, UsageError
from xray.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xray.network.package import ModelPackage


class ChangedFile(Exception):
    """The file is not the same as when it was screened."""


def find_package(study: Study, settings: Settings) -> "ModelPackage":
    """Find the model package that a study was screened with.

    Raises
    ------
    UsageError
        It is not installed here.
    """
    package = package_of(settings, study.digest)
    if package is None:
        raise UsageError(
            f"run {study.row.run} was made with {study.row.model} (digest {study.digest[:12]}), which is not installed "
            "here; set BONESCREEN_MODEL to its folder"
        )
    return package


def package_of(settings: Settings, digest: str) -> "ModelPackage | None":
    """Return the model package of a digest, the configured one or one that is installed; None if neither has it."""
    try:
        return _load(settings.model, digest)
    except PackageError:
        return None


@lru_cache(maxsize=8)
def _load(configured: str, digest: str) -> "ModelPackage":
    """Load the package of a digest, once in a process, as the digests of all its files are checked."""
    from xray.network.package import installed_packages, load_package

    for name in dict.fromkeys((configured, *installed_packages())):
        try:
            package = load_package(name)
        except PackageError:
            continue
        if package.digest == digest:
            return package
    raise PackageError(f"no package here has the digest {digest}")


def read_screened(image: ImageRow, roots: Mapping[str, Root]) -> bytes:
    """Read the file of an image, as it was screened.

    Parameters
    ----------
    image : ImageRow
    roots : mapping of str to Path or DicomWebService
        The archives' roots on this host, by name.

    Raises
    ------
    ChangedFile
        Its content is another than when it was screened.
    FileFault
        It cannot be read any more.
    ArchiveOutage
        Its archive has no root on this host, or does not answer.
    """
    data = read_file(image, roots)
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise ChangedFile
    return data


def read_file(image: ImageRow, roots: Mapping[str, Root]) -> bytes:
    """Read the file that an image is in now, which may never have been readable as an image.

    Raises
    ------
    FileFault, ArchiveOutage
        As `read_screened`.
    """
    from xray.archives.files import read_image_file

    if image.archive not in roots:
        raise ArchiveOutage(f"the archive {image.archive} has no root on this host; set BONESCREEN_ARCHIVES")
    return read_image_file(roots[image.archive], image.image)


def read_gray(image: ImageRow, roots: Mapping[str, Root]) -> "NDArray[np.uint8]":
    """Read and decode the file of an image that was screened: ``uint8 (H, W)``.

    Raises
    ------
    ChangedFile, FileFault, ArchiveOutage
        As `read_screened`.
    """
    from xray.images.decode import decode

    return decode(read_screened(image, roots))


def cam_of(image: ImageRow) -> "NDArray[np.float32]":
    """Return the class activation map of an image that has a prediction, float32 (h, w), in units of the logit."""
    import numpy as np

    return np.frombuffer(image.cam or b"", "<f2").astype(np.float32).reshape(image.cam_shape or (0, 0))
