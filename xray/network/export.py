"""``python -m xray.network.export PACKAGE OUT``: derive a package's OpenVINO graph from its weights.

Run with ``KERAS_BACKEND=openvino``, where Keras itself writes the graph and TensorFlow is not needed. It is a process
of its own because a process has one Keras backend, and because a worker need not keep Keras in memory.
"""

import sys
from pathlib import Path

import keras

from xray.errors import BonescreenError, UsageError
from xray.network.builder import load_network
from xray.network.package import load_package


def export_graph(package_path: Path, out: Path) -> None:
    """Write a package's network as an OpenVINO graph, float32.

    Parameters
    ----------
    package_path : Path
        The model package.
    out : Path
        The ``.xml`` to write; its ``.bin`` goes beside it.

    Raises
    ------
    UsageError
        If Keras' backend is not OpenVINO.
    PackageError
        If the package is damaged.
    """
    if keras.backend.backend() != "openvino":
        raise UsageError("xray.network.export needs KERAS_BACKEND=openvino")
    load_network(load_package(package_path)).export(str(out), format="openvino", verbose=False)


if __name__ == "__main__":
    try:
        export_graph(Path(sys.argv[1]), Path(sys.argv[2]))
    except BonescreenError as error:
        sys.exit(str(error))
