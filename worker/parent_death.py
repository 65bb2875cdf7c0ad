"""A process that nobody would ever end again ends with its parent."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies; it survives `exec`, and does nothing outside Linux.

    SIGKILL, as a polite end waits: Celery's for a batch that may be waiting for an outage to pass, the broker's
    in the way of its successor. The ledger takes back what was in work.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Tie this process to its parent and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    die_with_parent()
    if os.getppid() != parent:
        sys.exit("the supervisor is gone already")
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
