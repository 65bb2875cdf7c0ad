"""What producer and worker must agree on: the task's name, its queue, and the timing of leases.

A message is ``screen_batch(run_id, batch_id)``: two integers. No path, patient or pixel enters the broker.
"""

TASK_NAME = "bonescreen.screen_batch"

PRECISION = "fp32"
"""The precision that both engines run a package in."""

LEASE_SECONDS = 30.0
"""How long a claim lives on the database's clock without being renewed."""

RENEW_SECONDS = 5.0
"""How often a worker renews its lease and reports its health."""

VISIBILITY_TIMEOUT_SECONDS = 3600
"""Redelivery by kombu is a bonus; the feeder owns recovery, so this only has to exceed a batch's time."""

DEFAULT_BATCH_SIZE = 256
"""Images a ledger batch holds; the engine's forward batch is another number."""

MAX_ATTEMPTS = 3
"""Workers that may vanish on one image before it is quarantined."""


def queue_name(digest: str, precision: str) -> str:
    """Name the queue of one model version, so that a worker never gets what it cannot run.

    Parameters
    ----------
    digest : str
        The model package's digest, hexadecimal.
    precision : str
        The network's precision, such as ``"fp32"``.
    """
    return f"screen.{digest[:16]}.{precision}"


def transport_options() -> dict[str, object]:
    """Return kombu's Redis transport options; producer and worker must use the same.

    kombu reads ``visibility_timeout`` from more than one place, so it is set alike in all of them.
    """
    return {
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
    }
