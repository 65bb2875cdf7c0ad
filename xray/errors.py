"""The errors that bonescreen raises.

::

    BonescreenError
    ├── UsageError           the user must change the command or a setting      (exit code 2)
    │   └── MissingExtra     a part of bonescreen is not installed
    ├── PackageError         a model package is missing, damaged or foreign     (exit code 2)
    ├── TrainingFailure      the loss of a training run is not a number         (exit code 1)
    ├── TakenOver            another process has taken over this work           (exit code 1)
    ├── FileFault            one file is unreadable: it becomes a failure with a reason code
    ├── ContainerFault       one zip or tar is damaged or over a cap: it is skipped with a reason
    └── Outage               something that the work needs is unavailable: wait and try again (exit code 1)
        ├── ArchiveOutage    an archive root is missing or unreadable
        ├── DatabaseOutage   the database does not answer
        ├── BrokerOutage     the broker does not answer
        ├── EngineOutage     the model cannot be loaded on this host, or its device failed
        └── StorageOutage    there is no space, or a file cannot be written

They are caught only where the work on an image, on a batch or for a command ends.
"""

from xray.vocabulary import Reason, SkipReason


class BonescreenError(Exception):
    """Base of all errors of bonescreen; the text is one line that says what to do next."""


class UsageError(BonescreenError):
    """The user must change the command or a setting; the text names it and says what to do next."""


class MissingExtra(UsageError):
    """A library of an optional part of bonescreen is not installed.

    Parameters
    ----------
    need : str
        What needs which library: ``"evaluate needs scikit-learn"``.
    extra : str
        The extra of ``pyproject.toml`` that installs it.
    """

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(
            f"{need}; in bonescreen's folder, run: make install EXTRAS={extra} (or: uv tool install '.[{extra}]')"
        )


class PackageError(BonescreenError):
    """A model package is missing or damaged, or its golden outputs do not match."""


class TrainingFailure(BonescreenError):
    """A training run cannot continue, as its loss is not a number."""


class TakenOver(BonescreenError):
    """Another process has taken over this work, as this one did not renew its lease in time."""


class FileFault(BonescreenError):
    """One file cannot be read as a radiograph; other files are not affected.

    Parameters
    ----------
    reason : Reason
        The code stored with the failure.
    detail : str
        One human-readable line; never contains a path, as it may be logged.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class ContainerFault(BonescreenError):
    """A zip or tar cannot be listed completely, so it is skipped; other files are not affected.

    Parameters
    ----------
    reason : SkipReason
        The reason that the scan counts.
    detail : str
        One human-readable line; never contains a path or a member's name, as it may be logged.
    """

    def __init__(self, reason: SkipReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Outage(BonescreenError):
    """Something that the work needs is unavailable; no image is marked as failed because of it."""


class ArchiveOutage(Outage):
    """An archive root is missing, empty or unreadable on this host."""


class DatabaseOutage(Outage):
    """The database does not answer."""


class BrokerOutage(Outage):
    """The broker does not answer."""


class EngineOutage(Outage):
    """The model cannot be loaded on this host, or the device that it ran on failed."""


class StorageOutage(Outage):
    """The disk or the memory is full, or a file cannot be written."""
