"""Images in every kind of container that is read."""

import tarfile
import zipfile

import pytest

from tests.containers import IMAGES, tar_of, zip_of


@pytest.fixture(params=["stored.zip", "deflated.ZIP", "pax.tar", "gnu.tar", "ustar.TAR"])
def container(request, tmp_path):
    """Return a container of each kind."""
    path = tmp_path / request.param
    if path.suffix.lower() == ".zip":
        return zip_of(path, IMAGES, zipfile.ZIP_STORED if path.stem == "stored" else zipfile.ZIP_DEFLATED)
    forms = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
    return tar_of(path, IMAGES, forms[path.stem])
