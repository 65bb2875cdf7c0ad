"""Real model packages, a tiny one and the one that ships, and films in every kind of container."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.containers import FILMS, tar_of, zip_of
from tests.tiny import write_tiny_package
from xray.network.package import ModelPackage, load_package


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """Write a real model package, small enough for tests."""
    return write_tiny_package(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def shipped_package() -> ModelPackage:
    """Load the model package that is part of the product."""
    return load_package("fracture-3")


@pytest.fixture(scope="session")
def graph_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Share derived OpenVINO graphs among tests that leave them alone."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(params=["stored.zip", "deflated.ZIP", "pax.tar", "gnu.tar", "ustar.TAR"])
def container(request, tmp_path):
    """Films in each kind of container that is read."""
    path = tmp_path / request.param
    if path.suffix.lower() == ".zip":
        return zip_of(path, FILMS, zipfile.ZIP_STORED if path.stem == "stored" else zipfile.ZIP_DEFLATED)
    forms = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
    return tar_of(path, FILMS, forms[path.stem])
