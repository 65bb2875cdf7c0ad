"""The engine for tests that screen in this process."""

import pytest

from xray.network.engine import Engine
from xray.network.open_engine import open_engine
from xray.network.package import ModelPackage


@pytest.fixture(scope="session")
def engine(tiny_package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The tiny network on one thread."""
    return open_engine(tiny_package, "openvino", tmp_path_factory.mktemp("graphs"), threads=1)
