"""Log lines: as text, or as JSON with run, batch and worker for a log collector.

Not JSON are the line that Celery writes past its loggers when a worker is told to stop, and the watchdog's tracebacks.
Lines of INFO never have a path, a patient or a UID, as logs are kept longer and read by more people than the database.
"""

import json
import logging
import re
import time
from typing import Any

from xray.settings import Settings

_OURS = ("bonescreen", "db", "producer", "worker", "xray", "celery", "kombu")
"""The loggers that a level of ``debug`` is for: libraries that read images and headers might log what is in them."""

_NUMBERED = re.compile(r"\b(run|batch|scan)'?:? (\d+)\b")
"""How our lines, and Celery's of a task's result, write the number of a run, batch or scan."""


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON.

    It has ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``role``, ``worker``, ``pid`` and ``message``; ``run``,
    ``batch`` and ``scan`` with the numbers that the message names; ``task`` with the id of Celery's task; and
    ``traceback`` of an error.

    Parameters
    ----------
    role : str
        What the process is: ``worker``, ``feeder``, ``flower`` or ``pages``.
    worker : str
        The name of this host's worker, as `bonescreen status` shows it.
    """

    def __init__(self, role: str, worker: str) -> None:
        super().__init__()
        self._role, self._worker = role, worker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line break."""
        message = record.getMessage()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "role": self._role,
            "worker": self._worker,
            "pid": record.process,
            "message": message,
        }
        # What Celery says of a task that has ended: its message names it, and `data` has its arguments.
        data = getattr(record, "data", None)
        if isinstance(data, dict) and "id" in data:
            line["task"] = data["id"]
        line |= {name: int(number) for name, number in reversed(_NUMBERED.findall(message))}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def formatter(settings: Settings, role: str) -> logging.Formatter:
    """Return the formatter that the settings choose, for a process of a role."""
    if settings.log_format == "json":
        return JsonFormatter(role, settings.worker_signature)
    return logging.Formatter(f"%(asctime)s {role} %(levelname)s %(message)s")


def configure_logging(settings: Settings, role: str) -> None:
    """Send this process's log lines to standard error, in the format and from the level that the settings choose.

    Parameters
    ----------
    settings : Settings
    role : str
        What the process is; part of each line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(settings, role))
    root = logging.getLogger()
    root.handlers = [handler]
    logging.captureWarnings(True)
    set_level(settings)


def set_level(settings: Settings) -> None:
    """Set the level of our loggers and Celery's; others get no lower one than INFO."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.getLogger().setLevel(max(level, logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    logging.getLogger("alembic").setLevel(logging.WARNING)
