"""What an export says of itself: the runs and models that its rows are from, and that they are for research only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from db.run_queries import RunSummary
from xray.vocabulary import RESEARCH_NOTICE


@dataclass(frozen=True)
class About:
    """Where an export's rows are from.

    Attributes
    ----------
    runs : sequence of RunSummary
        The runs that are listed.
    threshold : float or None
        The study threshold that replaced the models' own.
    written_at : datetime
        When it was written, in UTC.
    """

    runs: Sequence[RunSummary]
    threshold: float | None
    written_at: datetime

    @classmethod
    def now(cls, runs: Sequence[RunSummary], threshold: float | None) -> "About":
        """Describe an export that is written now."""
        return cls(runs, threshold, datetime.now(UTC).replace(microsecond=0))

    def facts(self) -> dict[str, str]:
        """Return what is said of the whole export, by name."""
        return {
            "notice": RESEARCH_NOTICE,
            "written_at": self.written_at.isoformat(),
            "bonescreen": version("bonescreen"),
        }

    def run_facts(self) -> list[dict[str, object]]:
        """Return what is said of each run, by name."""
        return [
            {
                "run": run.run,
                "archive": run.archive,
                "state": str(run.state),
                "model": run.model,
                "precision": run.precision,
                "model_digest": run.digest,
                "finding": run.finding,
                "study_threshold": run.study_threshold if self.threshold is None else self.threshold,
                "model_study_threshold": run.study_threshold,
            }
            for run in self.runs
        ]
