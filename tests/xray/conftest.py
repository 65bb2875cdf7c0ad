"""Real model packages: a tiny one, and the one that ships."""

from pathlib import Path

import pytest

from tests.tiny import write_tiny_package
from xray.network.package import ModelPackage, load_package


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """Write a real model package, small enough for tests."""
    return write_tiny_package(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def shipped_package() -> ModelPackage:
    """Load the model package that is part of the product."""
    return load_package("fracture-5")


@pytest.fixture(scope="session")
def graph_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Share derived OpenVINO graphs among tests that leave them alone."""
    return tmp_path_factory.mktemp("graphs")
