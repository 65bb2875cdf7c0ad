"""The science: words, message, studies, pixels, network, engines, CAM, metrics and model packages."""

import sys
from typing import Any, cast

# `import openvino` alone sends a usage event unless this package is absent; nothing here phones home.
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
