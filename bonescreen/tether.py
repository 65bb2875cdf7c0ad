"""``python -m bonescreen.tether PID COMMAND...``: run a command that dies with the process PID that started it.

A supervisor killed outright cannot stop what it started. Linux can.
"""

import os
import sys

from worker.orphan import end_with_parent


def main() -> None:
    """Tie this process to its parent and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    end_with_parent()
    if os.getppid() != parent:
        sys.exit("the supervisor is gone already")
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
