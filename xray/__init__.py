"""Shared code: vocabulary, settings, archives, images, and the network with its packages."""

import sys
from typing import Any, cast

# `import openvino` alone sends a usage event unless this package is absent; bonescreen sends no telemetry.
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
