"""The command line in processes of its own, as people start it."""

import subprocess
import sys
from collections.abc import Mapping

from tests.awaiting import PATIENCE

BONESCREEN = (sys.executable, "-m", "bonescreen")


def run(environ: Mapping[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [*BONESCREEN, *map(str, arguments)]
    return subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=120 * PATIENCE)
