"""What producer and worker must agree on: the name of the task, its queue, and the timing of leases.

A message is ``screen_batches(run_id)``: it wakes a worker up, which claims the next batch in the database itself. The
run's number is for people who watch. The broker never contains file paths, patient data or image data.
"""

TASK_NAME = "bonescreen.screen_batches"

LEASE_SECONDS = 30.0
"""How long a lease is valid without being renewed, by the database's clock."""

RENEW_SECONDS = 5.0
"""How often a worker renews its lease and reports its health."""

VISIBILITY_TIMEOUT_SECONDS = 3600
"""Longer than a task is in work. One that waits for its hours may take longer: its message then comes again, which does
no harm. It is the feeder, not redelivery by kombu, that makes up for lost messages."""

DEFAULT_BATCH_SIZE = 1024
"""Images in a batch at most; the engine's batch size is a different number."""

MAX_ATTEMPTS = 3
"""How often a worker may vanish with an image, or not be able to load it, before it is quarantined."""


def queue_name(digest: str, precision: str) -> str:
    """Return the queue of one model version, so that workers get only batches that they can run.

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

    kombu reads ``visibility_timeout`` from more than one place, and it must be the same in each.
    """
    return {
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
    }
