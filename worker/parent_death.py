"""Have a process killed when its parent dies, so that no worker, feeder or broker is left running unsupervised.

``python -m worker.parent_death PARENT_PID COMMAND...`` runs a command like this.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; survives `exec`, and does nothing outside Linux.

    The signal is SIGKILL, as a warm shutdown would take too long: Celery's waits for the batch in work, which may be
    waiting for an outage to end, and the broker's would block the broker that replaces it. The feeder recovers the
    batch.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Tie this process to its parent, then replace it by the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    die_with_parent()
    if os.getppid() != parent:
        sys.exit("the supervisor is gone already")
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
