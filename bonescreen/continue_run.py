"""Continue a run: read its failed images again, and say what takes its open batches."""

from shlex import quote

from db import ledger
from db.run_queries import RunState, RunSummary
from db.session import Database
from xray.errors import UsageError
from xray.settings import Settings


def retry_failures(database: Database, run: RunSummary) -> int:
    """Let a run's failed images be read again; return how many.

    Raises
    ------
    UsageError
        The run is cancelled.
    """
    if run.state is RunState.CANCELLED:
        raise UsageError(f"run {run.run} is cancelled; first: bonescreen resume {run.run}")
    return ledger.retry(database, run.run)


def next_step(settings: Settings, run: RunSummary) -> str:
    """Say what continues a run that has open batches again."""
    if settings.broker_url is None:
        return f"If no screen is running, run: bonescreen screen {quote(run.root)}"
    return f"Workers continue with it. Watch them with: bonescreen status {run.run}"
