"""Every error bonescreen raises on purpose.

::

    BonescreenError
    ├── UsageError           what was asked cannot be done as asked             (exit code 2)
    ├── PackageError         a model package is missing, damaged or not ours    (exit code 2)
    ├── TrainingFailure      a training run cannot go on: its loss is no number  (exit code 1)
    ├── TakenOver            another process goes on with this work              (exit code 1)
    ├── FileFault            one file is itself unreadable: becomes a failure with a reason code
    ├── ContainerFault       one zip or tar is damaged or over a cap: passed over whole, with its reason
    └── Outage               something around the work is away: hand back, wait, try again (exit code 1)
        ├── ArchiveOutage    an archive root is missing or unreadable
        ├── DatabaseOutage   the database does not answer
        ├── BrokerOutage     the broker does not answer
        ├── EngineOutage     the model cannot be loaded here, or its device broke
        └── StorageOutage    no space, or a file that must be writable is not

Caught only where an image, a batch or a command ends.
"""

from xray.vocabulary import Reason, SkipReason


class BonescreenError(Exception):
    """Base of all errors raised on purpose; its text is one line that a person can act on."""


class UsageError(BonescreenError):
    """What was asked cannot be done as asked; the text names the thing and the way out."""


class PackageError(BonescreenError):
    """A model package is missing, damaged, or fails its golden outputs."""


class TrainingFailure(BonescreenError):
    """A training run cannot go on: its loss is no longer a number."""


class TakenOver(BonescreenError):
    """Another process goes on with this work, as this one was silent for too long."""


class FileFault(BonescreenError):
    """One file cannot be read as a radiograph; its neighbours are not affected.

    Parameters
    ----------
    reason : Reason
        The code stored with the failure.
    detail : str
        One line for a person; never holds a path, as it may be logged.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class ContainerFault(BonescreenError):
    """A zip or tar cannot be listed whole, so nothing of it is taken; its neighbours are not affected.

    Parameters
    ----------
    reason : SkipReason
        What to count it under.
    detail : str
        One line for a person; never holds a path or a member's name, as it may be logged.
    """

    def __init__(self, reason: SkipReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Outage(BonescreenError):
    """Something around the work is away. Nothing is marked failed because of it."""


class ArchiveOutage(Outage):
    """An archive root is missing, empty or unreadable on this host."""


class DatabaseOutage(Outage):
    """The database does not answer."""


class BrokerOutage(Outage):
    """The broker does not answer."""


class EngineOutage(Outage):
    """The model cannot be loaded on this host, or the device it ran on broke."""


class StorageOutage(Outage):
    """The disk or the memory is full, or a place that must be writable is not."""
